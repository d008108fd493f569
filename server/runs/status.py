"""How a run fares, from what is known of it."""

from __future__ import annotations

from typing import Literal

Ending = Literal["finished", "failed"]
Status = Literal[Ending, "running", "diverged", "lost_contact"]


def status_of(
    *, ended: Ending | None, diverged: bool, diverging: bool, silent_s: float, lost_contact_s: float
) -> Status:
    """The status of a run.

    Args:
        ended: how the agent says that the run ended, or None while it has not.
        diverged: whether the newest loss or stream is not finite.
        diverging: whether a critical divergence alert is open.
        silent_s: seconds since the agent last sent anything.
        lost_contact_s: how long it may be silent.
    """
    # First: a run that ended with NaN has not finished well, whatever its agent says.
    if diverged or diverging:
        return "diverged"
    if ended is not None:
        return ended
    return "lost_contact" if silent_s > lost_contact_s else "running"
