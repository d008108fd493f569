"""Jobs of two processes under each framework, as a launcher starts them: one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.services.process import free_port
from tests.trainer_agent.integrations.arrivals import series, the_run
from tests.trainer_agent.integrations.rank_job import LONGER, STEPS, WORLD
from tests.trainer_agent.receiving_server import Store


def run(kind: str, folder: Path) -> None:
    """Run the job to its end; AssertionError with what its processes printed."""
    command = [sys.executable, "-m", "tests.trainer_agent.integrations.rank_job", kind]
    with subprocess.Popen(
        [*command, str(folder), str(free_port())],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as job:
        try:
            output, _ = job.communicate(timeout=150)
        except BaseException:
            os.killpg(job.pid, signal.SIGKILL)
            raise
    assert job.returncode == 0, output


@pytest.mark.parametrize("kind", ["accelerate", "trainer", "lightning"])
def test_two_processes_of_a_framework_are_one_run(kind: str, store: Store, tmp_path: Path) -> None:
    run(kind, tmp_path)

    steps, variance = series(store, the_run(store), "decoder/stream/variance")
    assert len(steps) == STEPS and np.isfinite(variance).all()
    assert store.healths[-1].first_failure == ""
    assert {rank for _, rank in store.frames} == {0}
    assert store.ends[the_run(store)].status == "finished"
    first, second = (np.load(tmp_path / f"weights-{rank}.npz") for rank in range(WORLD))
    assert first.files
    assert all(np.array_equal(first[name], second[name]) for name in first.files)


@pytest.mark.parametrize(
    ("kind", "saved"), [("trainer", "out/checkpoint-{}"), ("lightning", "evenkeel/step-{}.ckpt")]
)
def test_both_processes_of_a_framework_save_and_stop_at_the_same_step(
    kind: str, saved: str, store: Store, tmp_path: Path
) -> None:
    run(f"{kind}-asked", tmp_path)

    files = [tmp_path / f"weights-{rank}.npz" for rank in range(WORLD)]
    first, second = (int(np.load(file)["steps"]) for file in files)
    assert first == second < LONGER
    assert (tmp_path / saved.format(first)).exists()
    assert store.healths[-1].first_failure == ""
