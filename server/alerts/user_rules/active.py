"""The rules that judge a run beside the built-in ones, read anew where they have changed."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.user_rules.judging import UserRule, preset_rule, rules_for, stored_rule
from server.alerts.user_rules.repository import RuleRepository
from server.alerts.user_rules.rows import RuleRow
from server.alerts.user_rules.schemas import RuleRequest
from server.settings import PeerRule

log = structlog.get_logger(__name__)


class ActiveRules:
    """Reads stored rules for each run that is judged, and parses each of them once."""

    def __init__(self, presets: Sequence[PeerRule] = ()) -> None:
        """Rules of stored users; `presets` judge every run, as the settings say."""
        self._presets = tuple(preset_rule(name) for name in dict.fromkeys(presets))
        self._parsed: dict[tuple[str, float], UserRule | None] = {}

    async def of_run(
        self, session: AsyncSession, *, project: str, tags: Sequence[str]
    ) -> tuple[UserRule, ...]:
        """The rules that judge a run of this project with these tags, as they are stored now."""
        await self.read(session)
        return self.judging(project=project, tags=tags)

    async def read(self, session: AsyncSession) -> None:
        """Read the stored rules, where they have changed."""
        rows = await RuleRepository(session).enabled()
        # Of rules that were changed or deleted nothing is kept.
        self._parsed = {_version(row): self._rule(row) for row in rows}

    def judging(self, *, project: str, tags: Sequence[str]) -> tuple[UserRule, ...]:
        """Those that judge a run of this project with these tags, as they were last read."""
        stored = [rule for rule in self._parsed.values() if rule is not None]
        return (*self._presets, *rules_for(stored, project=project, tags=tags))

    def _rule(self, row: RuleRow) -> UserRule | None:
        if _version(row) in self._parsed:
            return self._parsed[_version(row)]
        try:
            return stored_rule(row.id, RuleRequest.model_validate(row.definition), row.updated_at)
        except ValidationError as error:  # of another version of the server
            log.warning("rule_not_understood", rule=row.id, error=str(error))
            return None


def _version(row: RuleRow) -> tuple[str, float]:
    return row.id, row.updated_at
