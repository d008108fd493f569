"""Findings become rows once, whatever stops in between."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from server.alerts import service
from server.alerts.repository import AlertFilter
from server.alerts.service import AlertState
from server.database import connect
from server.errors import NotFound
from server.outbox.outbox import Outbox
from server.outbox.repository import DeliveryFilter
from server.outbox.service import list_deliveries
from server.tables import metadata
from server.tables import runs as run_table

RUN = "a" * 32
OTHER = "b" * 32
OUTBOX = Outbox({"0" * 16: "http://host"}, give_up_s=60.0)


@pytest.fixture
async def database(tmp_path, run_row):
    alerts_db = connect(f"sqlite+aiosqlite:///{tmp_path / 'alerts.db'}")
    async with alerts_db.engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(run_table.insert(), [run_row(RUN), run_row(OTHER, "private")])
    yield alerts_db
    await alerts_db.close()


async def judge(database, observations, alert_state=None, now=100.0):
    async with database.writing() as session:
        return await service.diagnose(
            session,
            run_id=RUN,
            alert_state=alert_state or AlertState(),
            observations=list(observations),
            outbox=OUTBOX,
            now=now,
        )


async def stored(database, **filters):
    page = await service.list_alerts(database, AlertFilter(**filters), cursor=None, limit=100)
    return page.alerts


async def sent(database):
    page = await list_deliveries(database, DeliveryFilter(), cursor=None, limit=100)
    return page.deliveries


async def test_what_is_to_be_notified_is_in_the_outbox_with_the_same_commit(database, runs):
    outcome = await judge(database, runs["post-ln 24"].observations())

    (alert,) = outcome.alarming
    escalated, opened = await sent(database)
    assert (opened.kind, escalated.kind) == ("incident.opened", "incident.escalated")
    assert (escalated.run_id, escalated.status) == (RUN, "pending")
    assert alert.title in escalated.title


async def test_a_failing_run_is_stored_with_all_that_an_alert_says(database, runs):
    outcome = await judge(database, runs["post-ln 24"].observations())

    (alert,) = [alert for alert in await stored(database) if alert.rule == "rank_collapse"]
    assert alert in outcome.changed
    assert (alert.run_id, alert.run_name, alert.status) == (RUN, "post-ln", "open")
    assert alert.severity == "critical"
    assert alert.step < alert.last_step
    assert alert.advice.scaling.n_layers == 24
    assert alert.opened_at == 100.0


async def test_frame_by_frame_stores_what_one_batch_stores(database, runs):
    alert_state = AlertState()
    for observation in runs["post-ln 24"].observations():
        alert_state = (await judge(database, [observation], alert_state)).alert_state
    step_by_step = await stored(database)

    (alert,) = step_by_step
    assert alert.rule == "rank_collapse"
    assert alert.last_step > alert.step


async def test_a_restart_in_the_middle_repeats_no_alert(database, runs):
    observations = list(runs["post-ln 24"].observations())
    await judge(database, observations[:45])

    outcome = await judge(database, observations[45:], alert_state=AlertState())

    assert [alert.rule for alert in await stored(database)] == ["rank_collapse"]
    assert outcome.alarming == ()


async def test_frames_judged_again_after_a_crash_change_nothing(database, runs):
    observations = list(runs["post-ln 24"].observations())
    alert_state = (await judge(database, observations)).alert_state
    before = await stored(database)

    outcome = await judge(database, observations[-5:], alert_state)

    assert outcome.changed == ()
    assert await stored(database) == before


async def test_a_rolled_back_transaction_leaves_the_watch_as_it_was(database, runs):
    observations = list(runs["post-ln 24"].observations())
    alert_state = AlertState()
    with pytest.raises(RuntimeError):
        async with database.writing() as session:
            await service.diagnose(
                session,
                run_id=RUN,
                alert_state=alert_state,
                observations=observations,
                outbox=OUTBOX,
                now=1.0,
            )
            raise RuntimeError("the commit fails")

    assert await sent(database) == []
    outcome = await judge(database, observations, alert_state)

    assert "rank_collapse" in [alert.rule for alert in outcome.alarming]


async def test_an_acknowledged_alert_stays_one_and_is_not_announced_again(database, runs):
    observations = list(runs["post-ln 24"].observations())
    first = await judge(database, observations[:40])
    (opened,) = [alert for alert in first.alarming if alert.rule == "rank_collapse"]
    await service.acknowledge(database, opened.id, project=None)

    second = await judge(database, observations[40:], first.alert_state)

    (alert,) = [alert for alert in await stored(database) if alert.rule == "rank_collapse"]
    assert alert.status == "acknowledged"
    assert "rank_collapse" not in [alert.rule for alert in second.alarming]


async def test_an_alert_that_clears_is_resolved_and_told_to_pages_only(database, runs):
    failing, healthy = runs["post-ln 24"], runs["post-ln deepscale 24"]
    first = await judge(database, failing.observations())
    later = [_at(healthy, 30 + i, len(failing) + i) for i in range(25)]

    outcome = await judge(database, later, first.alert_state)

    ended = [alert.rule for alert in outcome.changed if alert.status == "resolved"]
    assert ended == ["rank_collapse"]
    assert outcome.alarming == ()


async def test_divergence_is_reported_as_it_begins(database, runs):
    outcome = await judge(database, runs["pre-ln 12, rate × 300"].observations())

    assert outcome.diverging is True


async def test_a_collapse_is_no_divergence(database, runs):
    outcome = await judge(database, runs["post-ln 24"].observations())

    assert outcome.diverging is False


async def test_nan_survives_in_an_alert(database, runs):
    await judge(database, runs["pre-ln 8, half overflows"].observations())

    (loss,) = [alert for alert in await stored(database) if alert.site == "loss"]
    assert math.isnan(loss.measured)
    assert '"measured":"NaN"' in loss.model_dump_json()


async def test_silence_is_told_once_and_ended_by_the_next_frame(database, runs):
    for _ in range(2):
        async with database.writing() as session:
            outcome = await service.report_silence(
                session, run_id=RUN, step=4, seconds=61.0, outbox=OUTBOX, now=5.0
            )
    assert outcome.changed == ()
    (alert,) = await stored(database)
    assert (alert.rule, alert.status) == ("lost_contact", "open")

    await judge(database, [runs["pre-ln 24"].observation(5)])

    assert [alert.status for alert in await stored(database)] == ["resolved"]


async def test_alerts_are_listed_page_by_page_newest_first(database, runs):
    alert_state = AlertState()
    for now, observation in enumerate(runs["pre-ln 12, rate × 300"].observations()):
        alert_state = (
            await judge(database, [observation], alert_state, now=float(now))
        ).alert_state
    everything = await stored(database)

    pages, cursor = [], None
    while True:
        page = await service.list_alerts(database, AlertFilter(), cursor=cursor, limit=2)
        pages += page.alerts
        cursor = page.next_cursor
        if cursor is None:
            break

    assert pages == everything
    assert len(everything) >= 3
    assert [alert.opened_at for alert in pages] == sorted(
        (o.opened_at for o in pages), reverse=True
    )


async def test_alerts_are_listed_by_run_status_and_project(database, runs):
    await judge(database, runs["post-ln 24"].observations())

    assert await stored(database, run=OTHER) == []
    assert await stored(database, status="resolved") == []
    assert await stored(database, project="private") == []
    assert len(await stored(database, run=RUN, status="open", project="demo")) == 1


async def test_another_projects_alert_cannot_be_acknowledged(database, runs):
    await judge(database, runs["post-ln 24"].observations())
    (alert, *_) = await stored(database)

    with pytest.raises(NotFound) as refused:
        await service.acknowledge(database, alert.id, project="private")
    assert refused.value.field == "alert_id"


def _at(run, step, new_step):
    return replace(run.observation(step), step=new_step)
