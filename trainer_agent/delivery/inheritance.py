"""What jobs that died have left in the spool folder."""

from __future__ import annotations

from trainer_agent.delivery import messages, spool_folder
from trainer_agent.delivery.exporter import Courier, Pace
from trainer_agent.delivery.spool import Spool
from trainer_agent.delivery.transport import Transport
from trainer_agent.options import Options


class Inheritance:
    """Delivers, one after the other, the spools that dead jobs left in the folder."""

    def __init__(self, options: Options, transport: Transport, pace: Pace) -> None:
        self._orphans = spool_folder.adopt_orphans(
            options.spool_dir, server=options.server, limit_bytes=options.spool_limit_bytes
        )
        self._transport, self._pace = transport, pace
        self._spool: Spool | None = None
        self._courier: Courier | None = None

    def round(self) -> float:
        """Do a little of it; returns the seconds until there may be more to do."""
        if self._courier is None or self._spool is None:
            return 0.0 if self._take_next() else float("inf")
        rest_s = self._courier.round()
        if self._courier.delivered:
            spool_folder.remove(self._spool)
            self._courier = None
            return 0.0
        return rest_s

    def _take_next(self) -> bool:
        self._spool = next(self._orphans, None)
        if self._spool is None:
            return False
        belongs = messages.origin(self._spool)
        assert belongs is not None  # adopt_orphans yields no other
        _, run_id, rank = belongs
        self._courier = Courier(
            self._spool, self._transport, run_id=run_id, rank=rank, pace=self._pace
        )
        return True
