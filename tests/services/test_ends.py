"""What a test starts ends with it, also when the start fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.jobs import Server
from tests.services.process import Process, answers, free_port


def test_process_that_never_answers_is_ended(tmp_path: Path) -> None:
    process = Process(["sleep", "600"], tmp_path / "log")

    with pytest.raises(TimeoutError):
        process.wait_for_port(free_port(), deadline_s=0.05)

    assert not process.alive()


def test_process_that_ends_at_its_start_fails_with_its_log(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "echo broken"], tmp_path / "log")

    with pytest.raises(RuntimeError, match="broken"):
        process.wait_for_port(free_port())


def test_server_of_another_address_is_ended_by_the_start_that_fails(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", 0)  # takes a free port, and so never says this address

    with pytest.raises(AssertionError) as failure:
        server.start()

    (port,) = re.findall(r"127\.0\.0\.1:(\d+)", str(failure.value))[-1:]
    assert not answers(int(port))
