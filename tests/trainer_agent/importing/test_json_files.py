"""JSON logs as recordings: those of transformers' Trainer, and those of any program."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from tests.trainer_agent.importing.files import jsonl, series, trainer_state
from trainer_agent.importing import RecordingError, read_recording

HISTORY = [
    {"epoch": 0.5, "grad_norm": 2.5, "learning_rate": 1e-3, "loss": 3.0, "step": 10},
    {"epoch": 0.5, "eval_loss": 2.75, "eval_runtime": 0.1, "step": 10},
    {"epoch": 1.0, "grad_norm": 1.5, "learning_rate": 5e-4, "loss": 2.0, "step": 20},
    {"epoch": 1.0, "step": 20, "total_flos": 1e15, "train_loss": 2.5, "train_runtime": 9.0},
]


def test_the_history_of_a_trainer_is_its_loss_rate_norm_and_evaluations(tmp_path: Path) -> None:
    recording = read_recording(trainer_state(tmp_path / "trainer_state.json", HISTORY))

    assert recording.steps.tolist() == [10, 20]
    values = series(recording)
    assert values["/loss/value"] == [[3.0], [2.0]]
    assert values["/gradient_norm/value"] == [[2.5], [1.5]]
    assert values["/learning_rate/value"] == [[np.float32(1e-3)], [np.float32(5e-4)]]
    np.testing.assert_equal(values["/eval_loss/value"], [[2.75], [math.nan]])


def test_the_summary_of_a_training_is_no_number_of_its_last_step(tmp_path: Path) -> None:
    recording = read_recording(trainer_state(tmp_path / "trainer_state.json", HISTORY))

    assert not any("train_" in key or "flos" in key for key in series(recording))


def test_a_state_that_the_trainer_saves_is_its_own_log(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    state = transformers.TrainerState(log_history=HISTORY, global_step=20)
    state.save_to_json(str(tmp_path / "trainer_state.json"))

    values = series(read_recording(tmp_path / "trainer_state.json"))

    assert values["/loss/value"] == [[3.0], [2.0]]


def test_a_folder_of_checkpoints_is_the_newest_under_the_folder_s_name(tmp_path: Path) -> None:
    folder = tmp_path / "gpt-small"
    trainer_state(folder / "checkpoint-9" / "trainer_state.json", HISTORY[:1])
    trainer_state(folder / "checkpoint-20" / "trainer_state.json", HISTORY)

    recording = read_recording(folder)

    assert (recording.name, recording.steps.tolist()) == ("gpt-small", [10, 20])


def test_a_log_without_times_has_that_of_its_file(tmp_path: Path) -> None:
    path = trainer_state(tmp_path / "trainer_state.json", HISTORY)
    os.utime(path, (1.5e9, 1.5e9))

    assert read_recording(path).times.tolist() == [1.5e9, 1.5e9]


def test_a_diverged_loss_is_read_as_json_writers_write_it(tmp_path: Path) -> None:
    path = trainer_state(tmp_path / "s.json", [{"step": 1, "loss": math.nan, "lr": math.inf}])

    values = series(read_recording(path))

    np.testing.assert_equal(values["/loss/value"], [[math.nan]])
    assert values["/learning_rate/value"] == [[math.inf]]


def test_lines_of_objects_are_read_with_nested_names_lists_and_numbers_in_quotes(
    tmp_path: Path,
) -> None:
    entries = [
        {"iter": 0, "train": {"loss": 3.0}, "var": [1.0, 2.0, 4.0], "lr": "0.5", "note": None},
        {"iter": 2, "train": {"loss": 2.0}, "var": [1.5, 2.5], "event": "saved"},
    ]
    path = jsonl(tmp_path / "log.jsonl", entries)

    recording = read_recording(path, ["var=decoder/stream/variance"])

    values = series(recording)
    assert values["/loss/value"] == [[3.0], [2.0]]
    np.testing.assert_equal(values["/learning_rate/value"], [[0.5], [math.nan]])
    np.testing.assert_equal(
        values["decoder/stream/variance"], [[1.0, 2.0, 4.0], [1.5, 2.5, math.nan]]
    )
    assert recording.remarks == ("left out as no numbers: event",)


def test_an_array_of_objects_is_a_log(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    path.write_text(json.dumps(HISTORY[:3:2]))

    assert series(read_recording(path))["/loss/value"] == [[3.0], [2.0]]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", '{"log_history": [{"step": 1', "is no whole JSON.*copy it again"),
        ("a.json", '{"log_history": []}', "empty log_history"),
        ("a.json", '{"log_history": [3]}', "entry 1 is no JSON object"),
        ("a.json", '{"lr": 3}', "neither a trainer_state.json .* nor a JSON array"),
        ("a.json", "[" * 100_000, "is no whole JSON|nests its values too deeply"),
        ("a.jsonl", '{"step": 1, "loss": 2}\n{"step": 2, "lo', "cut off in line 2"),
        ("a.jsonl", '{"step": 1}\n{"st\n{"step": 2}\n', "line 2 is no JSON"),
        ("a.jsonl", "[1, 2]\n", "line 1 is no JSON object"),
        ("a.jsonl", '{"loss": 2}\n', "names no step"),
        ("a.jsonl", '{"step": 1, "loss": "high"}\n{"step": 2, "loss": 1}\n', "line 1: 'high'"),
    ],
)
def test_a_log_that_cannot_be_read_is_answered_with_place_and_fix(
    name: str, content: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)

    with pytest.raises(RecordingError, match=reason):
        read_recording(path)


def test_a_text_file_of_json_lines_is_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(
        '{"train_lr": 0.5, "train_loss": 6.5, "epoch": 0}\n'
        '{"train_lr": 0.25, "train_loss": 5.5, "epoch": 1}\n'
    )

    recording = read_recording(path, ["epoch=step"])

    assert recording.steps.tolist() == [0, 1]
    values = series(recording)
    assert values["/loss/value"] == [[6.5], [5.5]]
    assert values["/learning_rate/value"] == [[0.5], [0.25]]


def test_a_text_file_of_anything_else_is_none_of_what_can_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("step 1 loss 6.5\n")

    with pytest.raises(RecordingError, match="none of what can be imported"):
        read_recording(path)


def test_lines_that_are_cut_off_are_read_as_far_as_they_go_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo')

    assert read_recording(path, partial=True).steps.tolist() == [1]
