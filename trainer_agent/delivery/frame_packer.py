"""From finished samples to numbered frames."""

from __future__ import annotations

import time

from trainer_agent.delivery import messages
from trainer_agent.delivery.messages import Sample
from trainer_agent.delivery.spool import Spool
from wire import Frame

FRAMES_PER_MILLISECOND = 1024


class FramePacker:
    """Numbers the frames of one run and rank, and declares each layout once in a spool.

    Attributes:
        last_seq: number of the newest frame, or the one before the first.
    """

    def __init__(self, last_seq: int) -> None:
        self.last_seq = last_seq
        self._declared: set[str] = set()

    def pack(self, sample: Sample, spool: Spool) -> Frame:
        """The sample's frame; waits for the device."""
        declaration, values = sample.content()
        layout = declaration.layout.hash
        frame = Frame.pack(
            seq=self.last_seq + 1, step=sample.step, time=sample.time, layout=layout, values=values
        )
        self.last_seq += 1
        if layout not in self._declared:
            self._declared.add(layout)
            messages.put_declaration(spool, declaration)
        return frame


def resumed_seq(last_seq: int) -> int:
    """The number after which a resumed run goes on: past every frame it can ever have sent.

    The spool with the highest number may be on another machine, but an earlier process cannot
    have numbered frames faster than `FRAMES_PER_MILLISECOND` of the clock. Until the year 2248
    the result is an integer that float64 holds exactly.
    """
    return max(last_seq, int(time.time() * 1000) * FRAMES_PER_MILLISECOND)
