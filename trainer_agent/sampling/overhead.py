"""How the job's time splits between the job and the agent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any, TypeVar

import torch

from trainer_agent.capture.overhead_account import BACKGROUND, BACKGROUND_ONCE, OverheadAccount
from trainer_agent.capture.recorder import Recorder

# Over so many frames the background work is averaged: it is done for several at a time.
AVERAGED_FRAMES = 8
T = TypeVar("T")


class OverheadMeter:
    """Reads the account at the ends of steps, of samples and of frames.

    The account holds what the training thread spends, by the clock, and what the agent's own
    threads take of the processor. The latter counts where the model computes on the CPU: beside a
    job that waits for its GPU it takes nothing away.
    """

    def __init__(self, account: OverheadAccount, recorder: Recorder) -> None:
        self._account, self._recorder = account, recorder
        self._began = self._step_began = self._frame_began = time.perf_counter()
        self._at_step = self._at_frame = self._recurrent = 0.0
        self._background = self._background_per_sample = 0.0
        self._frames = 0

    def charge_background(self, spent_s: float, recurs: bool) -> None:
        """Add processor time of the sender's thread; called by that one alone."""
        if self._recorder.accumulator.on_cpu:
            self._account.add(BACKGROUND if recurs else BACKGROUND_ONCE, spent_s)

    def metered(self, task: Callable[[], T]) -> T:
        """Run a task of the thread that reduces samples over processes, and charge it."""
        began = time.thread_time()
        result = task()
        if self._recorder.accumulator.on_cpu:
            self._account.add("reduction", time.thread_time() - began)
        return result

    def end_step(self, ended: float) -> tuple[float, float]:
        """Length of the step that ended then, and how much of it the agent took."""
        total = self._account.total()
        length_s, spent_s = ended - self._step_began, total - self._at_step
        self._step_began, self._at_step = ended, total
        return length_s, spent_s

    def end_sample(self, ended: float) -> float:
        """Charge the agent's work since the step's end; returns what recurs with such a sample."""
        self._account.add("step", time.perf_counter() - ended)
        recurrent = self._account.recurrent()
        sample_s, self._recurrent = recurrent - self._recurrent, recurrent
        # Background work is done for several samples at a time: its average stands for it.
        return sample_s + self._background_per_sample

    def share_since_frame(self) -> float:
        """The agent's share from the last frame's step to the one just over; once a frame."""
        share = _share(self._at_step - self._at_frame, self._step_began - self._frame_began)
        self._frame_began, self._at_frame = self._step_began, self._at_step
        self._frames = min(self._frames + 1, AVERAGED_FRAMES)
        background = self._account.of(BACKGROUND)
        since, self._background = background - self._background, background
        self._background_per_sample += (since - self._background_per_sample) / self._frames
        return share

    def share_since_start(self) -> float:
        """The agent's share of all the time."""
        return _share(self._account.total(), time.perf_counter() - self._began)


def _share(part_s: float, total_s: float) -> float:
    return min(1.0, part_s / max(total_s, 1e-9))


def _cuda_event() -> Any:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


class DeviceClock:
    """Compares sampled steps with the unsampled ones after them, on the device's own clock.

    Events are recorded only around samples and read only once the device has passed them:
    nothing waits.
    """

    def __init__(self, record: Callable[[], Any] = _cuda_event) -> None:
        self._record = record
        self._last: Any = None
        self._after_sample = False
        self._pending: deque[tuple[Any, Any, bool]] = deque(maxlen=16)
        self._lengths: dict[bool, deque[float]] = {
            sampled: deque(maxlen=5) for sampled in (True, False)
        }

    def end_step(self, *, sampled: bool, next_sampled: bool) -> None:
        """Note the end of a step."""
        near, self._after_sample = sampled or next_sampled or self._after_sample, sampled
        previous, self._last = self._last, self._record() if near else None
        if previous is not None and self._last is not None:
            self._pending.append((previous, self._last, sampled))

    def extra_s(self) -> float:
        """By how much sampled steps are longer, 0 while that is not known."""
        while self._pending and self._pending[0][1].query():
            began, ended, sampled = self._pending.popleft()
            self._lengths[sampled].append(began.elapsed_time(ended) / 1e3)
        if not all(self._lengths.values()):
            return 0.0
        return max(0.0, median(self._lengths[True]) - median(self._lengths[False]))
