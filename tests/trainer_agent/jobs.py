"""Jobs of two processes, or of as many as the kind takes."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from pathlib import Path

from tests.trainer_agent import distributed_job

_processes = multiprocessing.get_context("forkserver")  # loads torch once for all of them
_processes.set_forkserver_preload(["tests.trainer_agent.distributed_job"])


def run_job(
    kind: str, folder: Path, main: Callable[[str, int, int, Path], None] = distributed_job.main
) -> None:
    """Run a job and wait for it; its processes write to the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = distributed_job.PROCESSES.get(kind.removesuffix("-bare"), distributed_job.WORLD)
    ranks = [
        _processes.Process(target=main, args=(kind, rank, port, folder)) for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        assert rank.exitcode == 0
