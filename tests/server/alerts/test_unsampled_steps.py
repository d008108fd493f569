"""Steps that were not sampled: rules on the loss judge them, rules on depth pass over them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from server.alerts.rules import Key, Observation, observe_scalars
from server.diagnosis import backlog
from tests.services.agent import STEPS_LAYOUT, Agent, frame, steps_frame, vector
from tests.services.polling import eventually
from wire import ABSENT, Series

LOSS = Series("", "loss", "value", 1)
STREAM = Key("nonfinite", "decoder", "stream")
SCALARS = Key("nonfinite", "", "loss")


def unsampled(step: int, loss: float) -> Observation:
    values = np.array([loss], dtype=np.float32)
    return observe_scalars(step=step, series=[LOSS], values=values)


def without_depth(observation: Observation) -> Observation:
    """The same step, as it is where only its loss was recorded."""
    return unsampled(observation.step, observation.scalar("loss"))


def transitions(diagnosis) -> list[tuple[str, str, int]]:
    """What became of the alerts on the loss."""
    return [
        (event.kind, event.key.rule, event.step)
        for event in diagnosis.events
        if event.key.rule in {"loss_divergence", "loss_spike"}
    ]


@pytest.mark.parametrize("every", [7, 1000])
def test_alerts_on_the_loss_open_at_the_same_step_however_few_are_sampled(
    runs, diagnose, diagnosis, every
):
    run = runs["pre-ln 12, rate × 300"]
    for observation in run.observations():
        sampled = observation.step % every == 0
        diagnosis.see(observation if sampled else without_depth(observation))

    of_every_sample = transitions(diagnose(run))
    assert transitions(diagnosis) == of_every_sample
    assert ("opened", "loss_divergence") in [event[:2] for event in of_every_sample]


def test_a_rule_on_depth_counts_its_samples_across_other_steps(runs, diagnose, diagnosis):
    for step, observation in enumerate(runs["post-ln 24"].observations()):
        diagnosis.see(replace(observation, step=10 * step))
        for between in range(1, 10):
            diagnosis.see(unsampled(10 * step + between, 1.0))

    opened = [event.step / 10 for event in diagnosis.opened("rank_collapse")]
    assert opened == [event.step for event in diagnose(runs["post-ln 24"]).opened("rank_collapse")]


def test_a_finite_loss_between_samples_clears_no_broken_stream(runs, diagnosis):
    broken = runs["pre-ln 24"].with_series(
        "decoder/stream/nonfinite", lambda shares: np.where(np.arange(25) == 3, 1.0, shares)
    )
    diagnosis.see(broken.observation(0))

    for step in range(1, 50):
        diagnosis.see(unsampled(step, 2.0))

    assert diagnosis.tracks[STREAM].open and diagnosis.tracks[STREAM].clear == 0


def test_a_loss_of_nan_opens_at_its_step_and_ends_with_finite_losses(diagnosis):
    diagnosis.see(unsampled(0, 2.0))
    diagnosis.see(unsampled(1, float("nan")))

    for step in range(2, 22):
        diagnosis.see(unsampled(step, 2.0))

    told = [(event.kind, event.key, event.step) for event in diagnosis.events]
    assert told == [("opened", SCALARS, 1), ("resolved", SCALARS, 21)]


def test_a_step_without_a_loss_neither_holds_nor_clears(diagnosis):
    for step in range(20):
        diagnosis.see(unsampled(step, 2.0))
    rising = range(20, 26)
    for step in rising:
        diagnosis.see(unsampled(step, 9.0))
    holds = diagnosis.tracks[Key("loss_divergence", "", "loss")].holds

    for step in range(26, 60):
        diagnosis.see(unsampled(step, float(ABSENT)))

    track = diagnosis.tracks[Key("loss_divergence", "", "loss")]
    assert (track.holds, track.clear) == (holds, 0)


async def test_a_loss_alert_names_a_step_that_was_not_sampled(agent: Agent):
    await agent.declare()
    await agent.declare(layout=STEPS_LAYOUT)
    losses = [3.0 - step / 1000 for step in range(1, 700)] + [9.0] * 20
    frames = [frame(1, 0, values=vector(0, loss=3.0))]
    # More steps than are judged at once, and one frame that holds more of them by itself.
    sizes = (600, 40, 79)
    assert sizes[0] > backlog.SCALAR_STEPS_A_TURN and sum(sizes) == len(losses)
    last = 0
    for seq, size in enumerate(sizes, start=2):
        frames.append(steps_frame(seq, last + size, losses[last : last + size]))
        last += size
    await agent.send(frames)

    async def alerts() -> list[dict]:
        answer = await agent.client.get("/api/v1/alerts", params={"run": agent.run_id})
        return [alert for alert in answer.json()["alerts"] if alert["rule"] == "loss_divergence"]

    (alert,) = await eventually(alerts, bool)
    # Three losses make the median of five, and the rule has to hold for five steps.
    assert alert["step"] == 700 + 2 + 4
    assert (await agent.get("/steps"))["steps"] == [0]
