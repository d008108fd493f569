"""An agent that keeps every frame until the server says that it is durable."""

from __future__ import annotations

import asyncio

import httpx
import msgspec

from tests.services.agent import Agent, batch, frame
from wire import FramesReceipt

FRAMES_A_BATCH = 10


class SpoolingAgent:
    """Sends what lies above the mark, again and again, whatever fails.

    Attributes:
        acknowledged: the highest mark that the server has ever answered.
        limit: the last frame to be sent yet; once it is acknowledged, its batch is sent again and
            again, so that the traffic does not end before what is to meet it.
    """

    def __init__(self, agent: Agent, total: int) -> None:
        self.agent = agent
        self.total = self.limit = total
        self.acknowledged = 0
        self.failures = 0
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Until every frame is durable."""
        mark = 0
        while mark < self.total:
            try:
                mark = await self._send(mark)
            except httpx.TransportError:
                self.failures += 1
                await asyncio.sleep(0.05)
            # What was promised once must hold for ever.
            assert mark >= self.acknowledged or mark == 0
            self.acknowledged = max(self.acknowledged, mark)
            self._progress.set()

    async def _send(self, mark: int) -> int:
        last = min(mark + FRAMES_A_BATCH, self.limit)
        first = min(mark + 1, last - FRAMES_A_BATCH + 1)
        frames = [frame(seq) for seq in range(first, last + 1)]
        answer = await self.agent.post(batch(frames, oldest=first))
        if answer.status_code != 200:
            assert answer.status_code >= 500, answer.text
            self.failures += 1
            await asyncio.sleep(0.05)
            return mark
        return msgspec.json.decode(answer.content, type=FramesReceipt).durable

    async def reaches(self, mark: int) -> None:
        """Wait until so much is acknowledged."""
        while self.acknowledged < mark:
            self._progress.clear()
            await self._progress.wait()
