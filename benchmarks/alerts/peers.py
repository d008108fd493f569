"""Published rules of other tools, at their defaults, on the same losses and gradient norms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Alarms = list[int]
QUIET = 20  # steps without an alarm after which the next one is a new one


def z_score(losses: Floats, norms: Floats) -> Alarms:
    """W&B's automation: the loss, or the gradient norm, 3 deviations off the last 30 values."""
    return sorted({*_beyond(losses, 30, 3.0, both=True), *_beyond(norms, 30, 3.0, both=True)})


def six_sigma(losses: Floats, norms: Floats) -> Alarms:
    """OLMo-core: the loss, or the gradient norm, 6 deviations above the last 128 values."""
    return sorted({*_beyond(losses, 128, 6.0), *_beyond(norms, 128, 6.0)})


def z_clip(_losses: Floats, norms: Floats) -> Alarms:
    """ZClip: the gradient norm 2.5 deviations above moving averages of rate 0.97, from step 25."""
    start = norms[:25]
    mean, variance, alarms = float(np.mean(start)), float(np.var(start)), []
    for step in range(25, len(norms)):
        z = (norms[step] - mean) / max(np.sqrt(variance), 1e-12)
        value = norms[step]
        if not z <= 2.5:
            alarms.append(step)
            value = mean + 2.5 * np.sqrt(variance)
        mean = 0.97 * mean + 0.03 * value
        variance = 0.97 * variance + 0.03 * (value - mean) ** 2
    return alarms


def kill_loss_spike(losses: Floats, _norms: Floats) -> Alarms:
    """LLM Foundry: more than 4 losses in a row of twice the mean of the last 100."""
    alarms, in_a_row = [], 0
    for step in range(20, len(losses)):
        above = not losses[step] < 2 * np.mean(losses[max(0, step - 100) : step])
        in_a_row = in_a_row + 1 if above else 0
        if in_a_row > 4:
            alarms.append(step)
    return alarms


PEERS: dict[str, Callable[[Floats, Floats], Alarms]] = {
    "W&B z-score": z_score,
    "OLMo 6 sigma": six_sigma,
    "ZClip": z_clip,
    "KillLossSpike": kill_loss_spike,
}


def episodes(alarms: Alarms) -> Alarms:
    """The alarms that begin something: the first, and those after a quiet while."""
    return [at for n, at in enumerate(alarms) if n == 0 or at - alarms[n - 1] > QUIET]


def _beyond(values: Floats, window: int, deviations: float, *, both: bool = False) -> Alarms:
    alarms = []
    for step in range(window, len(values)):
        past = values[step - window : step]
        off = (values[step] - past.mean()) / max(past.std(), 1e-12)
        if not (abs(off) if both else off) <= deviations:
            alarms.append(step)
    return alarms
