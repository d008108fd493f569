"""Every rule, with how long it must hold before an alert opens, and be clear before it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.alerts.rules.attention import attention_entropy_collapse, attention_logit_growth
from server.alerts.rules.collapse import rank_collapse
from server.alerts.rules.departure import departs_from_prediction
from server.alerts.rules.finding import Finding
from server.alerts.rules.gradient import exploding_gradient, vanishing_gradient
from server.alerts.rules.inputs import alike_tokens, repeated_batch
from server.alerts.rules.learning import not_learning
from server.alerts.rules.logit_trend import attention_logit_trend
from server.alerts.rules.loss import loss_divergence, loss_rise, loss_sign, loss_spike
from server.alerts.rules.nonfinite import nonfinite
from server.alerts.rules.numerics import (
    dead_units,
    format_overflow,
    log_z_growth,
)
from server.alerts.rules.observation import Observation
from server.alerts.rules.rates import rate_jump, zero_rate
from server.alerts.rules.running_stats import RunningStats
from server.alerts.rules.telemetry import agent_health
from server.alerts.rules.updates import small_updates, standing_weights, update_size

# None means "not judged at this step", which neither holds nor clears.
Check = Callable[[Observation, RunningStats], list[Finding] | None]


@dataclass(frozen=True, slots=True)
class Hold:
    """For how many judged steps in a row a rule must hold to open, and be clear to resolve."""

    opens_after: int
    clears_after: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: also the `rule` of its findings.
        check: the judgement of one step.
        opens_after: consecutive judged steps it must hold before an alert opens.
        clears_after: consecutive judged steps without it before the alert is resolved.
    """

    name: str
    check: Check
    opens_after: int
    clears_after: int


def _in_contact(_observation: Observation, _stats: RunningStats) -> list[Finding]:
    """No finding: `lost_contact` is opened by the watchdog, and a frame resolves it."""
    return []


RULES: tuple[Rule, ...] = (
    Rule("nonfinite", nonfinite, opens_after=1, clears_after=20),
    Rule("loss_divergence", loss_divergence, opens_after=5, clears_after=20),
    Rule("loss_rise", loss_rise, opens_after=3, clears_after=20),
    Rule("loss_sign", loss_sign, opens_after=1, clears_after=20),
    Rule("loss_spike", loss_spike, opens_after=1, clears_after=20),
    Rule("departs_from_prediction", departs_from_prediction, opens_after=1, clears_after=1),
    Rule("zero_rate", zero_rate, opens_after=1, clears_after=5),
    Rule("rate_jump", rate_jump, opens_after=5, clears_after=20),
    Rule("alike_tokens", alike_tokens, opens_after=5, clears_after=20),
    Rule("repeated_batch", repeated_batch, opens_after=5, clears_after=20),
    Rule("rank_collapse", rank_collapse, opens_after=5, clears_after=20),
    Rule("vanishing_gradient", vanishing_gradient, opens_after=5, clears_after=20),
    Rule("exploding_gradient", exploding_gradient, opens_after=5, clears_after=20),
    Rule("attention_logit_growth", attention_logit_growth, opens_after=5, clears_after=20),
    Rule("attention_logit_trend", attention_logit_trend, opens_after=3, clears_after=5),
    Rule("attention_entropy_collapse", attention_entropy_collapse, opens_after=5, clears_after=20),
    Rule("not_learning", not_learning, opens_after=5, clears_after=20),
    Rule("update_size", update_size, opens_after=3, clears_after=20),
    Rule("small_updates", small_updates, opens_after=3, clears_after=20),
    Rule("standing_weights", standing_weights, opens_after=5, clears_after=5),
    Rule("log_z_growth", log_z_growth, opens_after=5, clears_after=20),
    Rule("format_overflow", format_overflow, opens_after=5, clears_after=20),
    Rule("dead_units", dead_units, opens_after=20, clears_after=20),
    Rule("agent_health", agent_health, opens_after=1, clears_after=20),
    Rule("lost_contact", _in_contact, opens_after=1, clears_after=1),
)
