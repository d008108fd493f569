"""What a sample costs the device, from the lengths of steps there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any

import torch


def _cuda_event() -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


class DeviceClock:
    """Compares sampled steps with the unsampled ones after them, on the device's own clock.

    Marks are set only around samples and read only once the device has passed them: nothing
    waits.
    """

    def __init__(self, mark: Callable[[], Any] = _cuda_event) -> None:
        self._mark = mark
        self._last: Any = None
        self._after_sample = False
        self._open: deque[tuple[Any, Any, bool]] = deque(maxlen=16)
        self._lengths: dict[bool, deque[float]] = {
            sampled: deque(maxlen=5) for sampled in (True, False)
        }

    def step_over(self, *, sampled: bool, next_sampled: bool) -> None:
        """Note the end of a step."""
        near, self._after_sample = sampled or next_sampled or self._after_sample, sampled
        previous, self._last = self._last, self._mark() if near else None
        if previous is not None and self._last is not None:
            self._open.append((previous, self._last, sampled))

    def extra_s(self) -> float:
        """By how much sampled steps are longer, 0 while that is not known."""
        while self._open and self._open[0][1].query():
            began, ended, sampled = self._open.popleft()
            self._lengths[sampled].append(began.elapsed_time(ended) / 1e3)
        if not all(self._lengths.values()):
            return 0.0
        return max(0.0, median(self._lengths[True]) - median(self._lengths[False]))
