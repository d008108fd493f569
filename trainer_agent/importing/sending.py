"""A recording on its way to the server: what an agent says, in one go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trainer_agent.delivery.transport import Refused, Transport, Unreachable
from trainer_agent.importing.recording import Recording, ReplayError
from trainer_agent.options import package_version
from wire import FrameBatch, Health, RunDeclaration, RunEnd

BYTES_A_BATCH = 1 << 20
FRAMES_A_BATCH = 512
PATIENCE_S = 30.0  # without progress
ASK_S = 0.1

T = TypeVar("T")


def replay(
    recording: Recording,
    transport: Transport,
    *,
    run_id: str,
    project: str,
    run: str,
    config: Mapping[str, Any],
) -> str:
    """Send a whole recording; returns the path of the run's page once all of it is durable.

    Again under the same id it goes on where it was interrupted.

    Raises:
        ReplayError: if the server refuses it, or takes nothing for half a minute.
    """
    declaration = RunDeclaration(
        project=project,
        name=run,
        layout=recording.layout,
        tags=("replay",),
        config=dict(config),
        started_at=float(recording.times[0]),
        agent_version=package_version(),
    )
    receipt = _insist(lambda: transport.declare(run_id, declaration))
    _send_frames(recording, transport, run_id, receipt.durable.get("0", 0))
    _insist(lambda: transport.end(run_id, RunEnd(status="finished")))
    return receipt.url


def _send_frames(recording: Recording, transport: Transport, run_id: str, mark: int) -> None:
    count = max(1, min(FRAMES_A_BATCH, BYTES_A_BATCH // (4 * recording.layout.size)))
    sent, progress_at = mark, time.monotonic()
    while mark < len(recording.steps):
        frames = list(recording.frames(sent, count))
        batch = FrameBatch(rank=0, oldest=mark + 1, frames=frames, health=Health())
        receipt = _insist(lambda batch=batch: transport.send(run_id, batch))  # type: ignore[misc]
        if receipt.durable > mark:
            mark, progress_at = receipt.durable, time.monotonic()
        sent = max(mark, sent + len(frames))
        if not frames and mark < len(recording.steps):
            if time.monotonic() - progress_at > PATIENCE_S / 3:
                sent = mark  # what the server had in hand is lost: send it again
            _require_progress(progress_at, "the server keeps nothing of what it took")
            time.sleep(ASK_S)


def _insist(say: Callable[[], T]) -> T:
    """Say it until the server answers."""
    began = time.monotonic()
    while True:
        try:
            return say()
        except Refused as refusal:
            raise ReplayError(f"the server refused: {refusal}") from refusal
        except Unreachable as failure:
            _require_progress(began, f"the server does not answer: {failure}")
            time.sleep(failure.retry_after_s or ASK_S)


def _require_progress(since: float, complaint: str) -> None:
    if time.monotonic() - since > PATIENCE_S:
        raise ReplayError(complaint)
