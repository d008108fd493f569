"""How the job's time splits between the job and the agent."""

from __future__ import annotations

import time

from trainer_agent.capture.recorder import ONCE, Recorder


class SpendingClock:
    """Reads the recorder's account at the ends of steps, of samples and of frames."""

    def __init__(self, recorder: Recorder) -> None:
        self._spent = recorder.spent_s
        self._began = self._step_began = self._frame_began = time.perf_counter()
        self._at_step = self._at_frame = self._recurrent = 0.0

    def step_over(self, ended: float) -> tuple[float, float]:
        """Length of the step that ended then, and how much of it the agent took."""
        total = self._total()
        length_s, spent_s = ended - self._step_began, total - self._at_step
        self._step_began, self._at_step = ended, total
        return length_s, spent_s

    def work_over(self, ended: float) -> float:
        """Charge the agent's work since `ended`; returns what recurs with a sample like this."""
        self._spent["step"] += time.perf_counter() - ended
        recurrent = self._total() - self._spent[ONCE]
        cost_s, self._recurrent = recurrent - self._recurrent, recurrent
        return cost_s

    def share_since_frame(self, now: float) -> float:
        """The agent's share of the time since the last call."""
        total = self._total()
        share = _share(total - self._at_frame, now - self._frame_began)
        self._frame_began, self._at_frame = now, total
        return share

    def share_since_start(self) -> float:
        """The agent's share of all the time."""
        return _share(self._total(), time.perf_counter() - self._began)

    def _total(self) -> float:
        # The sender thread asks, too, while the training thread may add a key: copy at once.
        return sum(tuple(self._spent.values()))


def _share(part_s: float, whole_s: float) -> float:
    return min(1.0, part_s / max(whole_s, 1e-9))
