"""Jobs of two processes, or of as many as the kind takes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

from tests.services.process import free_port
from tests.trainer_agent import distributed_job

END_S = 150

_processes = multiprocessing.get_context("forkserver")  # loads torch once for all of them
_processes.set_forkserver_preload(["tests.trainer_agent.distributed_job"])


def run_job(
    kind: str, folder: Path, main: Callable[[str, int, int, Path], None] = distributed_job.main
) -> None:
    """Run a job and wait for it; its processes write to the folder."""
    port = free_port()
    world = distributed_job.PROCESSES.get(kind.removesuffix("-bare"), distributed_job.WORLD)
    ranks = [
        _processes.Process(target=main, args=(kind, rank, port, folder)) for rank in range(world)
    ]
    try:
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(END_S)
            assert rank.exitcode == 0
    finally:  # one that fails leaves the others waiting for it
        for rank in ranks:
            if rank.pid is not None:
                rank.kill()
                rank.join()
