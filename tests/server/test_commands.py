"""What the server asks of a running job: a fresh description, when somebody wants one."""

from __future__ import annotations

import msgspec

from tests.services.agent import Agent, frame, vector
from tests.services.polling import eventually
from wire import AlertNotice, Command, FramesReceipt, RunEnd, SpecRevision


async def commands(agent: Agent) -> list[Command]:
    """What a heartbeat is answered."""
    receipt: FramesReceipt = await agent.send([])
    return receipt.commands


async def describe(agent: Agent) -> str:
    answer = await agent.client.post(agent.path("/describe"))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def revise(agent: Agent, step: int) -> None:
    body = msgspec.json.encode(SpecRevision(step=step, spec={"of": step}))
    assert (await agent.client.put(agent.path("/spec"), content=body)).status_code == 204


async def test_a_description_is_asked_for_until_it_comes(agent: Agent):
    assert await commands(agent) == []

    asked = await describe(agent)

    assert await commands(agent) == await commands(agent) == [Command(asked, "describe")]
    await revise(agent, 3)
    assert await commands(agent) == []


async def test_asking_again_is_another_command(agent: Agent):
    first, second = await describe(agent), await describe(agent)

    assert first != second
    assert await commands(agent) == [Command(second, "describe")]


async def test_an_alert_that_opens_asks_for_a_description(agent: Agent):
    await agent.send([frame(1)])
    assert await commands(agent) == []

    await agent.send([frame(2, values=vector(2, loss=float("nan")))])

    asked = await eventually(lambda: commands(agent), bool)
    assert [command.kind for command in asked] == ["describe", "burst"]  # a NaN loss is critical
    assert (asked[1].steps, asked[1].layers) == (32, ())


async def test_a_run_that_has_ended_is_not_asked(agent: Agent):
    ended = msgspec.json.encode(RunEnd(status="finished"))
    await agent.client.post(agent.path("/end"), content=ended)

    answer = await agent.client.post(agent.path("/describe"))

    assert answer.status_code == 409
    assert answer.json()["error"]["field"] == "run_id"


async def burst(agent: Agent, **request: object) -> str:
    answer = await agent.client.post(agent.path("/burst"), json=request)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def test_a_burst_is_asked_for_until_the_agent_has_heard_of_it(agent: Agent):
    asked = await burst(agent, steps=8, layers=[0, 3])
    command = Command(asked, "burst", steps=8, layers=(0, 3))

    assert await commands(agent) == await commands(agent) == [command]
    assert (await agent.send([], burst="another")).commands == [command]
    assert (await agent.send([], burst=asked, burst_left=8)).commands == []
    assert await commands(agent) == []
    health = (await agent.get())["health"]["0"]
    assert set(health) >= {"burst_left", "burst_note"}


async def test_a_burst_that_cannot_be_is_refused_by_its_field(agent: Agent):
    answers = [
        await agent.client.post(agent.path("/burst"), json=request)
        for request in ({"steps": 0}, {"steps": 257}, {"layers": [-1]}, {"colour": "red"})
    ]

    assert [answer.status_code for answer in answers] == [422] * 4
    fields = [answer.json()["error"]["field"] for answer in answers]
    assert fields == ["steps", "steps", "layers[0]", "colour"]


async def test_a_run_that_has_ended_is_asked_for_no_burst(agent: Agent):
    ended = msgspec.json.encode(RunEnd(status="finished"))
    await agent.client.post(agent.path("/end"), content=ended)

    answer = await agent.client.post(agent.path("/burst"), json={})

    assert (answer.status_code, answer.json()["error"]["field"]) == (409, "run_id")


async def told(agent: Agent, **health: object) -> list[AlertNotice]:
    """The alerts that a heartbeat is told of."""
    receipt = await agent.send([], wants_alerts=True, **health)
    return [command.alert for command in receipt.commands if command.alert is not None]


async def test_open_alerts_are_told_to_a_job_that_acts_on_them(agent: Agent):
    await agent.declare(started_at=1.0)
    await agent.send([frame(1), frame(2, values=vector(2, loss=float("nan")))])

    (alert,) = await eventually(lambda: told(agent), bool)
    silent = await commands(agent)

    assert (alert.rule, alert.severity, alert.step) == ("nonfinite", "critical", 2)
    assert "NaN" in alert.message and alert.site == "loss"
    assert [command.kind for command in silent if command.alert is not None] == []


async def test_a_restarted_job_is_not_told_of_alerts_from_before(agent: Agent):
    await agent.declare(started_at=1.0)
    await agent.send([frame(1), frame(2, values=vector(2, loss=float("nan")))])
    assert await eventually(lambda: told(agent), bool)

    await agent.declare(started_at=2.0)

    assert await told(agent) == []
    await agent.declare(started_at=1.0)  # a spool from before says what it said
    assert await told(agent) == []


async def test_an_acknowledged_alert_is_told_no_more(agent: Agent):
    await agent.send([frame(1), frame(2, values=vector(2, loss=float("nan")))])
    assert await eventually(lambda: told(agent), bool)
    (alert,) = (await agent.client.get(f"/api/v1/alerts?run={agent.run_id}")).json()["alerts"]

    await agent.client.post(f"/api/v1/alerts/{alert['id']}/acknowledge")

    assert await told(agent) == []
