import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import Layout, Series, WireError
from wire.layout import MAX_VALUES

series = st.builds(
    Series,
    stack=st.sampled_from(["", "encoder", "decoder"]),
    site=st.text(min_size=1, max_size=8),
    quantity=st.text(min_size=1, max_size=8),
    n=st.integers(1, 50),
)
layouts = st.lists(series, min_size=1, max_size=12, unique_by=lambda column: column.key).map(
    lambda declared: Layout(tuple(declared))
)


@given(layouts)
def test_slices_cover_the_frame_once_and_in_order(layout: Layout) -> None:
    covered = [
        index for columns in layout.slices.values() for index in range(*columns.indices(10**6))
    ]

    assert covered == list(range(layout.size))


@given(layouts)
def test_a_layout_keeps_its_hash_through_json(layout: Layout) -> None:
    received = msgspec.json.decode(msgspec.json.encode(layout), type=Layout)

    assert received.hash == layout.hash


@given(layouts, layouts)
def test_different_layouts_have_different_hashes(layout: Layout, other: Layout) -> None:
    assert (layout.hash == other.hash) == (layout.series == other.series)


@pytest.mark.parametrize(
    ("declared", "field"),
    [
        ((), "layout.series"),
        ((Series("", "loss", "value", 0),), "layout.series[0].n"),
        ((Series("", "loss", "value", 1),) * 2, "layout.series"),
        ((Series("", "loss", "value", MAX_VALUES), Series("", "b", "value", 1)), "layout.series"),
    ],
)
def test_an_impossible_layout_is_refused(declared: tuple[Series, ...], field: str) -> None:
    with pytest.raises(WireError) as caught:
        Layout(declared).validate()

    assert caught.value.field == field
    assert caught.value.fix
