"""Plans and sums of one process of a job."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from trainer_agent.capture.statistics.accumulator import Accumulator
from trainer_agent.capture.statistics.sums import ADDITIVE, MAXIMA, Sums
from trainer_agent.model.plan import Plan, StackPlan


def plan(n: int) -> Plan:
    """A decoder of `n` blocks."""
    return Plan(
        (StackPlan("decoder", tuple(f"h.{i}" for i in range(n)), (None,) * n, (None,) * n),)
    )


def sums(local_plan: Plan, value: float) -> Sums:
    """Sums of a step in which every row is `value`."""
    zeros = Accumulator(local_plan, torch.device("cpu")).take()()
    filled = {name: np.full_like(getattr(zeros, name), value) for name in (*ADDITIVE, *MAXIMA)}
    return replace(zeros, **filled)
