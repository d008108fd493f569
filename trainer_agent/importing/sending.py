"""A recording on its way to the server: what an agent sends, in one go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trainer_agent.delivery.transport import Refused, Transport, Unreachable
from trainer_agent.importing.recording import Recording, RecordingError
from trainer_agent.options import package_version
from wire import FrameBatch, Health, RunDeclaration, RunEnd

MAX_BATCH_BYTES = 1 << 20
MAX_BATCH_FRAMES = 512
TIMEOUT_S = 30.0  # without progress
POLL_S = 0.1

T = TypeVar("T")


def send_recording(
    recording: Recording,
    transport: Transport,
    *,
    run_id: str,
    project: str,
    run: str,
    config: Mapping[str, Any],
) -> str:
    """Send a whole recording; returns the path of the run's page once all of it is durable.

    Called again with the same id it goes on where it was interrupted.

    Raises:
        RecordingError: if the server refuses it, or takes nothing for half a minute.
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
    receipt = _retried(lambda: transport.declare(run_id, declaration))
    _send_frames(recording, transport, run_id, receipt.durable.get("0", 0))
    _retried(lambda: transport.end(run_id, RunEnd(status="finished")))
    return receipt.url


def _send_frames(recording: Recording, transport: Transport, run_id: str, watermark: int) -> None:
    n_frames = max(1, min(MAX_BATCH_FRAMES, MAX_BATCH_BYTES // (4 * recording.layout.size)))
    sent, progress_at = watermark, time.monotonic()
    while watermark < len(recording.steps):
        frames = list(recording.frames(sent, n_frames))
        batch = FrameBatch(rank=0, oldest=watermark + 1, frames=frames, health=Health())
        receipt = _retried(lambda batch=batch: transport.send(run_id, batch))  # type: ignore[misc]
        if receipt.durable > watermark:
            watermark, progress_at = receipt.durable, time.monotonic()
        sent = max(watermark, sent + len(frames))
        if not frames and watermark < len(recording.steps):
            if time.monotonic() - progress_at > TIMEOUT_S / 3:
                sent = watermark  # a server that restarted has lost what it had not stored
            _require_progress(progress_at, "the server stores nothing of what it took")
            time.sleep(POLL_S)


def _retried(request: Callable[[], T]) -> T:
    """Repeat a request until the server answers it."""
    began = time.monotonic()
    while True:
        try:
            return request()
        except Refused as refusal:
            raise RecordingError(f"the server refused: {refusal}") from refusal
        except Unreachable as failure:
            _require_progress(began, f"the server does not answer: {failure}")
            time.sleep(failure.retry_after_s or POLL_S)


def _require_progress(since: float, complaint: str) -> None:
    if time.monotonic() - since > TIMEOUT_S:
        raise RecordingError(complaint)
