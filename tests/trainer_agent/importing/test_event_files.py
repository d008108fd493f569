"""TensorBoard's event files as recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.trainer_agent.importing.files import event_file, series
from trainer_agent.importing import RecordingError, read_recording

pytest.importorskip("tensorboard", reason="tensorboard is not installed")

MAP = "blocks/{layer}/out_var=decoder/stream/variance"


def test_scalars_of_an_event_file_become_series_of_one_number(tmp_path: Path) -> None:
    path = event_file(tmp_path, {"train/loss": {0: 3.0, 2: 2.0}, "eval/accuracy": {2: 0.5}})

    recording = read_recording(path)

    assert recording.steps.tolist() == [0, 2]
    assert recording.times.tolist() == [1000.0, 1002.0]
    assert series(recording)["/loss/value"] == [[3.0], [2.0]]
    accuracy = series(recording)["/eval.accuracy/value"]
    assert np.isnan(accuracy[0][0]) and accuracy[1] == [0.5]


def test_tags_of_layers_become_a_series_over_depth(tmp_path: Path) -> None:
    tags = {f"blocks/{layer}/out_var": {0: layer + 0.5, 1: layer + 0.25} for layer in (0, 1, 3)}
    path = event_file(tmp_path, tags)

    variance = np.array(series(read_recording(path, [MAP]))["decoder/stream/variance"])

    assert variance.shape == (2, 4)
    assert variance[:, [0, 1, 3]].tolist() == [[0.5, 1.5, 3.5], [0.25, 1.25, 3.25]]
    assert np.isnan(variance[:, 2]).all()


def test_tags_of_any_naming_are_mapped_by_a_file(tmp_path: Path) -> None:
    tags = ("Loss (nats)", "grads/L00 |g|", "grads/L01 |g|", "scratch")
    path = event_file(tmp_path, {tag: {1: float(n)} for n, tag in enumerate(tags)})
    names = tmp_path / "names.map"
    names.write_text(
        "# what this project's tags mean\n\n"
        "Loss (nats) = loss\n"
        "grads/L{layer} |g| = decoder/stream_gradient/variance\n"
        "scratch = -\n"
        "never logged = loss\n"
    )

    recording = read_recording(path, map_file=names)

    assert series(recording) == {
        "/loss/value": [[0.0]],
        "decoder/stream_gradient/variance": [[1.0, 2.0]],
    }
    assert recording.remarks == ("no tag fits 'never logged = loss'",)


def test_a_step_written_twice_keeps_the_later_value(tmp_path: Path) -> None:
    event_file(tmp_path / "a", {"loss": {1: 5.0}}, began=2000.0).rename(tmp_path / "a.tfevents")
    event_file(tmp_path / "b", {"loss": {1: 7.0}}, began=1000.0).rename(tmp_path / "b.tfevents")

    assert series(read_recording(tmp_path)) == {"/loss/value": [[5.0]]}


def test_scalars_that_torch_writes_are_read_and_texts_left_out(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path), max_queue=1) as writer:
        writer.add_scalar("lr", 3e-4, 7)
        writer.add_text("note", "not a number")

    recording = read_recording(tmp_path)

    assert recording.steps.tolist() == [7]
    assert series(recording) == {"/learning_rate/value": [[np.float32(3e-4)]]}


def test_a_file_that_ends_within_a_record_is_read_as_far_as_it_goes_on_demand(
    tmp_path: Path,
) -> None:
    path = event_file(tmp_path, {"loss": dict.fromkeys(range(5), 1.0)})
    path.write_bytes(path.read_bytes()[:-7])

    with pytest.raises(RecordingError, match=r"cut off in the midst of a record.* --partial"):
        read_recording(path)
    assert read_recording(path, partial=True).steps.tolist() == [0, 1, 2, 3]
