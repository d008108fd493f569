"""What the demo prints of alerts, on a real server's."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from fastapi.testclient import TestClient

from evenkeel.demo.alert_lines import AlertLines
from server.app import create_app
from server.settings import Settings
from tests.services.agent import LAYOUT, batch, frame
from tests.services.process import wait_until
from wire import MEDIA_TYPE, RunDeclaration

URL = "http://127.0.0.1:8321"
EARLIER, RUN = "e" * 32, "a" * 32
CLEARS_AFTER = 20  # steps, of the rule on NaN and Inf


@pytest.fixture
def client(embedded: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(embedded), base_url=f"{URL}/api/v1") as client:
        yield client


def declare(client: TestClient, run_id: str, name: str) -> None:
    declaration = RunDeclaration(project="demo", name=name, layout=LAYOUT)
    answer = client.put(f"/runs/{run_id}", content=msgspec.json.encode(declaration))
    assert answer.status_code == 200, answer.text


def send(client: TestClient, run_id: str, seq: int, loss: float) -> None:
    values = np.ones(LAYOUT.size, dtype=np.float32)
    values[LAYOUT.slices["/loss/value"]] = loss
    answer = client.post(
        f"/runs/{run_id}/frames",
        content=batch([frame(seq, values=values)]),
        headers={"content-type": MEDIA_TYPE},
    )
    assert answer.status_code == 200, answer.text


def diverge(client: TestClient, run_id: str) -> None:
    send(client, run_id, 1, 1.0)
    send(client, run_id, 2, float("nan"))


def next_lines(alerts: AlertLines) -> list[str]:
    lines: list[str] = []
    wait_until(lambda: bool(lines.extend(alerts.new()) or lines), "a line comes")
    return lines


def test_alert_is_one_line_with_its_run_step_title_and_page(client: TestClient) -> None:
    alerts = AlertLines(client, URL)
    declare(client, RUN, "post-ln")

    diverge(client, RUN)

    (line,) = next_lines(alerts)
    assert line.startswith("post-ln, step 2: critical: The loss")
    assert line.endswith(f"  {URL}/runs/{RUN}?step=2")
    assert alerts.new() == []


def test_alert_that_is_resolved_has_another_line(client: TestClient) -> None:
    alerts = AlertLines(client, URL)
    declare(client, RUN, "post-ln")
    diverge(client, RUN)
    next_lines(alerts)

    for step in range(3, 4 + CLEARS_AFTER):
        send(client, RUN, step, 1.0)

    wait_until(
        lambda: any(": resolved: The loss" in line for line in alerts.new()), "it is resolved"
    )


def test_alerts_of_earlier_runs_are_not_printed(client: TestClient) -> None:
    declare(client, EARLIER, "yesterday")
    alerts = AlertLines(client, URL)
    declare(client, RUN, "post-ln")

    diverge(client, EARLIER)
    wait_until(lambda: client.get("/alerts").json()["alerts"] != [], "the earlier run's alert")
    diverge(client, RUN)

    assert [line.split(",")[0] for line in next_lines(alerts)] == ["post-ln"]
