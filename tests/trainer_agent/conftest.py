"""One thread per test process: the machine is shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folders() -> dict[str, Path]:
    """Where jobs that have run left what they found."""
    return {}


@pytest.fixture
def run(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Runs a job of two processes, each kind once; returns the folder it wrote to."""
    from tests.trainer_agent.jobs import run_job  # loads torch's distributed parts

    def once(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            run_job(kind, folders[kind])
        return folders[kind]

    return once
