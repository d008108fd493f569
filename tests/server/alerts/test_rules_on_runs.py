"""The rules on runs that were really trained: failures are named early, health is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from server.alerts.rules import Observation, StackFacts
from wire import ABSENT, Health

STACK = "decoder"
JUMP = 60  # step of the learning rate's jump in its run
OVERFLOW = 27  # step of the first NaN where half precision overflows


@pytest.mark.parametrize(
    "name", ["pre-ln 24", "post-ln 4", "post-ln deepscale 24", "post-ln deepscale 24, seed 1"]
)
def test_a_healthy_run_raises_no_alert(runs, diagnose, name):
    assert diagnose(runs[name]).loud() == []


def test_failing_post_ln_raises_rank_collapse_within_forty_steps_and_nothing_else(runs, diagnose):
    diagnosis = diagnose(runs["post-ln 24"])
    (event,) = diagnosis.opened("rank_collapse")

    assert diagnosis.loud() == ["rank_collapse"]
    assert event.step <= 40
    assert event.finding.site == "stream"
    assert event.finding.first_layer > 0
    assert event.finding.last_layer == 24
    assert event.finding.measured > event.finding.predicted > 0.9


def test_rank_collapse_is_critical_and_says_how_much_gradient_arrives(runs, diagnose):
    diagnosis = diagnose(runs["post-ln 24"])

    worst = [e.finding for e in diagnosis.events if e.key.rule == "rank_collapse"][-1]
    assert worst.severity == "critical"
    assert "of the top's gradient variance reaches the layers below" in worst.message


def test_alike_tokens_are_no_collapse_while_the_gradient_passes(runs, diagnose):
    # Llamas that learn how frequent words are: half of the layers and more, and all the gradient.
    alike = runs["pre-ln 24"].with_series(
        f"{STACK}/stream/correlation", lambda correlation: np.full_like(correlation, 1 - 3e-4)
    )

    assert diagnose(alike).opened("rank_collapse") == []


def test_a_collapse_in_less_than_half_of_the_layers_is_none(runs, diagnose):
    key = f"{STACK}/stream/correlation"
    upper = np.where(np.arange(25) >= 14, 1.0, 0.99)

    run = runs["post-ln 24"].with_series(key, lambda correlation: np.minimum(correlation, upper))

    assert diagnose(run).opened("rank_collapse") == []


def test_a_dead_encoder_beside_a_decoder_is_a_warning(runs, diagnosis):
    run = runs["post-ln 24"]
    for observation in run.observations():
        values = observation.values
        both = {key.replace(STACK, "encoder"): v for key, v in values.items() if STACK in key}
        healthy = {
            f"{STACK}/{k}": np.ones(25) for k in ("stream/variance", "stream_gradient/variance")
        }
        scalars = {key: v for key, v in values.items() if key.startswith("/")}
        stacks = {STACK: StackFacts(n_layers=24), "encoder": run.facts}
        diagnosis.see(replace(observation, values=both | healthy | scalars, stacks=stacks))

    (event,) = diagnosis.opened("rank_collapse")
    assert (event.key.stack, event.finding.severity) == ("encoder", "warning")


def test_rank_collapse_advises_deepscale_with_the_scales_of_its_depth(runs, diagnose):
    (event,) = diagnose(runs["post-ln 24"]).opened("rank_collapse")

    scaling = event.finding.advice.scaling
    assert scaling.n_layers == 24
    assert scaling.beta**2 == pytest.approx(2 / 48)
    assert scaling.lam**2 + scaling.beta**2 == pytest.approx(1)
    assert "trainer_agent.deepscale(model)" in scaling.snippet


def test_rank_collapse_names_layers_site_measured_and_predicted_in_its_sentence(runs, diagnose):
    (event,) = diagnose(runs["post-ln 24"]).opened("rank_collapse")

    finding = event.finding
    assert f"layers {finding.first_layer}–24" in finding.message
    assert "residual stream" in finding.message
    assert "theory predicts 1 − " in finding.message


def test_a_scaled_stack_is_not_told_to_scale_again(runs, diagnose):
    run = runs["post-ln 24"]
    scaled = replace(run, facts=replace(run.facts, beta=0.3))

    (event,) = diagnose(scaled).opened("rank_collapse")

    assert event.finding.advice.scaling is None


def test_a_stack_that_is_not_described_is_judged_and_given_no_figures(runs, diagnose):
    run = runs["post-ln 24"]
    bare = replace(run, facts=StackFacts(n_layers=24))

    (event,) = diagnose(bare).opened("rank_collapse")

    assert event.finding.predicted is None
    assert event.finding.advice.scaling is None


def test_vanishing_gradient_names_the_rate_per_layer_and_where_it_leads(runs, diagnose):
    # The same gradient with tokens that stay apart: no collapse is there to explain it.
    apart = runs["post-ln 24"].with_series(
        f"{STACK}/stream/correlation", lambda correlation: np.minimum(correlation, 0.99)
    )
    fade = np.linspace(-1.0, 0.0, 25)
    faint = apart.with_series(f"{STACK}/stream_gradient/variance", lambda g: g * 10**fade)

    (event,) = diagnose(faint).opened("vanishing_gradient")

    finding = event.finding
    assert finding.measured < 1e-6 < finding.predicted
    assert "per layer is" in finding.message
    assert "over 24 layers" in finding.message


def test_the_gradient_of_pre_ln_may_grow_towards_the_input(runs, diagnose):
    run = runs["pre-ln 24"]
    gradient = run.values[f"{STACK}/stream_gradient/variance"]
    assert gradient[0, 0] / gradient[0, -1] > 50  # hyperbolic: normal for Pre-LN

    assert diagnose(run).opened("exploding_gradient") == []


def test_post_ln_with_a_gradient_exploding_as_predicted_is_still_told(runs, diagnose):
    growth = 10 ** np.linspace(5, 0, 25)
    run = runs["post-ln 24"].with_series(
        f"{STACK}/stream_gradient/variance", lambda values: values[:, -1:] * growth
    )
    expected = replace(run.facts.at_start, gradient=growth)
    run = replace(run, facts=replace(run.facts, expected=(expected,)))

    (event,) = diagnose(run).opened("exploding_gradient")

    assert "1.62 per layer" in event.finding.message


def test_gradient_underflow_in_half_precision_is_told_before_the_first_nan(runs, diagnose):
    diagnosis = diagnose(runs["pre-ln 8, half overflows"])

    (vanished,) = diagnosis.opened("vanishing_gradient")
    first_nan = min(event.step for event in diagnosis.opened("nonfinite"))
    assert first_nan == OVERFLOW
    assert vanished.step < OVERFLOW - 10


def test_nonfinite_names_the_layer_where_the_signal_broke_first(runs, diagnose):
    events = diagnose(runs["pre-ln 8, half overflows"]).opened("nonfinite")

    stream = next(event.finding for event in events if event.key.site == "stream")
    assert stream.severity == "critical"
    assert f"At step {OVERFLOW} " in stream.message
    assert "first at layer 5" in stream.message  # behind the block whose output passes through half


def test_nonfinite_gradients_are_first_at_their_highest_layer(runs, diagnose):
    events = diagnose(runs["pre-ln 8, half overflows"]).opened("nonfinite")

    gradient = next(event.finding for event in events if event.key.site == "stream_gradient")
    assert "first at layer 8" in gradient.message


def test_where_it_broke_first_stays_told_however_far_it_spreads(runs, diagnose):
    diagnosis = diagnose(runs["pre-ln 8, half overflows"])

    changes = [
        event for event in diagnosis.events if event.key.rule == "nonfinite" and event.finding
    ]
    rewritten = [event for event in changes if event.kind in {"escalated", "worsened"}]
    assert len(changes) >= 3  # loss, stream and gradient
    assert rewritten == []


def test_nan_clears_no_alert(runs, diagnose):
    diagnosis = diagnose(runs["pre-ln 8, half overflows"])

    assert [event for event in diagnosis.events if event.kind == "resolved"] == []


def test_a_loss_never_given_is_no_alert(runs, diagnose):
    run = runs["pre-ln 24"].with_series("/loss/value", lambda losses: np.full_like(losses, np.nan))

    assert diagnose(run).loud() == []


def test_a_loss_given_now_and_then_is_no_alert(runs, diagnose):
    def every_tenth(losses):
        return np.where(np.arange(len(losses))[:, None] % 10 == 0, losses, ABSENT)

    run = runs["pre-ln 24"].with_series("/loss/value", every_tenth)

    assert diagnose(run).loud() == []


def losses(run, values):
    """The run with these losses, cut to their length."""
    cut = {key: series[: len(values)] for key, series in run.values.items()}
    return replace(run, values={**cut, "/loss/value": np.array(values, np.float32)[:, None]})


def test_a_bad_batch_near_zero_is_no_divergence(runs, diagnose):
    learned = list(np.geomspace(3.0, 0.04, 30))

    run = losses(runs["pre-ln 24"], [*learned, *[0.065] * 10, *[0.005] * 10])

    assert diagnose(run).opened("loss_divergence") == []


def test_a_loss_that_is_lost_near_zero_is_a_divergence(runs, diagnose):
    learned = list(np.geomspace(3.0, 0.04, 30))

    run = losses(runs["pre-ln 24"], [*learned, *np.linspace(0.04, 1.5, 20)])

    (event,) = diagnose(run).opened("loss_divergence")
    assert event.step < 45


def test_an_objective_that_begins_at_zero_and_grows_is_no_divergence(runs, diagnose):
    noise = np.random.default_rng(0).normal(0, 1e-3, 60)

    run = losses(runs["pre-ln 24"], [0.0, *(np.linspace(0, 0.2, 59) + noise[:59])])

    assert diagnose(run).opened("loss_divergence") == []


def test_divergence_is_told_within_ten_steps_of_the_jump(runs, diagnose):
    diagnosis = diagnose(runs["pre-ln 12, rate × 300"])

    (event,) = diagnosis.opened("loss_divergence")
    assert JUMP < event.step <= JUMP + 10
    assert event.finding.severity == "critical"
    assert not [event for event in diagnosis.events if event.step < JUMP]


def test_a_jump_of_the_learning_rate_shows_in_the_attention_logits(runs, diagnose):
    (event,) = diagnose(runs["pre-ln 12, rate × 300"]).opened("attention_logit_growth")

    assert event.finding.severity == "critical"
    assert event.finding.measured > 300


def test_large_logits_that_were_there_from_the_start_are_left_alone(runs, diagnose):
    run = runs["pre-ln 24"].with_series(f"{STACK}/attention_logits/max", lambda logits: 40 * logits)

    assert diagnose(run).opened("attention_logit_growth") == []


def test_attention_entropy_falling_to_a_tenth_is_told(runs, diagnose):
    key = f"{STACK}/attention_logits/entropy"
    fall = np.where(np.arange(len(runs["pre-ln 24"])) < 20, 1.0, 0.05)[:, None]

    sharp = runs["pre-ln 24"].with_series(key, lambda entropy: entropy * fall)
    hot = sharp.with_series(f"{STACK}/attention_logits/max", np.zeros_like)
    hot = hot.with_series(f"{STACK}/attention_logits/max", lambda logits: logits + 40)

    (event,) = diagnose(hot).opened("attention_entropy_collapse")

    # Attention that has learned where to look is as sharp, with small logits.
    assert diagnose(sharp).opened("attention_entropy_collapse") == []
    assert event.step == 24
    assert (event.finding.first_layer, event.finding.last_layer) == (0, 23)


@pytest.mark.parametrize(
    ("key", "site"),
    [
        (f"{STACK}/stream/variance", "stream"),
        (f"{STACK}/stream_gradient/variance", "stream_gradient"),
    ],
)
def test_a_start_off_its_prediction_is_told_with_layers_measured_and_predicted(
    runs, diagnose, key, site
):
    off = np.ones(25)
    off[14:20] = 8.0
    run = _with_gradient_bounds(runs["pre-ln 24"])

    (event,) = diagnose(run.with_series(key, lambda values: values * off)).opened(
        "departs_from_prediction"
    )

    finding = event.finding
    assert finding.site == site
    assert (finding.first_layer, finding.last_layer) == (14, 19)
    assert finding.measured / finding.predicted > 3
    assert "layers 14–19" in finding.message


def test_a_start_off_in_a_single_layer_is_left_alone(runs, diagnose):
    off = np.ones(25)
    off[14] = 8.0
    run = runs["pre-ln 24"].with_series(f"{STACK}/stream/variance", lambda values: values * off)

    assert diagnose(run).opened("departs_from_prediction") == []


def test_a_prediction_that_arrives_late_still_judges_the_start(runs, diagnosis):
    off = runs["pre-ln 24"].with_series(f"{STACK}/stream/variance", lambda values: 8 * values)

    for observation in list(off.observations())[:40]:
        is_described = observation.step >= 20
        facts = off.facts if is_described else replace(off.facts, expected=())
        diagnosis.see(replace(observation, stacks={STACK: facts}))

    (event,) = diagnosis.opened("departs_from_prediction")
    assert event.finding.step == 2
    assert event.finding.last_layer == 24


def test_a_run_that_starts_from_trained_weights_is_not_held_against_theory(runs, diagnose):
    off = runs["pre-ln 24"].with_series(f"{STACK}/stream/variance", lambda values: 8 * values)
    off = replace(off, facts=replace(off.facts, untrained=False))

    assert diagnose(off).opened("departs_from_prediction") == []


def test_learned_weights_are_not_held_against_the_start(runs, diagnosis):
    run = runs["pre-ln 24"]

    for step in range(50, len(run)):  # a server that first sees the run at step 50
        diagnosis.see(run.observation(step))

    assert diagnosis.opened("departs_from_prediction") == []


def test_a_flat_loss_with_a_collapsed_stream_says_why(runs, diagnosis):
    for observation in _flat(runs["post-ln 24"], steps=160):
        diagnosis.see(observation)

    (event,) = diagnosis.opened("not_learning")
    assert event.finding.severity == "critical"
    assert "rank collapse in the decoder's layers" in event.finding.message


def test_a_flat_loss_in_a_healthy_model_is_left_alone(runs, diagnosis):
    for observation in _flat(runs["pre-ln 24"], steps=160):
        diagnosis.see(observation)

    assert diagnosis.opened("not_learning") == []


def test_dropped_frames_are_told_when_they_are_dropped(runs, diagnosis):
    for observation in list(runs["pre-ln 24"].observations())[:10]:
        dropped = 7 if observation.step >= 5 else 0
        diagnosis.see(replace(observation, health=Health(dropped=dropped)))

    (event,) = diagnosis.opened("agent_health")
    assert event.step == 5
    assert "gave up 7 frames" in event.finding.message


def test_places_that_were_measured_before_are_named(runs, diagnosis):
    for observation in list(runs["pre-ln 24"].observations())[:10]:
        stopped = ("decoder/attention[3]",) if observation.step >= 4 else ()
        diagnosis.see(replace(observation, health=Health(stopped=stopped)))

    (event,) = diagnosis.opened("agent_health")
    assert (event.step, event.finding.severity) == (4, "warning")
    assert "decoder/attention[3]" in event.finding.message


def test_places_that_were_never_measured_are_no_alert(runs, diagnosis):
    for observation in list(runs["pre-ln 24"].observations())[:10]:
        diagnosis.see(replace(observation, health=Health(silent=("decoder/attention[3]",))))

    assert diagnosis.opened("agent_health") == []


def test_losses_before_this_process_started_are_no_news(runs, diagnosis):
    for observation in list(runs["pre-ln 24"].observations())[:10]:
        diagnosis.see(replace(observation, health=Health(dropped=7, failures=2)))

    assert diagnosis.opened("agent_health") == []


def _with_gradient_bounds(run):
    """As if the first step's own gradient had been the prediction, within 20 %."""
    start = run.values[f"{STACK}/stream_gradient/variance"][0].astype(float)
    curve = start / start[-1]
    bounds = {"gradient": curve, "gradient_low": curve / 1.2, "gradient_high": curve * 1.2}
    expected = (replace(run.facts.at_start, **bounds),)
    return replace(run, facts=replace(run.facts, expected=expected))


def _flat(run, *, steps: int) -> list[Observation]:
    """The run's last step again and again, with a loss that goes nowhere."""
    rng = np.random.default_rng(0)
    last = run.observation(len(run) - 1)
    losses = 3.3 + 0.1 * rng.standard_normal(steps)
    return [
        replace(last, step=step, values={**last.values, "/loss/value": np.array([loss])})
        for step, loss in enumerate(losses)
    ]
