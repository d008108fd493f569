from __future__ import annotations

import time

import pytest

from tests.trainer_agent.sampling.stepped_clock import SteppedClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SteppedClock:
    """In place of `time.perf_counter`."""
    clock = SteppedClock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock
