"""Log lines of a server process, ours and those of its libraries, have one form."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from server import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is the whole process's: give back what other tests had."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _write() -> None:
    structlog.get_logger("server.workers").warning("worker_failed", worker="writer")
    logging.getLogger("sqlalchemy.pool").error("no %s", "socket")
    logging.getLogger("sqlalchemy.engine").info("SELECT 1")


def test_json_lines_are_one_object_each_from_every_library(capsys: pytest.CaptureFixture[str]):
    logs.configure("json")

    _write()

    ours, theirs = map(json.loads, capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["worker"], ours["level"]) == ("worker_failed", "writer", "warning")
    assert (theirs["event"], theirs["logger"]) == ("no socket", "sqlalchemy.pool")
    assert ours["timestamp"] and theirs["timestamp"]


def test_console_lines_are_text_with_the_fields(capsys: pytest.CaptureFixture[str]):
    logs.configure("console")

    _write()

    ours, theirs = capsys.readouterr().err.splitlines()
    assert "worker_failed" in ours and "worker=writer" in ours
    assert "no socket" in theirs


def test_failure_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]):
    logs.configure("json")

    try:
        raise RuntimeError("torn")
    except RuntimeError:
        structlog.get_logger("server").exception("failed")

    assert "RuntimeError: torn" in json.loads(capsys.readouterr().err)["exception"]
