"""A server without the packages of its extras starts, and names the extra when one is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from server.app import create_app
from server.errors import StartError
from server.outbox.signing import Signer
from server.outbox.targets import target_of
from server.settings import Settings
from tests.services.agent import Agent
from tests.services.serving import running

ROOT = Path(__file__).parents[2]


def _hide(monkeypatch: pytest.MonkeyPatch, package: str, *importers: str) -> None:
    """Make imports of the package fail, as where it is not installed."""
    for name in importers:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)


def test_server_loads_neither_pyarrow_nor_apprise():
    program = "import sys, server.app; print(*{'pyarrow', 'apprise'} & set(sys.modules))"

    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert loaded.stdout.split() == []


async def test_parquet_without_pyarrow_is_refused_by_the_name_of_its_extra(
    embedded: Settings, monkeypatch: pytest.MonkeyPatch
):
    _hide(monkeypatch, "pyarrow", "server.profiles.parquet")
    async with running(create_app(embedded)) as client:
        agent = Agent(client)
        await agent.declare()

        refused = await client.get(agent.path("/export"), params={"format": "parquet"})
        csv = await client.get(agent.path("/export"), params={"format": "csv"})

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["field"]) == (501, "not_installed", "format")
    assert "evenkeel[export]" in error["fix"]
    assert csv.status_code == 200


def test_webhook_without_apprise_stops_the_start_by_the_name_of_its_extra(
    monkeypatch: pytest.MonkeyPatch,
):
    _hide(monkeypatch, "apprise")

    with pytest.raises(StartError, match=r"evenkeel\[notify\]"):
        target_of("mailto://a@example.org", Signer())
