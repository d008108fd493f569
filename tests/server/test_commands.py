"""What the server asks of a running job: a fresh description, when somebody wants one."""

from __future__ import annotations

import msgspec

from tests.services.agent import Agent, frame, vector
from tests.services.polling import eventually
from wire import Command, FramesReceipt, RunEnd, SpecRevision


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

    (asked,) = await eventually(lambda: commands(agent), bool)
    assert asked.kind == "describe"


async def test_a_run_that_has_ended_is_not_asked(agent: Agent):
    ended = msgspec.json.encode(RunEnd(status="finished"))
    await agent.client.post(agent.path("/end"), content=ended)

    answer = await agent.client.post(agent.path("/describe"))

    assert answer.status_code == 409
    assert answer.json()["error"]["field"] == "run_id"
