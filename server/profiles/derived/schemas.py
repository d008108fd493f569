"""The JSON form of what is known one block ahead."""

from __future__ import annotations

from typing import Literal

from server.schemas import Answer

BaselineSource = Literal["none", "theory", "theory and measurement", "measurement"]


class BaselineInfo(Answer):
    """What the expectations at a step are made of.

    `samples` of the measured steps before, from `first_step` on. `layout_since` is the first step
    measured with the depth that the run has now, and starts a baseline anew; null where all samples
    that were looked at have it.
    """

    samples: int
    first_step: int | None
    source: BaselineSource
    layout_since: int | None


class DepartureInfo(Answer):
    """A block that left its band before any other; `block` is null where the batch's input did.

    `measured` is the innovation, in the unit of `innovation/{quantity}`, as are `low` and `high`;
    null where it is not finite.
    """

    stack: str
    block: int | None
    input: bool
    quantity: str
    step: int
    last_step: int
    measured: float | None
    low: float
    high: float
    text: str


class AheadAnswer(Answer):
    """Which blocks depart from what they did before, up to a step.

    `note` says why none can be named yet, and which is farthest off; empty once one can.
    """

    run_id: str
    step: int
    baseline: BaselineInfo
    note: str
    legend: dict[str, str]
    departures: list[DepartureInfo]
