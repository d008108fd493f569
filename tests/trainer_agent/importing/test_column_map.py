"""Which series a name belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer_agent.importing import RecordingError
from trainer_agent.importing.column_map import ColumnMap, Place, column_map, parse_rule


def test_a_pattern_matches_its_text_literally() -> None:
    columns = column_map(["a.b[{layer}]=decoder/stream/mean"])

    places = columns.places(["a.b[1]", "axb[2]"])

    assert places == {"a.b[1]": Place("decoder/stream/mean", 1), "axb[2]": Place("/axb[2]/value")}


@pytest.mark.parametrize(
    "text",
    ["loss", "a=b/c", "{layer}/{layer}=a/b/c", "=a/b/c", "a=", "a{layer}=loss", "a{layer}=step"],
)
def test_a_mapping_that_is_none_is_refused_with_its_form(text: str) -> None:
    with pytest.raises(RecordingError, match="NAME=stack/site/quantity"):
        parse_rule(text)


def test_the_first_choice_of_several_names_for_the_loss_is_the_loss() -> None:
    places = ColumnMap().places(["train_loss", "Train/Loss", "LR"])

    assert places == {
        "Train/Loss": Place("/loss/value"),
        "train_loss": Place("/train_loss/value"),
        "LR": Place("/learning_rate/value"),
    }


def test_a_mapped_name_goes_before_a_usual_one() -> None:
    places = column_map(["nll=loss"]).places(["grad_norm", "nll"])

    assert places == {"nll": Place("/loss/value"), "grad_norm": Place("/gradient_norm/value")}


def test_a_usual_name_keeps_off_a_place_that_another_is_mapped_to() -> None:
    places = column_map(["nll=loss"]).places(["train_loss", "nll"])

    assert places["train_loss"] == Place("/train_loss/value")


def test_two_names_in_one_place_are_refused() -> None:
    with pytest.raises(RecordingError, match=r"'a/b' and 'a\.b' would both be '/a\.b/value'"):
        ColumnMap().places(["a/b", "a.b"])


def test_a_rule_of_the_command_line_goes_before_one_of_the_file(tmp_path: Path) -> None:
    names = tmp_path / "names.map"
    names.write_text("x = loss\ny = a/b/c\n")

    columns = column_map(["x=step"], names)

    assert (columns.target("x"), columns.target("y")) == ("step", "a/b/c")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x = loss\nx y z\n", "line 2: 'x y z' maps no name"),
        (b"\xff\xfe", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_map_file_that_is_none_is_named_with_its_line(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    names = tmp_path / "names.map"
    if content is not None:
        names.write_bytes(content)

    with pytest.raises(RecordingError, match=reason):
        column_map([], names)


def test_a_number_that_is_no_layer_makes_no_series_of_that_length() -> None:
    columns = column_map(["loss_{layer}=decoder/stream/variance"])

    with pytest.raises(RecordingError, match="names layer 1700000000"):
        columns.places(["loss_1700000000"])
