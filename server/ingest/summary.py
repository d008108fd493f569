"""What new frames change in a run's line of the run list. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from server.runs import sparkline
from server.runs.rows import RunRow
from server.runs.status import status_of
from wire import Frame, Layout, is_absent


def summary_columns(
    run: RunRow,
    *,
    frames: Sequence[Frame],
    layouts: Mapping[str, Layout],
    steps: Sequence[int],
    back_to: Sequence[int],
    received_at: float,
    lost_contact_s: float,
) -> dict[str, Any]:
    """The columns of `runs` after a commit.

    Args:
        run: the run before it.
        frames: new frames of the rank that speaks for the run, in the order they came.
        layouts: the run's layouts, by hash.
        steps: the steps of every rank's new frames.
        back_to: steps to which the speaking rank went back, in the order it did.
        received_at: when the newest batch came; it may have been empty.
        lost_contact_s: how long a run may be silent.
    """
    losses = [loss for frame in frames for loss in _losses(frame, layouts[frame.layout])]
    measured = _measured(losses, after_first=run.last_loss is not None)
    diverged = _diverged(run, frames, layouts, measured)
    return {
        "diverged": diverged,
        "status": status_of(
            ended=run.ended,
            diverged=diverged,
            diverging=run.diverging,
            silent_s=0.0,
            lost_contact_s=lost_contact_s,
        ),
        "last_seen": max(received_at, run.last_seen),
        "last_loss": measured[-1] if measured else run.last_loss,
        "sparkline": sparkline.extend(run.sparkline, measured),
        **_step_range(run, steps),
        # After a restart from a checkpoint the last step is lower than the greatest one.
        **({"last_step": back_to[-1]} if back_to else {}),
    }


def _diverged(
    run: RunRow, frames: Sequence[Frame], layouts: Mapping[str, Layout], measured: Sequence[float]
) -> bool:
    """Whether the run has diverged: the newest frame alone decides, since a run may recover."""
    if measured and not np.isfinite(measured[-1]):
        return True
    sampled = [frame for frame in frames if not layouts[frame.layout].packs_steps]
    # Scalars say nothing of the stream: the last sampled step stands.
    return _stream_is_nonfinite(sampled[-1], layouts) if sampled else run.diverged


def _step_range(run: RunRow, steps: Sequence[int]) -> dict[str, int | None]:
    first = [*steps, *([] if run.first_step is None else [run.first_step])]
    last = [*steps, *([] if run.last_step is None else [run.last_step])]
    return {"first_step": min(first, default=None), "last_step": max(last, default=None)}


def _losses(frame: Frame, layout: Layout) -> list[float | None]:
    """The loss of each of a frame's steps; None where it has none."""
    column = layout.slices.get("/loss/value")
    if column is None:
        return []
    values = frame.unpack().reshape(-1, layout.size)[:, column.start]
    pairs = zip(values.tolist(), is_absent(values), strict=True)
    return [None if absent else value for value, absent in pairs]


def _measured(losses: Sequence[float | None], *, after_first: bool) -> list[float]:
    """The losses that were measured: before the first number, NaN is an old agent's "not given"."""
    measured: list[float] = []
    for loss in losses:
        if loss is not None and (after_first or measured or not np.isnan(loss)):
            measured.append(loss)
    return measured


def _stream_is_nonfinite(frame: Frame, layouts: Mapping[str, Layout]) -> bool:
    """Whether the residual stream of any layer holds NaN or Inf.

    Where the share of such values is measured it decides, since a variance of NaN alone may
    also mean "not measured"; an infinite variance has overflowed in any case.
    """
    layout = layouts[frame.layout]
    values, slices = frame.unpack(), layout.slices
    for series in layout:
        if (series.site, series.quantity) == ("stream", "variance"):
            variance = values[slices[series.key]]
            share = slices.get(f"{series.stack}/stream/nonfinite")
            broken = np.isnan(variance) if share is None else values[share] > 0
            if bool(broken.any() or np.isinf(variance).any()):
                return True
    return False
