"""The use cases of users' rules: list, store, change, delete."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from server.access.dependencies import require_project
from server.access.principal import Principal
from server.alerts.incidents import recording
from server.alerts.incidents.grouping import AlertChange
from server.alerts.repository import AlertRepository
from server.alerts.rules import RULES
from server.alerts.schemas import Alert
from server.alerts.serializers import alert as alert_answer
from server.alerts.user_rules import presets
from server.alerts.user_rules.judging import name_of
from server.alerts.user_rules.repository import RuleRepository
from server.alerts.user_rules.rows import RuleRow
from server.alerts.user_rules.schemas import (
    BuiltInRule,
    PresetInfo,
    Rule,
    RuleList,
    RuleRequest,
)
from server.database import Database
from server.errors import Conflict, NotFound
from server.outbox.outbox import Outbox
from server.runs.repository import RunRepository
from server.runs.service import require_tags
from server.settings import PeerRule

MOST_RULES = 500  # each judges every step of the runs that it is for


async def list_rules(
    database: Database, caller: Principal, switched_on: Sequence[PeerRule]
) -> RuleList:
    """The rules that concern the caller's project, and those that there are without them."""
    async with database.reading() as session:
        rows = await RuleRepository(session).every()
    visible = [row for row in rows if row.project is None or caller.sees(row.project)]
    return RuleList(
        rules=[_answer(row) for row in visible],
        presets=[
            PresetInfo(
                name=name,
                title=preset.title,
                rule=f"It alarms where {preset.says}.",
                source=preset.source,
                switched_on=name in switched_on,
            )
            for name, preset in presets.RULES.items()
        ],
        built_in=[
            BuiltInRule(
                name=rule.name, opens_after=rule.opens_after, clears_after=rule.clears_after
            )
            for rule in RULES
        ],
    )


async def add(database: Database, request: RuleRequest, caller: Principal, now: float) -> Rule:
    """Store a rule; it judges what arrives from now on.

    Raises:
        ScopeMissing: if it is for a project that the caller may not touch.
        InvalidField: if a tag is none.
        Conflict: if there are as many rules as a server judges by.
    """
    request = _scoped(request, caller)
    row = _row(uuid.uuid4().hex, request, created_at=now, now=now)
    async with database.writing() as session:
        repository = RuleRepository(session)
        if len(await repository.every()) >= MOST_RULES:
            raise Conflict(
                f"there are {MOST_RULES} rules already",
                field="name",
                fix="delete one with DELETE /api/v1/rules/{rule_id}",
            )
        await repository.add(row)
    return _answer(row)


async def change(
    database: Database,
    rule_id: str,
    request: RuleRequest,
    caller: Principal,
    *,
    outbox: Outbox,
    now: float,
) -> tuple[Rule, list[Alert]]:
    """Replace a rule; returns it with the alerts of the former one, which are resolved.

    Raises:
        NotFound: if the caller has no such rule.
        ScopeMissing: if it is for a project that the caller may not touch.
        InvalidField: if a tag is none.
    """
    request = _scoped(request, caller)
    async with database.writing() as session:
        before = await _stored(session, rule_id, caller)
        row = _row(rule_id, request, created_at=before.created_at, now=now)
        if now <= before.updated_at:  # two changes of one moment are still two versions
            row = msgspec.structs.replace(row, updated_at=before.updated_at + 1e-3)
        await RuleRepository(session).replace(row)
        alerts = await _resolve(session, rule_id, outbox, now)
    return _answer(row), alerts


async def remove(
    database: Database, rule_id: str, caller: Principal, *, outbox: Outbox, now: float
) -> list[Alert]:
    """Delete a rule; returns its alerts, which are resolved.

    Raises:
        NotFound: if the caller has no such rule.
    """
    async with database.writing() as session:
        await _stored(session, rule_id, caller)
        await RuleRepository(session).remove(rule_id)
        return await _resolve(session, rule_id, outbox, now)


async def _resolve(session: AsyncSession, rule_id: str, outbox: Outbox, now: float) -> list[Alert]:
    """Resolve a rule's alerts at once: a run that has ended has no further step to do it."""
    repository, resolved = AlertRepository(session), []
    for row in await repository.unresolved_of_rule(name_of(rule_id)):
        await RunRepository(session).get(row.run_id, lock=True)  # as diagnosis locks it
        incidents = await recording.load(session, row.run_id, row.last_step)
        await repository.change(row.id, status="resolved", resolved_at=now)
        change = AlertChange(
            alert=row.id,
            key=row.finding_key,
            kind="resolved",
            step=row.last_step,
            severity=row.severity,
            began=row.began,
        )
        await recording.record(session, row.run_id, incidents, [change], outbox=outbox, now=now)
        if (after := await repository.get(row.id)) is not None:
            resolved.append(alert_answer(after))
    return resolved


def _scoped(request: RuleRequest, caller: Principal) -> RuleRequest:
    """The request, for the only project of a caller who has but one."""
    require_tags(request.tags)
    if request.project is None and caller.project is not None:
        return request.model_copy(update={"project": caller.project})
    if request.project is not None:
        require_project(caller, request.project)
    return request


async def _stored(session: AsyncSession, rule_id: str, caller: Principal) -> RuleRow:
    row = await RuleRepository(session).get(rule_id)
    # A rule for every project is not for a key of one of them to change.
    if row is None or caller.project not in (None, row.project):
        raise NotFound(
            f"there is no rule {rule_id!r}",
            field="rule_id",
            fix="list rules with GET /api/v1/rules",
        )
    return row


def _row(rule_id: str, request: RuleRequest, *, created_at: float, now: float) -> RuleRow:
    return RuleRow(
        id=rule_id,
        project=request.project,
        enabled=request.enabled,
        definition=request.model_dump(mode="json"),
        created_at=created_at,
        updated_at=now,
    )


def _answer(row: RuleRow) -> Rule:
    times = {"created_at": row.created_at, "updated_at": row.updated_at}
    return Rule.model_validate({"id": row.id, **row.definition, **times})
