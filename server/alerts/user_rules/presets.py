"""Published rules of other tools at their defaults, each a pure step over loss and gradient norm.

Each takes what it remembers, the loss and the gradient norm of a step, and answers what it
remembers then, with the quantity that alarms, or None. A number that a step does not have is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, sqrt
from typing import Literal

from server.settings import PeerRule

Quantity = Literal["loss", "gradient_norm"]

Z_WINDOW, Z_DEVIATIONS = 30, 3.0
OLMO_WINDOW, OLMO_DEVIATIONS = 128, 6.0
ZCLIP_START, ZCLIP_ALPHA, ZCLIP_DEVIATIONS = 25, 0.97, 2.5
KILL_WINDOW, KILL_FEWEST, KILL_FACTOR, KILL_PATIENCE = 100, 20, 2.0, 4
LEAST_DEVIATION = 1e-12


@dataclass(frozen=True, slots=True)
class PresetPast:
    """What the presets remember of a run.

    Attributes:
        values: the last values of each quantity, oldest first.
        mean, variance: ZClip's moving averages; NaN before they have begun.
        in_a_row: high losses one after the other.
    """

    values: Mapping[Quantity, tuple[float, ...]] = field(default_factory=dict)
    mean: float = float("nan")
    variance: float = float("nan")
    in_a_row: int = 0


Step = tuple[PresetPast, Quantity | None]
Judge = Callable[[PresetPast, "float | None", "float | None"], Step]


def wandb_z_score(past: PresetPast, loss: float | None, norm: float | None) -> Step:
    """W&B's automation: a value 3 standard deviations off the 30 before, to either side."""
    return _beyond(past, loss, norm, window=Z_WINDOW, deviations=Z_DEVIATIONS, both=True)


def olmo_six_sigma(past: PresetPast, loss: float | None, norm: float | None) -> Step:
    """OLMo-core's StabilityMonitor: a value 6 standard deviations above the 128 before."""
    return _beyond(past, loss, norm, window=OLMO_WINDOW, deviations=OLMO_DEVIATIONS, both=False)


def zclip(past: PresetPast, _loss: float | None, norm: float | None) -> Step:
    """ZClip: a gradient norm 2.5 deviations above its moving averages, after 25 steps."""
    if norm is None:
        return past, None
    if not isfinite(past.mean):
        return _zclip_start(past, norm), None
    deviation = sqrt(past.variance)
    alarms = not (norm - past.mean) / max(deviation, LEAST_DEVIATION) <= ZCLIP_DEVIATIONS
    value = past.mean + ZCLIP_DEVIATIONS * deviation if alarms else norm
    mean = ZCLIP_ALPHA * past.mean + (1 - ZCLIP_ALPHA) * value
    variance = ZCLIP_ALPHA * past.variance + (1 - ZCLIP_ALPHA) * (value - mean) ** 2
    after = replace(past, mean=mean, variance=variance)
    return after, "gradient_norm" if alarms else None


def kill_loss_spike(past: PresetPast, loss: float | None, _norm: float | None) -> Step:
    """LLM Foundry's KillLossSpike: more than 4 losses in a row of twice the mean of the last 100.

    Its window is 100 losses or 5 % of the run, whichever is more; how long a run will be is not
    known here. Its second test, of half a window above 10, is left out.
    """
    if loss is None:
        return past, None
    losses = past.values.get("loss", ())
    known = len(losses) >= KILL_FEWEST
    is_high = known and not loss < KILL_FACTOR * sum(losses) / len(losses)
    in_a_row = past.in_a_row + 1 if is_high else 0
    after = replace(_kept(past, "loss", loss, KILL_WINDOW), in_a_row=in_a_row)
    return after, "loss" if in_a_row > KILL_PATIENCE else None


@dataclass(frozen=True, slots=True)
class PresetRule:
    """A published rule: its judgement, whose it is, what it says and where that is published."""

    judge: Judge
    title: str
    says: str
    source: str


RULES: Mapping[PeerRule, PresetRule] = {
    "wandb_z_score": PresetRule(
        wandb_z_score,
        "W&B: z-score",
        "the loss or the gradient norm lies 3 standard deviations off the 30 values before it",
        "wandb/automations/_run_metric_filters.py, MetricZScoreFilter",
    ),
    "olmo_six_sigma": PresetRule(
        olmo_six_sigma,
        "OLMo-core: six sigma",
        "the loss or the gradient norm lies 6 standard deviations above the 128 values before it",
        "OLMo-core, src/olmo_core/train/callbacks/stability_monitor.py",
    ),
    "zclip": PresetRule(
        zclip,
        "ZClip",
        "the gradient norm lies 2.5 deviations above its moving averages of rate 0.97",
        "arXiv 2504.02507",
    ),
    "kill_loss_spike": PresetRule(
        kill_loss_spike,
        "LLM Foundry: KillLossSpike",
        "more than 4 losses in a row are at least twice the mean of the 100 before them",
        "llm-foundry, llmfoundry/callbacks/kill_loss_spike_callback.py",
    ),
}


def alarms_of(judge: Judge, losses: Sequence[float], norms: Sequence[float]) -> list[int]:
    """The positions at which a rule alarms, over the losses and norms of successive steps."""
    past, alarms = PresetPast(), []
    for at, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        past, quantity = judge(past, float(loss), float(norm))
        if quantity is not None:
            alarms.append(at)
    return alarms


def _beyond(
    past: PresetPast,
    loss: float | None,
    norm: float | None,
    *,
    window: int,
    deviations: float,
    both: bool,
) -> Step:
    alarming: Quantity | None = None
    after = past
    quantities: tuple[tuple[Quantity, float | None], ...] = (
        ("gradient_norm", norm),
        ("loss", loss),
    )
    for quantity, value in quantities:
        if value is None:
            continue
        before = past.values.get(quantity, ())
        if len(before) == window:
            mean = sum(before) / window
            spread = sqrt(sum((x - mean) ** 2 for x in before) / window)
            off = (value - mean) / max(spread, LEAST_DEVIATION)
            if not (abs(off) if both else off) <= deviations:
                alarming = quantity
        after = _kept(after, quantity, value, window)
    return after, alarming


def _kept(past: PresetPast, quantity: Quantity, value: float, window: int) -> PresetPast:
    # A NaN or infinity in the window would make all that is compared with it alarm.
    if not isfinite(value):
        return past
    values = (*past.values.get(quantity, ()), value)[-window:]
    return replace(past, values={**past.values, quantity: values})


def _zclip_start(past: PresetPast, norm: float) -> PresetPast:
    past = _kept(past, "gradient_norm", norm, ZCLIP_START)
    norms = past.values.get("gradient_norm", ())
    if len(norms) < ZCLIP_START:
        return past
    mean = sum(norms) / ZCLIP_START
    return replace(past, mean=mean, variance=sum((x - mean) ** 2 for x in norms) / ZCLIP_START)
