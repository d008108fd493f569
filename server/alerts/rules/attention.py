"""Attention logits grow, and attention puts all its weight on one token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from server.alerts.rules.depth import Span, longest_run, number
from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.observation import Floats, Observation
from server.alerts.rules.running_stats import REFERENCES, RunningStats

LARGE = 100.0  # where qk-clip acts in published runs; a healthy run here passed 50
HUGE = 300.0
GROWN = 3.0  # times the run's own start
ENTROPY_LEFT = 0.1  # of the run's own start
# Attention that has learned where to look is as concentrated: healthy Qwens reach a fifteenth of
# their start, with logits of 12.
CONCENTRATING = 30.0

ADVICE = Advice(
    "Normalise queries and keys (QK-norm), clip the logits (qk-clip), or lower the learning rate "
    "of the query and key projections."
)


def attention_logit_growth(observation: Observation, stats: RunningStats) -> list[Finding]:
    """The largest logit of a block passes 100 and three times its own start."""
    return [
        finding
        for stack, logits, start in _with_start(observation, stats, "max")
        for finding in _large(observation, stack, logits, start)
    ]


def attention_entropy_collapse(observation: Observation, stats: RunningStats) -> list[Finding]:
    """The entropy of a block's attention falls under a tenth of its start, by large logits."""
    findings = []
    for stack, entropy, start in _with_start(observation, stats, "entropy"):
        logits = observation.series(stack, "attention_logits", "max")
        if logits is not None and logits.shape == entropy.shape:
            large = logits >= CONCENTRATING
            findings += _concentrated(observation, stack, np.where(large, entropy, np.nan), start)
    return findings


def _with_start(
    observation: Observation, stats: RunningStats, quantity: Literal["max", "entropy"]
) -> Iterator[tuple[str, Floats, Floats]]:
    """Stacks with the quantity now and at the run's start; none before the start is known."""
    for stack, reference in stats.references.items():
        now = observation.series(stack, "attention_logits", quantity)
        start = reference.logit_max if quantity == "max" else reference.entropy
        # The reference is a mean that still moves during the first samples.
        if now is not None and now.shape == start.shape and stats.samples >= REFERENCES:
            yield stack, now, start


def _large(observation: Observation, stack: str, logits: Floats, start: Floats) -> list[Finding]:
    holds = (logits >= LARGE) & (logits >= GROWN * start)
    span = longest_run(holds)
    if span is None:
        return []
    worst = span.first + int(np.argmax(logits[span.first : span.last + 1]))
    value, first = float(logits[worst]), float(start[worst])
    return [
        Finding(
            rule="attention_logit_growth",
            severity="critical" if value >= HUGE else "warning",
            title="Attention logits are growing",
            message=(
                f"At step {observation.step} the largest attention logit of the {stack}'s block "
                f"{worst} is {number(value)}, from {number(first)} in the first "
                f"sampled steps; it is at least {LARGE:.0f} in {_blocks(span)}. Softmax is about "
                "to put all weight on one token, and then passes no gradient."
            ),
            advice=ADVICE,
            step=observation.step,
            stack=stack,
            site="attention_logits",
            quantity="max",
            first_layer=span.first,
            last_layer=span.last,
            measured=value,
            unit="logit",
            badness=value,
        )
    ]


def _concentrated(
    observation: Observation, stack: str, entropy: Floats, start: Floats
) -> list[Finding]:
    holds = entropy < ENTROPY_LEFT * start
    span = longest_run(holds)
    if span is None:
        return []
    worst = span.first + int(np.nanargmin(entropy[span.first : span.last + 1]))
    # Rounding may leave an entropy of zero a hair below it.
    value, first = max(float(entropy[worst]), 0.0), float(start[worst])
    return [
        Finding(
            rule="attention_entropy_collapse",
            severity="warning",
            title="Attention entropy has collapsed",
            message=(
                f"At step {observation.step} the attention of the {stack}'s {_blocks(span)} looks "
                f"at almost one token: the entropy of block {worst} is {number(value)} nats, from "
                f"{number(first)} in the first sampled steps."
            ),
            advice=ADVICE,
            step=observation.step,
            stack=stack,
            site="attention_logits",
            quantity="entropy",
            first_layer=span.first,
            last_layer=span.last,
            measured=value,
            unit="nats",
            badness=first / max(value, 1e-9),
        )
    ]


def _blocks(span: Span) -> str:
    return f"block {span.first}" if len(span) == 1 else f"blocks {span.first}–{span.last}"
