"""SQL over `alert_rules`."""

from __future__ import annotations

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.user_rules.rows import RuleRow
from server.database import fetch_all, fetch_first
from server.tables import alert_rules


class RuleRepository:
    """Users' rules."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def every(self) -> list[RuleRow]:
        """All rules, the oldest first."""
        query = select(alert_rules).order_by(alert_rules.c.created_at, alert_rules.c.id)
        return await fetch_all(self._session, query, RuleRow)

    async def enabled(self) -> list[RuleRow]:
        """The rules that judge runs, the oldest first."""
        query = select(alert_rules).where(alert_rules.c.enabled)
        query = query.order_by(alert_rules.c.created_at, alert_rules.c.id)
        return await fetch_all(self._session, query, RuleRow)

    async def get(self, rule_id: str) -> RuleRow | None:
        """The rule, or None."""
        query = select(alert_rules).where(alert_rules.c.id == rule_id)
        return await fetch_first(self._session, query, RuleRow)

    async def add(self, rule: RuleRow) -> None:
        """Store a new rule."""
        await self._session.execute(alert_rules.insert().values(**msgspec.structs.asdict(rule)))

    async def replace(self, rule: RuleRow) -> None:
        """Store a rule in place of the one that has its id."""
        statement = update(alert_rules).where(alert_rules.c.id == rule.id)
        await self._session.execute(statement.values(**msgspec.structs.asdict(rule)))

    async def remove(self, rule_id: str) -> None:
        """Delete a rule."""
        await self._session.execute(delete(alert_rules).where(alert_rules.c.id == rule_id))
