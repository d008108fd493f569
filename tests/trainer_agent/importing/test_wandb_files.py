"""W&B's offline runs as recordings, written by ``wandb`` itself."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.trainer_agent.importing.files import series
from trainer_agent.importing import RecordingError, read_recording
from trainer_agent.importing.__main__ import main
from trainer_agent.importing.wandb_records import read_records

pytestmark = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
STEPS = 40
MAP = ["depth=decoder/stream/variance"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of an offline run."""
    folder = tmp_path_factory.mktemp("wandb")
    folders = {f"WANDB_{name}_DIR": str(folder / name) for name in ("CONFIG", "CACHE", "DATA")}
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("wandb_job.py")), str(folder), str(STEPS)],
        check=True,
        env={**os.environ, **folders, "WANDB_SILENT": "true"},
        timeout=120,
    )
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return path


def test_the_history_is_read_at_the_program_s_own_steps(log: Path) -> None:
    recording = read_recording(log, MAP)

    assert recording.steps.tolist() == [10 * step for step in range(STEPS + 1)]
    values = series(recording)
    expected = [[np.nan if step == 7 else np.float32(4.0 - step / STEPS)] for step in range(STEPS)]
    np.testing.assert_equal(values["/loss/value"], [*expected, [np.nan]])
    assert values["/stream.variance/value"][:STEPS] == [[float(step)] for step in range(STEPS)]
    assert values["decoder/stream/variance"][:STEPS] == [[1.0, float(n)] for n in range(STEPS)]
    assert values["/eval.loss/value"][STEPS] == [3.0]


def test_nothing_but_numbers_is_read(log: Path) -> None:
    recording = read_recording(log, MAP)

    assert set(series(recording)) == {
        "/loss/value",
        "/learning_rate/value",
        "/stream.variance/value",
        "/eval.loss/value",
        "decoder/stream/variance",
    }
    assert recording.remarks == ("left out as no numbers: note",)


def test_the_run_keeps_its_project_name_settings_and_times(log: Path) -> None:
    recording = read_recording(log.parent)

    assert (recording.project, recording.name) == ("wide", "post-ln")
    assert recording.config == {"lr": 0.001, "model": {"layers": 2}}
    assert 1.7e9 < recording.times[0] <= recording.times[-1]


def test_w_b_s_own_count_is_the_step_where_that_is_asked_for(log: Path) -> None:
    assert read_recording(log, ["_step=step"]).steps.tolist() == list(range(STEPS + 1))


def test_a_log_cut_off_anywhere_is_answered_or_read_as_far_as_it_goes(
    log: Path, tmp_path: Path
) -> None:
    content = log.read_bytes()
    n_records = len(list(read_records(log)))
    cut = tmp_path / "run-cut.wandb"
    rng = np.random.default_rng(0)

    for size in rng.integers(8, len(content) - 1, 60).tolist():
        cut.write_bytes(content[:size])
        assert len(list(read_records(cut, partial=True))) < n_records
        assert main([str(cut), "--dry-run"]) == 2


def test_the_partial_history_of_a_killed_job_is_that_of_its_first_steps(
    log: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "run-cut.wandb"
    content = log.read_bytes()
    cut.write_bytes(content[: len(content) // 2])

    recording = read_recording(cut, MAP, partial=True)

    n = len(recording.steps)
    assert 5 < n < STEPS
    assert series(recording)["/loss/value"][:7] == series(read_recording(log))["/loss/value"][:7]


def test_a_damaged_log_is_named_with_the_place(log: Path, tmp_path: Path) -> None:
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "run-damaged.wandb"
    damaged.write_bytes(content)

    with pytest.raises(RecordingError, match=r"damaged at byte \d+; copy it again"):
        read_recording(damaged)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"SQLite format 3\0", "is no W&B log"),
        (b":W&B", "is no W&B log"),
        (b":W&B\xe1\xbe\x07", "of version 7, and version 0 is read here"),
        (b":W&B\xe1\xbe\x00", "holds no history"),
    ],
)
def test_a_file_that_is_no_w_b_log_is_answered(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    path.write_bytes(content)

    with pytest.raises(RecordingError, match=reason):
        read_recording(path)
