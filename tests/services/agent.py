"""An agent as the server sees one: declares a run, sends batches."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from wire import (
    MEDIA_TYPE,
    Frame,
    FrameBatch,
    FramesReceipt,
    Health,
    Layout,
    RunDeclaration,
    RunReceipt,
    Series,
    encode_batch,
    pack_steps,
    steps_layout,
)

N_LAYERS = 4
LAYOUT = Layout(
    (
        Series("decoder", "stream", "variance", N_LAYERS + 1),
        Series("decoder", "stream", "correlation", N_LAYERS + 1),
        Series("decoder", "stream_gradient", "variance", N_LAYERS + 1),
        Series("", "loss", "value", 1),
        Series("", "learning_rate", "value", 1),
    )
)

STEPS_LAYOUT = steps_layout(("loss", "learning_rate"))


def vector(step: int, loss: float = 1.0, layout: Layout = LAYOUT) -> NDArray[np.float32]:
    """Distinct values for a step: each entry says which step and place it came from."""
    values = (step + np.arange(layout.size) / 100).astype(np.float32)
    values[layout.slices["/loss/value"]] = loss
    return values


def frame(seq: int, step: int | None = None, **changes: Any) -> Frame:
    """A frame whose step is its number, unless told otherwise."""
    step = seq if step is None else step
    values = changes.pop("values", None)
    values = vector(step) if values is None else values
    layout = changes.pop("layout", LAYOUT.hash)
    time = changes.pop("time", 1_000.0 + step)
    return Frame.pack(seq=seq, step=step, time=time, layout=layout, values=values)


def steps_frame(seq: int, last: int, losses: Sequence[float]) -> Frame:
    """The losses of the steps up to `last`, which were not sampled."""
    steps = np.arange(last - len(losses) + 1, last + 1)
    values = np.column_stack([losses, np.full(len(losses), 1e-3)]).astype(np.float32)
    times = (1_000.0 + steps).tolist()
    packed = pack_steps(times, values)
    return Frame.pack(seq=seq, step=last, time=times[-1], layout=STEPS_LAYOUT.hash, values=packed)


def batch(frames: Sequence[Frame], *, rank: int = 0, oldest: int = 1, **health: Any) -> bytes:
    """The body of a request with these frames."""
    message = FrameBatch(rank=rank, oldest=oldest, frames=list(frames), health=Health(**health))
    return encode_batch(message)


@dataclass
class Agent:
    """One run's agent; `client` speaks to the server under test."""

    client: httpx.AsyncClient
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def path(self, suffix: str = "") -> str:
        """A path of this run."""
        return f"/api/v1/runs/{self.run_id}{suffix}"

    async def declare(self, **changes: Any) -> RunReceipt:
        """Declare the run."""
        fields = {"project": "demo", "name": "run", "layout": LAYOUT} | changes
        body = msgspec.json.encode(RunDeclaration(**fields))
        answer = await self.client.put(self.path(), content=body)
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=RunReceipt)

    async def post(self, body: bytes) -> httpx.Response:
        """Send a batch and return whatever is answered."""
        headers = {"content-type": MEDIA_TYPE}
        return await self.client.post(self.path("/frames"), content=body, headers=headers)

    async def send(self, frames: Sequence[Frame], **changes: Any) -> FramesReceipt:
        """Send a batch that must be taken."""
        answer = await self.post(batch(frames, **changes))
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=FramesReceipt)

    async def get(self, suffix: str = "", **query: Any) -> Any:
        """Read what must be there."""
        answer = await self.client.get(self.path(suffix), params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()
