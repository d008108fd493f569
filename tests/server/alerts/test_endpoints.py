"""``/alerts`` over the API, against a whole server."""

from __future__ import annotations

import pytest
from httpx import ASGITransport, AsyncClient

from server.alerts import service
from server.alerts.service import AlertState
from server.app import create_app
from server.settings import Settings
from server.tables import runs as run_table

RUN, OTHER = "c" * 32, "d" * 32
FIELDS = {
    "id", "run_id", "run_name", "rule", "severity", "title", "message", "stack", "site", "quantity",
    "first_layer", "last_layer", "step", "last_step", "measured", "predicted", "unit", "advice",
    "status", "opened_at", "incident",
}  # fmt: skip


@pytest.fixture
async def client(tmp_path, runs, run_row):
    app = create_app(Settings(data_dir=tmp_path))
    async with app.router.lifespan_context(app):
        async with app.state.server.database.writing() as session:
            await session.execute(run_table.insert(), [run_row(RUN), run_row(OTHER)])
            for now, run in enumerate((OTHER, RUN)):
                await service.diagnose(
                    session,
                    run_id=run,
                    alert_state=AlertState(),
                    observations=list(runs["post-ln 24"].observations()),
                    outbox=app.state.outbox,
                    now=float(now),
                )
        transport = ASGITransport(app)
        async with AsyncClient(transport=transport, base_url="http://127.0.0.1/api/v1") as client:
            yield client


async def test_an_alert_has_the_fields_of_the_contract(client):
    answer = await client.get("/alerts", params={"run": RUN})

    assert answer.status_code == 200
    (alert, *_) = answer.json()["alerts"]
    assert set(alert) == FIELDS
    assert set(alert["advice"]["scaling"]) == {"lam", "beta", "n_layers", "snippet"}
    assert alert["run_name"] == "post-ln"


async def test_acknowledging_answers_the_alert_and_keeps(client):
    (alert, *_) = (await client.get("/alerts")).json()["alerts"]

    answer = await client.post(f"/alerts/{alert['id']}/acknowledge")

    assert answer.json() == {**alert, "status": "acknowledged"}
    acknowledged = await client.get("/alerts", params={"status": "acknowledged"})
    assert acknowledged.json()["alerts"] == [answer.json()]


async def test_pages_of_alerts_follow_the_cursor(client):
    first = (await client.get("/alerts", params={"limit": 1})).json()
    second = (
        await client.get("/alerts", params={"limit": 1, "cursor": first["next_cursor"]})
    ).json()

    assert second["next_cursor"] is None
    assert first["alerts"][0]["id"] != second["alerts"][0]["id"]


async def test_an_unknown_alert_is_a_404_that_names_the_field(client):
    answer = await client.post(f"/alerts/{'0' * 32}/acknowledge")

    assert answer.status_code == 404
    assert answer.json()["error"]["field"] == "alert_id"


@pytest.mark.parametrize("wrong", [{"status": "shut"}, {"limit": 0}, {"run": "x"}, {"cursor": "?"}])
async def test_a_wrong_question_is_a_422_that_names_the_field(client, wrong):
    answer = await client.get("/alerts", params=wrong)

    assert answer.status_code == 422
    assert answer.json()["error"]["field"].endswith(next(iter(wrong)))
