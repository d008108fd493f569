"""Incidents of measured runs, on real databases: one a fault, told once, also over restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

import msgspec
import pytest

from server.alerts import serializers, service
from server.alerts.incidents import recording
from server.alerts.incidents.ended_silences import tell_what_was_silenced
from server.alerts.incidents.grouping import AlertChange
from server.alerts.incidents.schemas import Incident, SilenceRequest
from server.alerts.incidents.service import IncidentChanges, list_incidents
from server.alerts.incidents.silences import end_silence, list_silences, silence
from server.alerts.repository import AlertFilter, AlertRepository
from server.alerts.rules import Advice, Finding, Observation
from server.alerts.service import AlertState
from server.database import Database, connect
from server.errors import NotFound, RunNotFound
from server.outbox.outbox import Outbox
from server.outbox.repository import DeliveryFilter
from server.outbox.service import list_deliveries
from server.runs.repository import RunRepository
from server.settings import Settings
from server.tables import runs as run_table
from tests.server.alerts.incidents.samples import key_of

RUN, OTHER = "a" * 32, "b" * 32
OUTBOX = Outbox({"0" * 16: "http://host"}, give_up_s=60.0)
MANY = "pre-ln 12, rate × 300"  # five alerts of one fault


@pytest.fixture
async def database(settings: Settings, run_row) -> AsyncIterator[Database]:
    database = connect(settings.resolved_database_url)
    async with database.writing() as session:
        await session.execute(run_table.insert(), [run_row(RUN), run_row(OTHER, "private")])
    yield database
    await database.close()


async def judge(
    database: Database,
    observations: Iterable[Observation],
    alert_state: AlertState | None = None,
    *,
    now: float = 100.0,
    run: str = RUN,
) -> AlertState:
    async with database.writing() as session:
        diagnosis = await service.diagnose(
            session,
            run_id=run,
            alert_state=alert_state or AlertState(),
            observations=list(observations),
            outbox=OUTBOX,
            now=now,
        )
    return diagnosis.alert_state


async def listed(database: Database, **filters: str) -> list[Incident]:
    page = await list_incidents(database, AlertFilter(**filters), cursor=None, limit=100)
    return page.incidents


async def sent(database: Database) -> list[str]:
    """What webhooks were told, oldest first."""
    page = await list_deliveries(database, DeliveryFilter(), cursor=None, limit=100)
    return [delivery.kind.removeprefix("incident.") for delivery in reversed(page.deliveries)]


def shown(incidents: list[Incident]) -> list[object]:
    """Incidents without what differs between two databases: ids, and times of judging."""
    return [
        (
            [incident.cause, incident.rule, incident.severity, incident.status],
            [incident.first_step, incident.last_step],
            [(alert.rule, alert.step, alert.status) for alert in incident.alerts],
            [(line.kind, line.step) for line in incident.timeline],
        )
        for incident in incidents
    ]


def changes(database: Database, *, project: str | None = None, now: float = 200.0):
    return IncidentChanges(database, OUTBOX, project=project, now=now, lost_contact_s=60.0)


async def test_alerts_of_one_fault_are_one_incident_with_one_remedy(database, runs):
    await judge(database, runs[MANY].observations())

    (incident,) = await listed(database)
    assert len(incident.alerts) == 6
    assert incident.alerts[0].rule == incident.rule
    assert incident.advice == incident.alerts[0].advice
    assert {alert.incident for alert in incident.alerts} == {incident.id}
    assert incident.first_step >= 60  # where the rate was raised
    assert incident.timeline[0].kind == "opened"
    assert await sent(database) == ["opened"]


async def test_timeline_keeps_the_newest_worsening_of_each_alert(database, runs):
    await judge(database, runs[MANY].observations())

    (incident,) = await listed(database)
    worse = [line for line in incident.timeline if line.kind == "worsened"]
    assert len(worse) == len({line.alert for line in worse}) > 1
    assert worse[-1].step == 84


async def test_alert_of_a_list_names_its_incident(database, runs):
    await judge(database, runs["post-ln 24"].observations())

    page = await service.list_alerts(database, AlertFilter(), cursor=None, limit=10)
    (incident,) = await listed(database)
    assert [alert.incident for alert in page.alerts] == [incident.id]


async def test_frame_by_frame_gives_what_one_batch_gives(database, runs):
    observations = list(runs[MANY].observations())
    await judge(database, observations)
    at_once, told_at_once = shown(await listed(database, run=RUN)), await sent(database)

    alert_state = AlertState()
    for observation in observations:
        alert_state = await judge(database, [observation], alert_state, run=OTHER)

    assert shown(await listed(database, run=OTHER)) == at_once
    assert await sent(database) == told_at_once * 2


async def test_restart_opens_no_second_incident_and_repeats_no_message(database, runs):
    observations = list(runs["post-ln 24"].observations())
    await judge(database, observations[:45])
    before = await sent(database)

    await judge(database, observations[45:], AlertState())

    assert len(await listed(database)) == 1
    assert await sent(database) == before == ["opened", "escalated"]


async def test_incident_is_resolved_and_told_when_its_alerts_clear(database, runs):
    failing, healthy = runs["post-ln 24"], runs["post-ln deepscale 24"]
    alert_state = await judge(database, failing.observations())
    later = [healthy.observation(30 + i) for i in range(25)]
    later = [_at(observation, len(failing) + i) for i, observation in enumerate(later)]

    await judge(database, later, alert_state, now=300.0)

    (incident,) = await listed(database)
    assert (incident.status, incident.resolved_at) == ("resolved", 300.0)
    assert [line.kind for line in incident.timeline][-2:] == ["cleared", "resolved"]
    assert await sent(database) == ["opened", "escalated", "resolved"]


async def test_incident_that_opens_and_ends_within_one_batch_is_told(database, runs):
    broken, healthy = runs["pre-ln 8, half overflows"], runs["pre-ln 24"]
    nan = broken.observation(27)
    later = [_at(healthy.observation(10 + i), 28 + i) for i in range(25)]

    await judge(database, [broken.observation(26), nan, *later])

    assert await sent(database) == ["opened", "resolved"]


async def test_information_that_outlasts_its_incident_ends_there(database, runs):
    dead = AlertChange("d" * 32, key_of("dead_units"), "opened", 20, "info", 1)
    loss = AlertChange("e" * 32, key_of("loss_divergence"), "opened", 30, "warning", 26)
    for change in (
        dead,
        loss,
        replace(loss, kind="resolved", step=70),
        replace(dead, kind="resolved", step=900),
    ):
        await store(database, change)

    (incident,) = await listed(database)
    assert (incident.status, len(incident.alerts)) == ("resolved", 2)
    assert [(line.kind, line.step) for line in incident.timeline][-2:] == [
        ("resolved", 70),
        ("cleared", 900),
    ]


async def test_silence_of_a_run_is_an_incident_of_its_own(database, runs):
    await judge(database, runs["post-ln 24"].observations())
    async with database.writing() as session:
        await service.report_silence(
            session, run_id=RUN, step=59, seconds=61.0, outbox=OUTBOX, now=400.0
        )

    newest, _ = await listed(database)
    assert (newest.domain, newest.cause, newest.rule) == ("contact", None, "lost_contact")


async def test_acknowledged_incident_is_not_told_when_it_escalates(database, runs):
    observations = list(runs["post-ln 24"].observations())
    alert_state = await judge(database, observations[:28])  # a warning until step 28
    (incident,) = await listed(database)

    acknowledged = await changes(database).acknowledge(incident.id)
    await judge(database, observations[28:], alert_state)

    assert acknowledged.status == "acknowledged"
    assert {alert.status for alert in acknowledged.alerts} == {"acknowledged"}
    assert [line.kind for line in acknowledged.timeline] == ["opened", "acknowledged"]
    (incident,) = await listed(database)
    assert (incident.severity, incident.status) == ("critical", "acknowledged")
    assert await sent(database) == ["opened"]


async def test_reopening_undoes_an_acknowledgement(database, runs):
    await judge(database, runs["post-ln 24"].observations())
    (before,) = await listed(database)
    await changes(database).acknowledge(before.id)

    after = await changes(database).reopen(before.id)

    assert after.status == "open"
    assert after.alerts == before.alerts


async def test_resolving_by_hand_ends_the_alerts_and_the_run_diverges_no_more(database, runs):
    await judge(database, runs[MANY].observations())
    async with database.writing() as session:
        await RunRepository(session).change(RUN, diverging=True, status="diverged", last_seen=190.0)
    (incident,) = await listed(database)

    resolved = await changes(database).resolve(incident.id)

    assert resolved.status == "resolved"
    assert {alert.status for alert in resolved.alerts} == {"resolved"}
    async with database.reading() as session:
        run = await RunRepository(session).get(RUN)
    assert (run.diverging, run.status) == (False, "running")
    assert await sent(database) == ["opened", "resolved"]


async def test_reopening_undoes_a_resolution_with_its_alerts(database, runs):
    await judge(database, runs[MANY].observations())
    (before,) = await listed(database)
    resolved = await changes(database).resolve(before.id)

    after = await changes(database, now=210.0).reopen(before.id)

    assert resolved.resolved_at == 200.0
    assert (after.status, after.resolved_at) == ("open", None)
    assert after.alerts == before.alerts


async def test_fault_that_goes_on_after_a_resolution_by_hand_is_a_new_incident(database, runs):
    observations = list(runs["post-ln 24"].observations())
    alert_state = await judge(database, observations[:40])
    (first,) = await listed(database)
    await changes(database).resolve(first.id)

    await judge(database, observations[40:], alert_state, now=300.0)
    second, _ = await listed(database)
    reopened = await changes(database, now=310.0).reopen(first.id)

    assert (second.rule, second.status) == ("rank_collapse", "open")
    # Of one key at most one alert is open: that of the new incident.
    assert {alert.status for alert in reopened.alerts} == {"resolved"}


async def test_notes_are_kept_and_the_timeline_keeps_the_former_ones(database, runs):
    await judge(database, runs["post-ln 24"].observations())
    (incident,) = await listed(database)

    for text in ("rate halved", "rate halved", "no: warm-up doubled"):
        noted = await changes(database).note(incident.id, text)

    assert noted.note == "no: warm-up doubled"
    assert [line.text for line in noted.timeline if line.kind == "note"] == [
        "rate halved",
        "no: warm-up doubled",
    ]


async def test_silenced_run_is_told_of_once_the_silence_is_over(database, runs):
    observations = list(runs["post-ln 24"].observations())
    request = SilenceRequest(run=RUN, seconds=60.0)
    await silence(database, request, project=None, now=90.0)

    alert_state = await judge(database, observations[:40], now=100.0)
    (incident,) = await listed(database)
    assert (incident.status, await sent(database)) == ("open", [])

    await tell_what_was_silenced(database, OUTBOX, now=149.0)
    assert await sent(database) == []
    for now in (150.0, 155.0):
        await tell_what_was_silenced(database, OUTBOX, now=now)
    assert await sent(database) == ["opened"]
    await judge(database, observations[40:], alert_state, now=151.0)
    assert await sent(database) == ["opened"]


async def test_silence_that_is_ended_by_hand_is_told_of(database, runs):
    row = await silence(database, SilenceRequest(seconds=1e6), project=None, now=90.0)
    await judge(database, runs["post-ln 24"].observations())

    await end_silence(database, row.id, project=None, now=110.0)
    await tell_what_was_silenced(database, OUTBOX, now=111.0)

    assert await sent(database) == ["opened"]


async def test_silence_of_a_rule_leaves_the_rest_of_an_incident_loud(database, runs):
    for rule in ("attention_logit_growth", "attention_entropy_collapse", "exploding_gradient"):
        await silence(database, SilenceRequest(rule=rule, seconds=1e6), project=None, now=0.0)

    await judge(database, runs[MANY].observations())

    (incident,) = await listed(database)
    opened = next(line for line in incident.timeline if line.kind == "opened")
    assert opened.step == 61
    assert await sent(database) == ["opened"]  # of the loss


async def test_silence_ends_by_hand_and_by_itself(database):
    request = SilenceRequest(rule="loss_spike", seconds=10.0, note="known")
    first = await silence(database, request, project=None, now=0.0)
    second = await silence(database, request, project="demo", now=5.0)

    of_others = await list_silences(database, project="private", now=6.0)
    assert [row.id for row in of_others.silences] == [first.id]
    with pytest.raises(NotFound):
        await end_silence(database, second.id, project="private", now=6.0)
    await end_silence(database, second.id, project="demo", now=6.0)
    assert (await list_silences(database, project=None, now=6.0)).silences == [first]
    assert (await list_silences(database, project=None, now=10.0)).silences == []


async def test_other_projects_are_out_of_reach(database, runs):
    await judge(database, runs["post-ln 24"].observations())
    (incident,) = await listed(database)

    with pytest.raises(NotFound):
        await changes(database, project="private").resolve(incident.id)
    with pytest.raises(RunNotFound):
        request = SilenceRequest(run=RUN, seconds=1.0)
        await silence(database, request, project="private", now=0.0)
    assert await listed(database, project="private") == []


async def store(database: Database, change: AlertChange) -> None:
    """Store a transition of an alert as diagnosis does."""
    async with database.writing() as session:
        repository = AlertRepository(session)
        before = await recording.load(session, RUN, change.step)
        if change.kind == "opened":
            rule, stack, site = change.key
            finding = Finding(
                rule, change.severity, "title", "message", Advice("do"), change.step, site, "value",
                1.0, stack,
            )  # fmt: skip
            alert = serializers.new_alert(RUN, finding, began=change.began, now=1.0)
            await repository.add(msgspec.structs.replace(alert, id=change.alert))
        else:
            await repository.change(change.alert, status="resolved", resolved_at=2.0)
        await recording.record(session, RUN, before, [change], outbox=OUTBOX, now=2.0)


def _at(observation: Observation, step: int) -> Observation:
    return replace(observation, step=step)
