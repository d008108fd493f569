"""Recordings as runs: TensorBoard's event files and evenkeel's own exports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.trainer_agent.receiving_server import Store, serving
from trainer_agent.importing import Recording, ReplayError, read_recording
from trainer_agent.importing.__main__ import main
from trainer_agent.importing.naming import Place, places, rule

tensorboard = pytest.importorskip("tensorboard", reason="tensorboard is not installed")

MAP = "blocks/{layer}/out_var=decoder/stream/variance"


def event_file(
    folder: Path, points: Mapping[str, Mapping[int, float]], *, began: float = 1000.0
) -> Path:
    """A real event file with these scalars: tag -> step -> value."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for tag, values in points.items():
        for step, value in values.items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(step=step, wall_time=began + step, summary=summary))
    writer.close()
    (path,) = folder.glob("*tfevents*")
    return path


def series(recording: Recording) -> dict[str, list[list[float]]]:
    return {one.key: values.tolist() for one, values in recording.series.items()}


def test_scalars_of_an_event_file_become_series_of_one_number(tmp_path: Path) -> None:
    path = event_file(tmp_path, {"train/loss": {0: 3.0, 2: 2.0}, "eval/accuracy": {2: 0.5}})

    found = read_recording(path)

    assert found.steps.tolist() == [0, 2] and found.times.tolist() == [1000.0, 1002.0]
    assert series(found)["/loss/value"] == [[3.0], [2.0]]
    accuracy = series(found)["/eval.accuracy/value"]
    assert np.isnan(accuracy[0][0]) and accuracy[1] == [0.5]


def test_tags_of_layers_become_a_series_over_depth(tmp_path: Path) -> None:
    tags = {f"blocks/{layer}/out_var": {0: layer + 0.5, 1: layer + 0.25} for layer in (0, 1, 3)}
    path = event_file(tmp_path, tags)

    variance = np.array(series(read_recording(path, [MAP]))["decoder/stream/variance"])

    assert variance.shape == (2, 4)
    assert variance[:, [0, 1, 3]].tolist() == [[0.5, 1.5, 3.5], [0.25, 1.25, 3.25]]
    assert np.isnan(variance[:, 2]).all()


def test_a_step_written_twice_keeps_the_later_value(tmp_path: Path) -> None:
    event_file(tmp_path / "a", {"loss": {1: 5.0}}, began=2000.0).rename(tmp_path / "a.tfevents")
    event_file(tmp_path / "b", {"loss": {1: 7.0}}, began=1000.0).rename(tmp_path / "b.tfevents")

    assert series(read_recording(tmp_path)) == {"/loss/value": [[5.0]]}


def test_what_writers_of_torch_record_is_read(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path), max_queue=1) as writer:
        writer.add_scalar("lr", 3e-4, 7)
        writer.add_text("note", "not a number")

    found = read_recording(tmp_path)

    assert found.steps.tolist() == [7]
    assert series(found)["/learning_rate/value"] == [[np.float32(3e-4)]]


def test_a_pattern_matches_its_text_literally() -> None:
    found = places(["a.b[1]", "axb[2]"], [rule("a.b[{layer}]=decoder/stream/mean")])

    assert found["a.b[1]"] == Place("decoder/stream/mean", 1)
    assert found["axb[2]"] == Place("/axb[2]/value")


@pytest.mark.parametrize("given", ["loss", "a=b/c", "{layer}/{layer}=a/b/c", "=a/b/c"])
def test_a_mapping_that_is_none_is_refused_with_its_form(given: str) -> None:
    with pytest.raises(ReplayError, match="NAME=stack/site/quantity"):
        rule(given)


def test_two_tags_in_one_place_are_refused() -> None:
    with pytest.raises(ReplayError, match="'loss' and 'train/loss' would both be"):
        places(["loss", "train/loss"], [])


BAD = {
    "absent.csv": None,
    "text.txt": "hello",
    "foreign.csv": "step,time,loss\r\n1,2,3\r\n",
    "headless.csv": "a,b\r\n1,2\r\n",
    "words.csv": "step,time,/loss/value\r\n1,2,high\r\n",
    "empty.csv": "step,time,/loss/value\r\n",
    "negative.csv": "step,time,/loss/value\r\n-1,2,3\r\n",
    "broken.parquet": "no parquet",
    "broken.tfevents": "no events at all, far from it",
    "void.csv": "",
    "binary.csv": "\udcff",
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_replayed_is_one_line_and_exit_code_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if BAD[name] is not None:
        (tmp_path / name).write_bytes(str(BAD[name]).encode(errors="surrogateescape"))

    assert main([str(tmp_path / name)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evenkeel: ")


def test_the_command_sends_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = event_file(tmp_path, {"loss": {step: step / 10 for step in range(1200)}})
    store = Store()
    with serving(store) as url:
        code = main([str(path), "--server", url, "--run", "old", "--key", "k"])

    (run_id,) = store.layouts
    assert code == 0 and f"{url}/runs/{run_id}" in capsys.readouterr().out
    assert store.seqs(run_id) == list(range(1, 1201))
    assert store.ends[run_id].status == "finished"
    assert (store.declarations[0].name, store.declarations[0].started_at) == ("old", 1000.0)
    assert set(store.keys) == {"Bearer k"}


def test_an_interrupted_replay_goes_on_under_the_same_id(tmp_path: Path) -> None:
    path = event_file(tmp_path, {"loss": {step: step for step in range(10)}})
    store, run_id = Store(), "a" * 32
    with serving(store) as url:
        command = [str(path), "--server", url, "--run-id", run_id]
        main(command)
        for seq in range(6, 11):
            del store.frames[run_id, 0][seq]
        store.durable[run_id, 0] = 5
        store.order.clear()
        main(command)

    assert store.order == [6, 7, 8, 9, 10]


def test_a_server_that_refuses_is_named_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.trainer_agent.receiving_server import refusal

    path = event_file(tmp_path, {"loss": {0: 1.0}})
    store = Store(faults={"declare": [refusal(401, "key", "the key is unknown")]})
    with serving(store) as url:
        assert main([str(path), "--server", url]) == 2

    assert "the key is unknown" in capsys.readouterr().err


def test_a_server_that_is_no_address_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = event_file(tmp_path, {"loss": {0: 1.0}})

    assert main([str(path), "--server", "somewhere"]) == 2
    assert "server: 'somewhere' is no server" in capsys.readouterr().err


def test_replaying_an_export_needs_neither_torch_nor_tensorboard() -> None:
    code = "import trainer_agent.importing.__main__, sys; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"torch", "tensorboard", "pyarrow"} & set(loaded)
