"""Where a rule would have fired on a stored run: the same judgement, over what was measured."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.access.principal import Principal
from server.alerts.lifecycle import Track, Transition, advance
from server.alerts.rules import Key, Observation, RunningStats, StackFacts, Verdict
from server.alerts.stack_facts import read_facts
from server.alerts.user_rules.judging import Pasts, UserRule, judged_by, stored_rule
from server.alerts.user_rules.schemas import Firing, Preset, Trial, TrialRequest
from server.database import Database
from server.errors import InvalidField, NotFound, RunNotFound
from server.runs.repository import RunRepository
from server.storage.measurements import (
    ANY_STEP,
    Measured,
    at_every_step,
    read,
    recorded_steps,
    sampled_steps,
    widths,
)
from wire import is_absent

MOST_STEPS = 20_000
BURST = "/burst_layers/value"
TRIED = "0" * 32  # the id of a rule that is not stored


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a run has stored of the series that a rule reads.

    Attributes:
        measured: their values, at the steps to judge.
        sampled: which of these steps were sampled, (steps,).
        facts: theory's curves.
        truncated: whether there are more steps.
    """

    measured: Measured
    sampled: NDArray[np.bool_]
    facts: Mapping[str, StackFacts]
    truncated: bool


async def try_rule(database: Database, request: TrialRequest, caller: Principal) -> Trial:
    """Judge a stored run by a rule, and store nothing.

    Raises:
        RunNotFound: if the caller has no such run.
        NotFound: if the run has no such series.
        InvalidField: if no step is left to judge.
    """
    if request.last_step is not None and request.last_step < request.first_step:
        raise InvalidField(
            f"last_step {request.last_step} lies before first_step {request.first_step}",
            field="last_step",
            fix="give a step that is not before first_step, or leave it out",
        )
    stored = await _read(database, request, caller)
    rule = stored_rule(TRIED, request.rule.model_copy(update={"enabled": True}))
    return await asyncio.to_thread(_judged, request.run, rule, stored)


async def _read(database: Database, request: TrialRequest, caller: Principal) -> _Stored:
    last = ANY_STEP if request.last_step is None else request.last_step
    async with database.reading() as session:
        run = await RunRepository(session).get(request.run)
        if run is None or not caller.sees(run.project):
            raise RunNotFound(request.run)
        layouts = await RunRepository(session).layouts_of(run.id)
        keys = _keys(request, list(widths(layouts, None)))
        every_step = any(at_every_step(layouts, key) for key in keys)
        steps_of = recorded_steps if every_step else sampled_steps
        sampled = await sampled_steps(session, run.id, after=request.first_step - 1, last=last)
        steps = await steps_of(session, run.id, after=request.first_step - 1, last=last)
        judged = steps[:MOST_STEPS]
        measured = await read(session, run.id, layouts, judged, [*keys, BURST])
        revisions = await RunRepository(session).revision_steps(run.id)
        facts = await read_facts(session, run.id, revisions[0]) if revisions else {}
    is_sampled = np.isin(judged, sampled)
    return _Stored(measured, is_sampled, facts, truncated=len(judged) < len(steps))


def _keys(request: TrialRequest, declared: list[str]) -> list[str]:
    """The series of the run that the rule reads."""
    rule = request.rule
    if isinstance(rule.condition, Preset) or rule.series is None:
        return [key for key in ("/loss/value", "/gradient_norm/value") if key in declared]
    stack, rest = rule.series.split("/", 1)
    keys = [
        key
        for key in declared
        if key == rule.series
        or (stack == "*" and key.split("/", 1)[1] == rest and not key.startswith("/"))
    ]
    if not keys and rule.condition.kind != "missing":
        listed = ", ".join(sorted(declared)[:20])
        raise NotFound(
            f"the run has no series {rule.series!r}",
            field="rule.series",
            fix=f"use one of {listed}" if declared else "choose a run that has sent frames",
        )
    return keys or ["/loss/value"]


def _judged(run_id: str, rule: UserRule, stored: _Stored) -> Trial:
    tracks: Mapping[Key, Track] = {}
    pasts: Pasts = {}
    transitions: list[Transition] = []
    judged: list[int] = []
    for observation in _observations(stored):
        stats = RunningStats(step=observation.step)
        verdict = Verdict((), frozenset(), stats, observation.sampled, observation.has_loss)
        verdict, pasts = judged_by([rule], verdict, observation, pasts)
        if rule.name in verdict.judged:
            judged.append(observation.step)
        tracks, changes = advance(tracks, verdict)
        transitions += changes
    return Trial(
        run_id=run_id,
        judged=len(judged),
        first_step=judged[0] if judged else None,
        last_step=judged[-1] if judged else None,
        truncated=stored.truncated,
        firings=_firings(transitions),
        note="" if judged else _why_nothing(rule, stored),
    )


def _observations(stored: _Stored) -> Iterator[Observation]:
    series = stored.measured.series
    absent: dict[str, list[bool]] = {
        key: is_absent(values).all(axis=1).tolist() for key, values in series.items()
    }
    wide = {key: values.astype(np.float64) for key, values in series.items()}
    stacks = {
        stack: stored.facts.get(stack, StackFacts(n_layers=0))
        for stack in {key.split("/", 1)[0] for key in series} - {""}
    }
    for at, step in enumerate(stored.measured.steps.tolist()):
        gone = frozenset(key for key in series if absent[key][at])
        sampled = bool(stored.sampled[at])
        yield Observation(
            step=step,
            # A frame without the series, as one of an older layout is, does not have it.
            values={
                key: rows[at]
                for key, rows in wide.items()
                if key not in gone or key.startswith("/")
            },
            stacks=stacks if sampled else {},
            absent=gone,
            sampled=sampled,
        )


def _firings(transitions: list[Transition]) -> list[Firing]:
    open_at: dict[Key, int] = {}
    firings: list[Firing] = []
    for change in transitions:
        finding = change.finding
        if change.kind == "opened" and finding is not None:
            open_at[change.key] = len(firings)
            firings.append(
                Firing(
                    began=change.began,
                    step=change.step,
                    resolved=None,
                    stack=finding.stack,
                    first_layer=finding.first_layer,
                    last_layer=finding.last_layer,
                    measured=finding.measured,
                    predicted=finding.predicted,
                    message=finding.message,
                )
            )
        elif change.kind == "resolved" and change.key in open_at:
            at = open_at.pop(change.key)
            firings[at] = firings[at].model_copy(update={"resolved": change.step})
    return firings


def _why_nothing(rule: UserRule, stored: _Stored) -> str:
    steps = len(stored.measured.steps)
    if not steps:
        return "the run has no steps in this range"
    if rule.window >= steps:
        return (
            f"the run has {steps} steps in this range, and the rule looks at {rule.window} before"
        )
    if rule.request.condition.kind == "outside_band":
        return "theory has no curve for this series of the run"
    return "the series has no values in this range"
