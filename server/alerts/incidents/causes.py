"""Where in the causal order of a training step each rule looks."""

from __future__ import annotations

from typing import Literal, get_args

from server.alerts.rules import Key

Cause = Literal["data", "optimizer", "block", "stream", "attention", "loss"]
CAUSAL_ORDER: tuple[Cause, ...] = get_args(Cause)
Domain = Literal["training", "telemetry", "contact"]

CAUSES: dict[str, Cause] = {
    "alike_tokens": "data",
    "repeated_batch": "data",
    "standing_weights": "optimizer",
    "small_updates": "optimizer",
    "zero_rate": "optimizer",
    "rate_jump": "optimizer",
    "update_size": "optimizer",
    "departs_from_prediction": "block",
    "dead_units": "block",
    "format_overflow": "block",
    "rank_collapse": "stream",
    "vanishing_gradient": "stream",
    "exploding_gradient": "stream",
    "attention_logit_growth": "attention",
    "attention_logit_trend": "attention",
    "attention_entropy_collapse": "attention",
    "log_z_growth": "loss",
    "loss_divergence": "loss",
    "loss_rise": "loss",
    "loss_sign": "loss",
    "loss_spike": "loss",
    "not_learning": "loss",
}
# These say nothing of the training itself, and nothing of the training explains them.
DOMAINS: dict[str, Domain] = {"agent_health": "telemetry", "lost_contact": "contact"}


# Rules that look at several places, as `nonfinite` and users' own, are told apart by the place.
PLACES: dict[str, Cause] = {
    "learning_rate": "optimizer",
    "updates": "optimizer",
    "weights": "optimizer",
    "attention_logits": "attention",
}


def cause_of(key: Key) -> Cause:
    """Where the fault lies if this is its first sign."""
    return CAUSES.get(key.rule, PLACES.get(key.site, "stream" if key.stack else "loss"))


def domain_of(key: Key) -> Domain:
    """What an alert is about: alerts of different domains never share an incident."""
    return DOMAINS.get(key.rule, "training")
