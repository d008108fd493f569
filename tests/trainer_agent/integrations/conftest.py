from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer_agent.receiving_server import Store, serving


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """What arrives at the server that the environment names."""
    store = Store()
    with serving(store) as url:
        monkeypatch.setenv("EVENKEEL_URL", url)
        monkeypatch.setenv("EVENKEEL_SPOOL_DIR", str(tmp_path / "spool"))
        yield store
