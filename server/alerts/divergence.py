"""Which alerts make a run's status "diverged"."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.repository import AlertRepository
from server.alerts.rows import AlertRow
from server.runs.repository import RunRepository
from server.runs.rows import RunRow
from server.runs.status import status_of

DIVERGENCE_RULES = frozenset({"nonfinite", "loss_divergence"})


async def is_diverging(session: AsyncSession, run_id: str) -> bool:
    """Whether a critical alert of divergence is unresolved."""
    return any(map(_diverges, await AlertRepository(session).unresolved(run_id)))


def _diverges(row: AlertRow) -> bool:
    return row.severity == "critical" and row.rule in DIVERGENCE_RULES


async def set_diverging(
    session: AsyncSession, run: RunRow, diverging: bool, *, silent_s: float, lost_contact_s: float
) -> None:
    """Store whether a run is diverging, and the status that follows; nothing unless it changed."""
    if diverging == run.diverging:
        return
    status = status_of(
        ended=run.ended,
        diverged=run.diverged,
        diverging=diverging,
        silent_s=silent_s,
        lost_contact_s=lost_contact_s,
    )
    await RunRepository(session).change(run.id, diverging=diverging, status=status)
