"""Answer which blocks depart from what they did before."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

import numpy as np

from dslm.ahead import QUANTITIES, WINDOW, Ahead, departures
from dslm.ahead.departures import FEWEST
from server.database import Database
from server.errors import NotFound
from server.profiles.derived.model_facts import ModelFacts, model_facts
from server.profiles.derived.names import raw_key
from server.profiles.derived.recent import recent_ahead
from server.profiles.derived.schemas import AheadAnswer, BaselineInfo, BaselineSource, DepartureInfo
from server.profiles.derived.sentences import LEGEND, departure_text, early_text, farthest_text
from server.runs.repository import RunRepository
from server.storage.downsample import Steps
from server.storage.measurements import ANY_STEP, Measured, read, steps_up_to, widths

LOOKED_BACK = 256  # samples among which departures are looked for


async def show_ahead(database: Database, run_id: str, step: int | None) -> AheadAnswer:
    """The departures among the last samples up to a step, newest first.

    Raises:
        NotFound: if there is no frame up to that step.
    """
    async with database.reading() as session:
        last = ANY_STEP if step is None else step
        steps = await steps_up_to(session, run_id, last, LOOKED_BACK + WINDOW)
        if not len(steps):
            raise NotFound(
                f"no frame at or before step {step}" if step is not None else "no frames yet",
                field="step",
                fix="ask GET /api/v1/runs/{run_id}/steps which steps there are",
            )
        layouts = await RunRepository(session).layouts_of(run_id)
        declared = widths(layouts, None)
        stacks = _stacks(declared)
        keys = [raw_key(stack, quantity) for stack in stacks for quantity in QUANTITIES.values()]
        measured = await read(session, run_id, layouts, steps, keys)
    facts = await model_facts(database, run_id)
    rows = np.arange(max(0, len(steps) - LOOKED_BACK), len(steps))
    # In a thread: the first answer of a run takes long enough for others to wait.
    by_stack = await asyncio.to_thread(recent_ahead, run_id, stacks, measured, rows, facts)
    return AheadAnswer(
        run_id=run_id,
        step=int(steps[-1]),
        baseline=_baseline(measured, stacks, facts),
        note=_early_note(by_stack),
        legend=LEGEND,
        departures=sorted(
            (
                departure
                for stack, ahead in by_stack.items()
                for departure in _departures(stack, ahead, steps[rows])
            ),
            key=lambda departure: -departure.step,
        ),
    )


def _stacks(declared: Mapping[str, int]) -> list[str]:
    end = "/stream/variance"
    return [key.removesuffix(end) for key in declared if key.endswith(end)]


def _early_note(by_stack: Mapping[str, Mapping[str, Ahead]]) -> str:
    """Why no block can be named yet at the newest step, and which is farthest off; or nothing."""
    samples = max((a.samples[-1].max() for s in by_stack.values() for a in s.values()), default=0)
    if samples >= FEWEST:
        return ""
    places = [
        (abs(ahead.innovation[-1, block]) / ahead.innovation_high[-1, block], stack, name, block)
        for stack, of_stack in by_stack.items()
        for name, ahead in of_stack.items()
        for block in np.flatnonzero(ahead.outside[-1] & np.isfinite(ahead.innovation[-1])).tolist()
    ]
    if not places:
        return early_text(int(samples), FEWEST)
    _, stack, name, block = max(places)
    ahead = by_stack[stack][name]
    innovation, high = ahead.innovation[-1, block], ahead.innovation_high[-1, block]
    farthest = farthest_text(stack, block, name, innovation=float(innovation), high=float(high))
    return f"{early_text(int(samples), FEWEST)} {farthest}"


def _departures(stack: str, ahead: Mapping[str, Ahead], steps: Steps) -> list[DepartureInfo]:
    answers = []
    for departure in departures(ahead):
        of_quantity, block = ahead[departure.quantity], departure.block
        if block is None:
            innovation = float(of_quantity.start[departure.row])
            high = float(of_quantity.start_high[departure.row])
        else:
            innovation = float(of_quantity.innovation[departure.row, block])
            high = float(of_quantity.innovation_high[departure.row, block])
        step = int(steps[departure.row])
        answers.append(
            DepartureInfo(
                stack=stack,
                block=block,
                input=block is None,
                quantity=departure.quantity,
                step=step,
                last_step=int(steps[departure.last_row]),
                measured=innovation if math.isfinite(innovation) else None,
                low=-high,
                high=high,
                text=departure_text(
                    stack, block, departure.quantity, step, innovation=innovation, high=high
                ),
            )
        )
    return answers


def _baseline(measured: Measured, stacks: list[str], facts: ModelFacts) -> BaselineInfo:
    """What the expectations of the newest sample are made of, in the first stack."""
    key = f"{stacks[0]}/stream/variance" if stacks else ""
    values = measured.series.get(key, np.empty((len(measured.steps), 0), np.float32))
    present = np.flatnonzero(np.isfinite(values).any(axis=1))
    newest = len(measured.steps) - 1
    before = present[(present >= newest - WINDOW) & (present < newest)]
    has_theory = key in facts.theory and newest < WINDOW
    return BaselineInfo(
        samples=len(before),
        first_step=int(measured.steps[before[0]]) if len(before) else None,
        source=_source(has_theory=has_theory, has_samples=len(before) > 0),
        layout_since=int(measured.steps[present[0]]) if len(present) and present[0] > 0 else None,
    )


def _source(*, has_theory: bool, has_samples: bool) -> BaselineSource:
    if has_theory:
        return "theory and measurement" if has_samples else "theory"
    return "measurement" if has_samples else "none"
