"""``/rules``: users' own rules, and trying one on a stored run."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from starlette.requests import HTTPConnection

from server.access.dependencies import Reader, holding
from server.access.principal import Principal
from server.alerts.events import publish_alerts
from server.alerts.user_rules import service, trial
from server.alerts.user_rules.schemas import (
    ID,
    Rule,
    RuleList,
    RuleRequest,
    Trial,
    TrialRequest,
)
from server.app_state import State
from server.outbox.outbox import Outbox

router = APIRouter(tags=["rules"])

RuleId = Annotated[str, Path(pattern=ID, description="32 hexadecimal digits")]
Editor = Annotated[Principal, Depends(holding("admin"))]


def outbox_of(connection: HTTPConnection) -> Outbox:
    """The outbox of the app that serves this connection."""
    outbox: Outbox = connection.app.state.outbox
    return outbox


Deliveries = Annotated[Outbox, Depends(outbox_of)]


@router.get("/rules")
async def list_rules(caller: Reader, state: State) -> RuleList:
    """Users' rules, the presets that there are, and the built-in rules."""
    return await service.list_rules(state.database, caller, state.settings.peer_rules)


@router.post("/rules", status_code=201)
async def add_rule(request: RuleRequest, caller: Editor, state: State) -> Rule:
    """Store a rule; it judges what runs send from now on."""
    return await service.add(state.database, request, caller, state.clock())


@router.post("/rules/test")
async def try_rule(request: TrialRequest, caller: Reader, state: State) -> Trial:
    """Where a rule would have fired on a stored run; nothing is stored."""
    return await trial.try_rule(state.database, request, caller)


@router.put("/rules/{rule_id}")
async def change_rule(
    rule_id: RuleId, request: RuleRequest, caller: Editor, state: State, outbox: Deliveries
) -> Rule:
    """Replace a rule; the alerts of the former one are resolved."""
    rule, alerts = await service.change(
        state.database, rule_id, request, caller, outbox=outbox, now=state.clock()
    )
    await publish_alerts(state.bus, alerts)
    return rule


@router.delete("/rules/{rule_id}", status_code=204)
async def remove_rule(rule_id: RuleId, caller: Editor, state: State, outbox: Deliveries) -> None:
    """Delete a rule; its alerts are resolved."""
    alerts = await service.remove(state.database, rule_id, caller, outbox=outbox, now=state.clock())
    await publish_alerts(state.bus, alerts)
