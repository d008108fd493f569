"""``/rules`` over the API, against a whole server: stored, tried, judged, told, ended."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server.access.service import create_key
from server.app import create_app
from server.settings import Settings
from tests.services.agent import STEPS_LAYOUT, Agent, frame, steps_frame, vector
from tests.services.polling import eventually

API = "/api/v1"
BODY: dict[str, Any] = {
    "name": "loss above two",
    "series": "/loss/value",
    "condition": {"kind": "above", "value": 2.0},
}


async def store(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post(f"{API}/rules", json=BODY | changes)
    assert answer.status_code == 201, answer.text
    rule: dict[str, Any] = answer.json()
    return rule


async def declared(client: httpx.AsyncClient, **changes: Any) -> Agent:
    """A run with samples, and with the scalars of steps between them."""
    agent = Agent(client)
    await agent.declare(**changes)
    await agent.declare(layout=STEPS_LAYOUT, **changes)
    return agent


async def alerts_of(client: httpx.AsyncClient, agent: Agent) -> list[dict[str, Any]]:
    answer = await client.get(f"{API}/alerts", params={"run": agent.run_id})
    alerts: list[dict[str, Any]] = answer.json()["alerts"]
    return [alert for alert in alerts if alert["rule"].startswith(("user:", "peer:"))]


async def test_a_rule_is_stored_listed_changed_and_deleted(client: httpx.AsyncClient):
    rule = await store(client)
    listed = (await client.get(f"{API}/rules")).json()
    assert listed["rules"] == [rule] and rule["for_samples"] == 1 and rule["project"] is None

    answer = await client.put(f"{API}/rules/{rule['id']}", json=BODY | {"severity": "critical"})
    changed = answer.json()
    assert (changed["severity"], changed["created_at"]) == ("critical", rule["created_at"])

    assert (await client.delete(f"{API}/rules/{rule['id']}")).status_code == 204
    assert (await client.get(f"{API}/rules")).json()["rules"] == []
    assert (await client.delete(f"{API}/rules/{rule['id']}")).status_code == 404


async def test_presets_and_built_in_rules_are_listed(client: httpx.AsyncClient):
    listed = (await client.get(f"{API}/rules")).json()

    names = {preset["name"] for preset in listed["presets"]}
    assert names == {"wandb_z_score", "olmo_six_sigma", "zclip", "kill_loss_spike"}
    assert not any(preset["switched_on"] for preset in listed["presets"])
    assert {"name": "nonfinite", "opens_after": 1, "clears_after": 20} in listed["built_in"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"series": "loss"}, "series"),
        ({"series": None}, "series"),
        ({"condition": {"kind": "above"}}, "condition.above.value"),
        ({"condition": {"kind": "sideways"}}, "condition"),
        ({"condition": {"kind": "rises", "factor": 0.5}}, "condition.rises.factor"),
        ({"condition": {"kind": "outside_band"}}, "series"),
        ({"condition": {"kind": "preset", "preset": "zclip"}}, "series"),
        ({"condition": {"kind": "preset", "preset": "nobody"}}, "condition.preset.preset"),
        ({"layers": {"first": 3, "last": 1}}, "layers"),
        ({"for_samples": 0}, "for_samples"),
        ({"severity": "fatal"}, "severity"),
        ({"tags": ["a", " "]}, "tags[1]"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_what_is_no_rule_is_refused_by_its_field(
    client: httpx.AsyncClient, changes: dict[str, Any], field: str
):
    answer = await client.post(f"{API}/rules", json=BODY | changes)

    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (422, field)
    assert error["message"] and error["fix"]


async def test_a_rule_opens_an_alert_and_an_incident_like_the_built_in_ones(
    client: httpx.AsyncClient,
):
    rule = await store(client, advice="Ask Ada.", for_samples=3)
    agent = await declared(client)

    await agent.send(
        [frame(1, values=vector(1, loss=1.0)), steps_frame(2, 5, [1.0, 3.0, 3.0, 3.0])]
    )

    (alert,) = await eventually(lambda: alerts_of(client, agent), bool)
    assert (alert["rule"], alert["title"]) == (f"user:{rule['id']}", "loss above two")
    assert (alert["step"], alert["advice"]["text"]) == (5, "Ask Ada.")
    assert alert["message"] == "At step 5 the loss is 3, above 2."
    incident = (await client.get(f"{API}/incidents/{alert['incident']}")).json()
    assert (incident["rule"], incident["first_step"]) == (alert["rule"], 3)


async def test_deleting_a_rule_resolves_its_alerts_of_runs_that_have_ended(
    client: httpx.AsyncClient,
):
    rule = await store(client)
    agent = await declared(client)
    await agent.send([frame(1, values=vector(1, loss=3.0))])
    (alert,) = await eventually(lambda: alerts_of(client, agent), bool)

    await client.delete(f"{API}/rules/{rule['id']}")

    (alert,) = await alerts_of(client, agent)
    assert alert["status"] == "resolved"
    incident = (await client.get(f"{API}/incidents/{alert['incident']}")).json()
    assert incident["status"] == "resolved"


async def test_a_rule_of_another_project_or_tag_does_not_judge(client: httpx.AsyncClient):
    await store(client, project="other")
    await store(client, tags=["big"])
    small = await declared(client, name="small")
    big = await declared(client, name="big", tags=("big",))

    for agent in (small, big):
        await agent.send([frame(1, values=vector(1, loss=3.0))])

    assert len(await eventually(lambda: alerts_of(client, big), bool)) == 1
    assert await alerts_of(client, small) == []


async def test_a_rule_is_tried_on_a_stored_run_before_it_is_stored(client: httpx.AsyncClient):
    agent = await declared(client)
    losses = [1.0, 3.0, 3.0, *[1.0] * 30, 4.0]
    await agent.send([frame(1, values=vector(1, loss=1.0)), steps_frame(2, 35, losses)])
    body = {"run": agent.run_id, "rule": BODY | {"for_samples": 2, "clear_samples": 5}}

    async def trial() -> dict[str, Any]:
        answer = await client.post(f"{API}/rules/test", json=body)
        assert answer.status_code == 200, answer.text
        tried: dict[str, Any] = answer.json()
        return tried

    tried = await eventually(trial, lambda answer: answer["judged"] == 35)
    assert (tried["first_step"], tried["last_step"], tried["note"]) == (1, 35, "")
    (firing,) = tried["firings"]
    assert (firing["began"], firing["step"], firing["resolved"]) == (3, 4, 9)
    assert (await client.get(f"{API}/rules")).json()["rules"] == []
    assert await alerts_of(client, agent) == []


async def test_a_trial_says_why_it_judged_nothing(client: httpx.AsyncClient):
    agent = await declared(client)
    await agent.send([frame(1), frame(2)])
    band = {"condition": {"kind": "outside_band"}, "series": "decoder/stream/variance"}

    async def note(rule: dict[str, Any]) -> str:
        body = {"run": agent.run_id, "rule": BODY | rule}
        answer = (await client.post(f"{API}/rules/test", json=body)).json()
        text: str = answer["note"]
        return text

    async def of_band() -> str:
        return await note(band)

    assert "no curve" in await eventually(of_band, lambda text: "no curve" in text)
    rises = {"condition": {"kind": "rises", "factor": 2.0, "window": 9}}
    assert "the rule looks at 9 before" in await note(rises)
    unknown = {"run": agent.run_id, "rule": BODY | {"series": "decoder/nothing/here"}}
    answer = await client.post(f"{API}/rules/test", json=unknown)
    assert (answer.status_code, answer.json()["error"]["field"]) == (404, "rule.series")
    elsewhere = await client.post(f"{API}/rules/test", json={"run": "0" * 32, "rule": BODY})
    assert elsewhere.status_code == 404


@pytest.fixture
def peers(embedded: Settings) -> FastAPI:
    return create_app(embedded.model_copy(update={"peer_rules": ("olmo_six_sigma",)}))


async def test_a_preset_of_the_settings_judges_every_run_under_its_own_name(peers: FastAPI):
    transport = httpx.ASGITransport(peers)
    async with (
        peers.router.lifespan_context(peers),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        agent = await declared(client)
        losses = [2.0 + 0.01 * (step % 3) for step in range(140)]
        await agent.send(
            [frame(1, values=vector(1, loss=2.0)), steps_frame(2, 142, [*losses, 2.5])]
        )

        (alert,) = await eventually(lambda: alerts_of(client, agent), bool)
        listed = (await client.get(f"{API}/rules")).json()

    assert (alert["rule"], alert["title"]) == ("peer:olmo_six_sigma", "OLMo-core: six sigma")
    assert alert["step"] == 142
    assert [each["name"] for each in listed["presets"] if each["switched_on"]] == ["olmo_six_sigma"]


async def test_a_key_of_one_project_makes_rules_for_that_project_alone(embedded: Settings):
    app = create_app(embedded.model_copy(update={"require_keys": True}))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        database = app.state.server.database
        keys = {
            "all": await create_key(database, scopes=["admin"]),
            "mine": await create_key(database, scopes=["admin"], project="mine"),
            "reader": await create_key(database, scopes=["read"], project="mine"),
        }

        async def ask(name: str, method: str, path: str, **more: Any) -> httpx.Response:
            headers = {"authorization": f"Bearer {keys[name]}"}
            return await client.request(method, f"{API}{path}", headers=headers, **more)

        general = (await ask("all", "POST", "/rules", json=BODY)).json()
        own = (await ask("mine", "POST", "/rules", json=BODY)).json()
        theirs = await ask("mine", "POST", "/rules", json=BODY | {"project": "theirs"})
        read_only = await ask("reader", "POST", "/rules", json=BODY)
        listed = (await ask("reader", "GET", "/rules")).json()["rules"]
        deleted = await ask("mine", "DELETE", f"/rules/{general['id']}")

    assert (general["project"], own["project"]) == (None, "mine")
    assert (theirs.status_code, read_only.status_code, deleted.status_code) == (403, 403, 404)
    assert [rule["id"] for rule in listed] == [general["id"], own["id"]]
