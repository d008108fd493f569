"""Rules on what the optimizer's steps change."""

from __future__ import annotations

import numpy as np
import pytest

from server.alerts.lifecycle import advance
from server.alerts.rules import Observation, RunningStats, StackFacts, evaluate
from server.alerts.rules.updates import standing_weights, update_size

NOTHING = RunningStats()
NAN = float("nan")


def step_of(ratios: list[float], model: float, *, step: int = 7, rate: float = 1e-3) -> Observation:
    values = {
        "decoder/updates/ratio": np.array(ratios),
        "/updates/ratio": np.array([model]),
        "/learning_rate/value": np.array([rate]),
    }
    return Observation(step, values, {"decoder": StackFacts(n_layers=len(ratios))})


def test_blocks_that_stand_still_are_named():
    (finding,) = standing_weights(step_of([1e-3, 0.0, 0.0, 2e-3], 1e-3), NOTHING) or []

    assert (finding.first_layer, finding.last_layer, finding.severity) == (1, 2, "warning")
    assert finding.title == "The weights of blocks 1–2 stand still"
    assert "although there are gradients" in finding.message and "0.001" in finding.message


def test_a_rate_of_zero_is_one_finding_of_the_whole_model():
    (finding,) = standing_weights(step_of([0.0, 0.0], 0.0, rate=0.0), NOTHING) or []

    assert finding.stack == "" and finding.title == "No parameter is changed"
    assert "at a learning rate of 0" in finding.message


@pytest.mark.parametrize(
    "ratios", [[1e-3, 2e-3], [1e-9, 1e-9], [NAN, 1e-3]], ids=["moving", "slow", "frozen on purpose"]
)
def test_blocks_that_move_or_have_no_gradient_are_no_finding(ratios: list[float]):
    assert standing_weights(step_of(ratios, 1e-3), NOTHING) == []


def test_a_step_without_an_update_neither_holds_nor_clears():
    skipped = step_of([NAN, NAN], NAN)

    assert standing_weights(skipped, NOTHING) is None
    assert standing_weights(Observation(7, {}, {}), NOTHING) is None


def test_an_alert_opens_after_five_samples_and_ends_after_five_that_move():
    stats, tracks, kinds = NOTHING, {}, []
    ratios = [[1e-3, 1e-3]] * 3 + [[1e-3, 0.0]] * 6 + [[1e-3, NAN]] + [[1e-3, 1e-3]] * 6
    for at, ratio in enumerate(ratios):
        verdict = evaluate(step_of(ratio, 1e-3, step=at), stats)
        stats = verdict.stats
        tracks, changes = advance(tracks, verdict)
        kinds += [(change.step, change.kind) for change in changes]

    assert kinds == [(7, "opened"), (13, "resolved")]


def test_a_large_update_names_the_block_and_its_share():
    (finding,) = update_size(step_of([1e-3, 0.14, 0.15, NAN, 2e-3], 0.5), NOTHING)

    assert (finding.first_layer, finding.last_layer, finding.severity) == (1, 2, "warning")
    assert finding.measured == pytest.approx(0.15)
    assert "block 2 by 15 % of their size" in finding.message and "At step 7" in finding.message


# Measured maxima of healthy runs: AdamW at 3e-4, 1e-3, 1e-2 with a warm-up, at 3e-3 without; Muon.
@pytest.mark.parametrize("ratio", [1.65e-3, 3.56e-3, 1.94e-2, 5.5e-2, 3.5e-2])
def test_updates_of_healthy_runs_are_no_finding(ratio: float):
    assert update_size(step_of([ratio] * 6, ratio), NOTHING) == []


def test_the_update_of_the_whole_model_alone_is_no_finding():
    assert update_size(step_of([NAN, NAN], 0.5), NOTHING) == []
