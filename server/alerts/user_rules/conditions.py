"""Where a user's condition holds at one step. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.alerts.rules.observation import Floats, Observation, StackFacts
from server.alerts.user_rules.schemas import (
    Above,
    Below,
    Condition,
    Falls,
    Layers,
    Missing,
    OutsideBand,
    Rises,
)

Held = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a condition says of one series.

    Attributes:
        holds: at which of the series' entries, (n,).
        values: what was compared, (n,).
        limits: with what, (n,); NaN where there is nothing.
        predicted: theory's curve where it was compared with that, (n,); else None.
    """

    holds: Held
    values: Floats
    limits: Floats
    predicted: Floats | None = None


def series_of(observation: Observation, key: str) -> Iterator[tuple[str, Floats | None]]:
    """(stack, values) of the series that a key with or without ``*`` names.

    A scalar that the step does not have is None, as is a series that is not in the frame.
    """
    stack, rest = key.split("/", 1)
    stacks = sorted(observation.stacks) if stack == "*" else [stack]
    for name in stacks:
        full = f"{name}/{rest}"
        values = None if full in observation.absent else observation.values.get(full)
        yield name, values


def chosen(n: int, layers: Layers | None) -> Held:
    """Which of a series' n entries a rule looks at, (n,)."""
    at = np.arange(n)
    return np.ones(n, np.bool_) if layers is None else (at >= layers.first) & (at <= layers.last)


def judge(
    condition: Condition,
    values: Floats | None,
    *,
    layers: Layers | None,
    past: Sequence[Floats],
    facts: StackFacts | None,
    rest: str,
) -> Judged | None:
    """Where the condition holds; None where this step does not say.

    Args:
        condition: any but a preset.
        values: of the series at this step, (n,); None where there are none.
        layers: which entries count; None for all.
        past: the samples before, oldest first, each (n,).
        facts: theory's curves for the stack.
        rest: the series' ``site/quantity``.
    """
    if isinstance(condition, Missing):
        return _missing(values, layers)
    if values is None or not len(values):
        return None
    looked_at = chosen(len(values), layers)
    if not np.isfinite(values[looked_at]).any() and not np.isinf(values[looked_at]).any():
        return None
    answer = _compared(condition, values, past, facts, rest)
    return None if answer is None else _among(answer, looked_at)


def _compared(
    condition: Condition,
    values: Floats,
    past: Sequence[Floats],
    facts: StackFacts | None,
    rest: str,
) -> Judged | None:
    if isinstance(condition, Above | Below):
        limits = np.full(len(values), condition.value)
        above = isinstance(condition, Above)
        return Judged(values > limits if above else values < limits, values, limits)
    if isinstance(condition, OutsideBand):
        return _outside(condition, values, facts, rest)
    if isinstance(condition, Rises | Falls):
        return _moved(condition, values, past)
    return None


def _among(judged: Judged, looked_at: Held) -> Judged:
    return Judged(judged.holds & looked_at, judged.values, judged.limits, judged.predicted)


def _missing(values: Floats | None, layers: Layers | None) -> Judged:
    if values is None or not len(values):
        nothing = np.full(1, np.nan)
        return Judged(np.ones(1, np.bool_), nothing, nothing)
    looked_at = chosen(len(values), layers)
    gone = bool(np.isnan(values[looked_at]).all())
    return Judged(looked_at & gone, values, np.full(len(values), np.nan))


def _moved(condition: Rises | Falls, values: Floats, past: Sequence[Floats]) -> Judged | None:
    same = [each for each in past[-condition.window :] if each.shape == values.shape]
    if len(same) < condition.window:
        return None
    usual = np.median(np.stack(same), axis=0)
    rises = isinstance(condition, Rises)
    limits = usual * condition.factor if rises else usual / condition.factor
    # A factor says nothing of a quantity that stood at zero, or below it.
    holds = (usual > 0) & (values >= limits if rises else values <= limits)
    return Judged(holds, values, limits)


def _outside(
    condition: OutsideBand, values: Floats, facts: StackFacts | None, rest: str
) -> Judged | None:
    start = None if facts is None else facts.at_start
    if start is None:
        return None
    name = {
        "stream/variance": "variance",
        "stream/correlation": "correlation",
        "stream_gradient/variance": "gradient",
    }[rest]
    if name == "gradient":
        values = values / values[-1]  # theory's is relative to the top
    curve: Floats = getattr(start, name)
    low, high = getattr(start, f"{name}_low"), getattr(start, f"{name}_high")
    if curve.shape != values.shape:
        return None
    additive = name == "correlation"
    low = low - condition.gap if additive else low / condition.factor
    high = high + condition.gap if additive else high * condition.factor
    limits = np.where(values > curve, high, low)
    return Judged((values < low) | (values > high), values, limits, curve)
