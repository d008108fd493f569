"""However turns cut a run's frames, and whatever other runs do, its alerts are those in order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from server.diagnosis import schedule
from tests.services.agent import Agent, frame, vector
from tests.services.polling import eventually

SHOWN = ("rule", "severity", "step", "last_step", "title", "message", "status", "measured")


def losses(seed: int, count: int) -> list[float]:
    """A loss that falls, spikes, diverges, is NaN for a while and comes back."""
    rng = np.random.default_rng(seed)
    values = 3.0 - np.linspace(0, 1.5, count) + rng.normal(0, 0.01, count)
    values[count // 3] += 2.0
    values[count // 2 : count // 2 + 40] += 4.0
    values[3 * count // 4 : 3 * count // 4 + 3] = math.nan
    return values.tolist()


async def alerts_of(agent: Agent, run_id: str, last_step: int) -> list[dict[str, Any]]:
    """The run's alerts once all of it is judged."""
    of_run = Agent(agent.client, run_id)
    await eventually(of_run.get, lambda run: run["unjudged"] == 0 and run["last_step"] == last_step)
    answer = await agent.client.get("/api/v1/alerts", params={"run": run_id, "limit": 100})
    rows = [{name: alert[name] for name in SHOWN} for alert in answer.json()["alerts"]]
    return sorted(rows, key=lambda row: (row["step"], row["rule"], row["title"]))


async def test_alerts_are_the_same_however_turns_cut_the_frames(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
):
    count = 200
    frames = [
        frame(step + 1, step, values=vector(1, loss=loss))
        for step, loss in enumerate(losses(0, count))
    ]
    runs = [agent, Agent(agent.client), Agent(agent.client)]
    for run in runs:
        await run.declare()
    # A few at a time, as a live run's frames come.
    for start in range(0, count, 10):
        await agent.send(frames[start : start + 10])
    in_order = await alerts_of(agent, agent.run_id, count - 1)
    # Together, beside each other, in turns of other sizes.
    monkeypatch.setattr(schedule, "FRAMES_A_TURN", 28)
    monkeypatch.setattr(schedule, "FRAMES_OF_A_NEW_RUN", 5)
    for run in runs[1:]:
        await run.send(frames)

    for run in runs[1:]:
        assert await alerts_of(agent, run.run_id, count - 1) == in_order
    assert {"nonfinite", "loss_divergence"} <= {row["rule"] for row in in_order}


async def test_steps_that_a_resumed_job_takes_again_are_judged(agent: Agent):
    await agent.declare()
    await agent.send([frame(seq, seq - 1, values=vector(1)) for seq in range(1, 60)])
    again = 10**6
    resumed = [frame(again + n, 20 + n, values=vector(1)) for n in range(3)]
    broken = frame(again + 3, 23, values=vector(1, loss=math.nan))

    await agent.send([*resumed, broken], oldest=again)

    async def alerts() -> list[dict[str, Any]]:
        answer = await agent.client.get("/api/v1/alerts", params={"run": agent.run_id})
        return [alert for alert in answer.json()["alerts"] if alert["rule"] == "nonfinite"]

    (alert,) = await eventually(alerts, bool)
    assert alert["step"] == 23
