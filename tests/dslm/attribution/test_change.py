"""Changes split into causes without remainder, in any order."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dslm.attribution.change import (
    Change,
    UndefinedError,
    aligned_sum,
    appearing,
    log_mean,
    product,
    ratio,
    total,
    with_bias,
)

POSITIVE = st.floats(1e-6, 1e6)
COSINE = st.floats(-0.3, 0.9)  # any lower, and three vectors or more may cancel each other
PAIRS = st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=4)


def changes(pairs: list[tuple[float, float]]) -> list[Change]:
    return [ratio(a, b, (f"part {i}", "weights")) for i, (a, b) in enumerate(pairs)]


def sum_at(rho: float, addends: list[float]) -> float:
    """The variance of a sum whose addends meet at one angle."""
    return sum(addends) + 2 * rho * sum(math.sqrt(a * b) for a, b in combinations(addends, 2))


def explained(change: Change) -> float:
    return sum(change.causes.values())


def close(change: Change) -> bool:
    return explained(change) == pytest.approx(change.log_ratio, rel=1e-9, abs=1e-9)


@given(PAIRS)
def test_causes_of_products_and_sums_add_up_to_the_ratio(pairs: list[tuple[float, float]]) -> None:
    addends = changes(pairs)

    assert close(product(*addends))
    assert close(total(addends))


@given(PAIRS, COSINE, COSINE)
def test_causes_of_an_aligned_sum_add_up_to_its_ratio(
    pairs: list[tuple[float, float]], before: float, after: float
) -> None:
    sums = [
        sum_at(before, [pair[0] for pair in pairs]),
        sum_at(after, [pair[1] for pair in pairs]),
    ]

    assert close(aligned_sum(changes(pairs), *sums, ("stream", "alignment")))


@given(PAIRS)
def test_the_order_of_addends_does_not_matter(pairs: list[tuple[float, float]]) -> None:
    addends = changes(pairs)
    before, after = (2 * sum(pair[i] for pair in pairs) for i in (0, 1))

    results = [
        aligned_sum(order, before, after, ("stream", "alignment")).causes
        for order in permutations(addends)
    ]

    assert all(result == pytest.approx(results[0], rel=1e-6, abs=1e-9) for result in results)


@given(PAIRS)
def test_a_sum_of_sums_is_the_sum_of_all(pairs: list[tuple[float, float]]) -> None:
    first, *others = changes(pairs)

    nested = total([first, total(others)])

    assert nested.causes == pytest.approx(total([first, *others]).causes, rel=1e-6, abs=1e-9)


@given(POSITIVE, POSITIVE, st.floats(-0.9, 0.9), st.floats(0.1, 10.0))
def test_addends_that_grow_at_one_angle_have_no_alignment(
    a: float, b: float, rho: float, factor: float
) -> None:
    addends = [ratio(a, a, ("a", "weights")), ratio(b, b * factor**2, ("b", "weights"))]
    before, after = (x + y + 2 * rho * math.sqrt(x * y) for x, y in ((a, b), (a, b * factor**2)))

    terms = aligned_sum(addends, before, after, ("stream", "alignment")).by_term()

    assert terms["alignment"] == pytest.approx(0.0, abs=1e-6)
    assert terms["weights"] == pytest.approx(math.log(after / before), abs=1e-6)


def test_an_angle_that_changes_is_alignment_alone() -> None:
    addends = [ratio(2.0, 2.0, ("a", "weights")), ratio(3.0, 3.0, ("b", "weights"))]

    change = aligned_sum(addends, 5.0, 8.0, ("stream", "alignment"))

    assert change.by_term()["alignment"] == pytest.approx(math.log(8 / 5))


def test_a_bias_and_a_branch_that_were_zero_are_counted_whole() -> None:
    weights = ratio(2.0, 4.0, ("map", "weights"))

    biased = with_bias(weights, 0.0, 1.0, ("map", "norms"))
    born = aligned_sum(
        [ratio(2.0, 2.0, ("stream", "entering")), appearing(0.0, 1.0, ("map", "weights"))],
        2.0,
        3.5,
        ("stream", "alignment"),
    )

    assert close(biased) and biased.by_term()["norms"] > 0
    assert close(born)
    assert born.by_term()["weights"] == pytest.approx(math.log(3.5 / 2) / 1.5)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_ratio_of_what_is_no_variance_is_refused(value: float) -> None:
    with pytest.raises(UndefinedError):
        ratio(1.0, value, ("part", "weights"))
    with pytest.raises(UndefinedError):
        aligned_sum([Change(1.0, 1.0)], value, 1.0, ("stream", "alignment"))


@given(POSITIVE, POSITIVE)
def test_the_logarithmic_mean_lies_between_the_others(u: float, v: float) -> None:
    mean = log_mean(u, v)

    assert math.sqrt(u * v) * (1 - 1e-9) <= mean <= (u + v) / 2 * (1 + 1e-9)
    assert mean == pytest.approx(log_mean(v, u))
