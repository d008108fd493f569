"""How the job's time splits between the job and the agent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any, TypeVar

import torch

from trainer_agent.capture.recorder import ONCE, Recorder

BESIDE, BESIDE_ONCE = "beside", "beside, once"
# Over so many frames the work beside training is averaged: it is done for several at a time.
AVERAGED = 8
T = TypeVar("T")


class SpendingClock:
    """Reads the recorder's account at the ends of steps, of samples and of frames.

    The account holds what the training thread spends, by the clock, and what the agent's own
    threads take of the processor. The latter counts where the model computes on the CPU: beside a
    job that waits for its GPU it takes nothing away.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._spent = recorder, recorder.spent_s
        self._began = self._step_began = self._frame_began = time.perf_counter()
        self._at_step = self._at_frame = self._recurrent = 0.0
        self._beside = self._beside_a_sample = 0.0
        self._frames = 0

    def charge(self, spent_s: float, recurs: bool) -> None:
        """Add processor time of the sender's thread; called by that one alone."""
        if self._recorder.accumulator.on_cpu:
            self._spent[BESIDE if recurs else BESIDE_ONCE] += spent_s

    def charged(self, work: Callable[[], T]) -> T:
        """Do `work` of the thread that processes of one job share, and charge it."""
        began = time.thread_time()
        done = work()
        if self._recorder.accumulator.on_cpu:
            self._spent["together"] += time.thread_time() - began
        return done

    def step_over(self, ended: float) -> tuple[float, float]:
        """Length of the step that ended then, and how much of it the agent took."""
        total = self._total()
        length_s, spent_s = ended - self._step_began, total - self._at_step
        self._step_began, self._at_step = ended, total
        return length_s, spent_s

    def work_over(self, ended: float) -> float:
        """Charge the agent's work since `ended`; returns what recurs with a sample like this."""
        spent = self._spent
        spent["step"] += time.perf_counter() - ended
        recurrent = self._total() - spent[ONCE] - spent[BESIDE_ONCE] - spent[BESIDE]
        own_s, self._recurrent = recurrent - self._recurrent, recurrent
        return own_s + self._beside_a_sample

    def share_since_frame(self) -> float:
        """The agent's share from the last frame's step to the one just over; once a frame."""
        share = _share(self._at_step - self._at_frame, self._step_began - self._frame_began)
        self._frame_began, self._at_frame = self._step_began, self._at_step
        self._frames = min(self._frames + 1, AVERAGED)
        beside = self._spent[BESIDE]
        since, self._beside = beside - self._beside, beside
        self._beside_a_sample += (since - self._beside_a_sample) / self._frames
        return share

    def share_since_start(self) -> float:
        """The agent's share of all the time."""
        return _share(self._total(), time.perf_counter() - self._began)

    def _total(self) -> float:
        # Other threads ask, and add, too: copy at once.
        return sum(tuple(self._spent.values()))


def _share(part_s: float, whole_s: float) -> float:
    return min(1.0, part_s / max(whole_s, 1e-9))


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
