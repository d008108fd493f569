"""Tables of any program as recordings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.trainer_agent.importing.files import absent, series
from trainer_agent.importing import RecordingError, read_recording


def table(folder: Path, text: str, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_an_empty_cell_is_an_absent_value(tmp_path: Path) -> None:
    path = table(tmp_path, "step,train_loss,val_loss\n0,3.5,\n1,,2.5\n2,1.5,\n")

    recording = read_recording(path)

    assert absent(recording)["/loss/value"] == [[False], [True], [False]]
    assert absent(recording)["/val_loss/value"] == [[True], [False], [True]]
    np.testing.assert_equal(series(recording)["/loss/value"], [[3.5], [math.nan], [1.5]])


def test_a_diverged_loss_is_no_absent_one(tmp_path: Path) -> None:
    path = table(tmp_path, "step,loss,lr\n0,3.5,1\n1,nan,1\n2,,1\n")

    assert absent(read_recording(path))["/loss/value"] == [[False], [False], [True]]


def test_an_empty_cell_of_an_export_is_an_absent_value(tmp_path: Path) -> None:
    path = table(tmp_path, "step,time,decoder/stream/mean[0],decoder/stream/mean[1]\n4,9,,0.5\n")

    recording = read_recording(path)

    np.testing.assert_equal(series(recording)["decoder/stream/mean"], [[math.nan, 0.5]])
    assert absent(recording)["decoder/stream/mean"] == [[True, False]]
    assert recording.times.tolist() == [9.0]


@pytest.mark.parametrize("name", ["global_step", "Step", "iter", "trainer/global_step"])
def test_the_step_is_found_under_its_usual_names(name: str, tmp_path: Path) -> None:
    path = table(tmp_path, f"epoch,{name},loss\n0,10,3.0\n0,20,2.0\n")

    recording = read_recording(path)

    assert recording.steps.tolist() == [10, 20]
    assert set(series(recording)) == {"/epoch/value", "/loss/value"}


def test_a_map_names_step_time_and_series(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "n;when;nll;v[0];v[1];junk\n0;2025-01-31T12:00:00;3;1;2;x\n5;2025-01-31T12:00:10;2;3;4;7\n",
    )
    names = table(
        tmp_path,
        "n = step\nwhen = time\nnll = loss\nv[{layer}] = decoder/stream/variance\njunk = -\n",
        "names.map",
    )

    recording = read_recording(path, map_file=names)

    assert recording.steps.tolist() == [0, 5]
    assert np.diff(recording.times).tolist() == [10.0]
    assert series(recording) == {
        "/loss/value": [[3.0], [2.0]],
        "decoder/stream/variance": [[1.0, 2.0], [3.0, 4.0]],
    }


def test_a_time_that_is_a_duration_is_a_number_of_its_own(tmp_path: Path) -> None:
    path = table(tmp_path, "step,time,loss\n0,0.25,3\n1,0.5,2\n")

    assert series(read_recording(path))["/time/value"] == [[0.25], [0.5]]


def test_a_column_of_texts_is_left_out_and_said(tmp_path: Path) -> None:
    path = table(tmp_path, "step,phase,loss\n0,warm,3\n1,,2\n")

    recording = read_recording(path)

    assert set(series(recording)) == {"/loss/value"}
    assert recording.remarks == ("left out as no numbers: phase",)


@pytest.mark.parametrize(
    ("text", "mappings", "reason"),
    [
        ("epoch,loss\n0,1\n", [], r"names no step.* --map 'epoch=step' \(it has 'epoch', 'loss'\)"),
        ("snr,epoch,loss\n5,0,1\n5,1,2\n", [], r"names no step.* --map 'epoch=step'"),
        ("model,error\nsmall,0.5\nlarge,0.25\n", [], "none of its columns holds whole numbers"),
        ("step,loss\n0,1\n1,high\n", [], "line 3: 'high' in 'loss' is no number"),
        ("step,loss\n0.5,1\n", [], "line 2: '0.5' in 'step' is no step"),
        ("step,loss\nnan,1\n", [], "line 2: 'nan' in 'step' is no step"),
        ("step,loss\n1e99,1\n", [], "line 2: '1e99' in 'step' is no step"),
        ("step,loss\n-1,1\n", [], "has the negative step -1"),
        ("step,loss,loss\n0,1,2\n", [], "two columns 'loss'"),
        ("step,loss\n0,1,2\n1,1\n", [], "line 2 has 3 cells where the first line has 2"),
        ("step,when,loss\n0,noon,2\n", ["when=time"], "line 2: 'noon' in 'when' is no time"),
        ("a,b\n0,1\n", ["a=step", "b=step"], "'a' and 'b' are both mapped to the step"),
        ("step,loss\n", [], "holds no entries"),
        ("\n\n", [], "has no names"),
    ],
)
def test_a_table_that_cannot_be_read_is_answered_with_line_and_fix(
    text: str, mappings: list[str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(RecordingError, match=reason):
        read_recording(table(tmp_path, text), mappings)


def test_a_table_that_is_cut_off_is_read_as_far_as_it_goes_on_demand(tmp_path: Path) -> None:
    path = table(tmp_path, "step,loss,lr\n0,3,1\n1,2,1\n2,")

    with pytest.raises(RecordingError, match=r"cut off in line 4; copy it again.* --partial"):
        read_recording(path)
    assert read_recording(path, partial=True).steps.tolist() == [0, 1]
