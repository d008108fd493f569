"""What a rule finds: one sentence with numbers, where it holds, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

# How the names of rules begin that are not built in: users' own, and other tools' published ones.
USER, PEER = "user:", "peer:"


class Key(NamedTuple):
    """What an alert is about; of one run and one key at most one alert is open."""

    rule: str
    stack: str
    site: str


@dataclass(frozen=True, slots=True)
class ScalingAdvice:
    """DeepScaleLM's residual scales for a model's depth, and the call that applies them."""

    lam: float
    beta: float
    n_layers: int
    snippet: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, in plain sentences."""

    text: str
    scaling: ScalingAdvice | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule's judgement of one sampled step.

    Attributes:
        rule: the rule's name.
        severity: how bad it is.
        title: a short heading.
        message: plain sentences with the layers, the site, measured and predicted.
        advice: what to do.
        step: the optimizer step judged.
        stack, site, quantity: the series; a stack of ``""`` is the complete model.
        first_layer, last_layer: where, inclusive; None for a quantity without depth.
        measured: the worst value; may be NaN or Inf.
        predicted: theory's value at that place; None where it makes none.
        unit: of both, e.g. ``"variance"`` or ``"nats"``; ``""`` for a plain number.
        badness: grows as the finding gets worse; compares findings of one key.
    """

    rule: str
    severity: Severity
    title: str
    message: str
    advice: Advice
    step: int
    site: str
    quantity: str
    measured: float
    stack: str = ""
    first_layer: int | None = None
    last_layer: int | None = None
    predicted: float | None = None
    unit: str = ""
    badness: float = 0.0

    @property
    def key(self) -> Key:
        """What it is about."""
        return Key(self.rule, self.stack, self.site)
