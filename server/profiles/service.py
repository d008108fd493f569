"""Answer what pages and scripts ask of a run's measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from server.database import Database
from server.errors import InvalidField, NotFound
from server.predictions.service import at_initialisation
from server.profiles.derived.history import Stretch, derived_at, derived_history
from server.profiles.derived.names import derived_series
from server.profiles.ratio import compare, predicted
from server.profiles.schemas import History, Profile, Scalars, StackProfile, Steps
from server.runs.repository import RunRepository
from server.storage.downsample import downsample
from server.storage.measurements import (
    ANY_STEP,
    Measured,
    at_every_step,
    read,
    recorded_steps,
    sampled_steps,
    step_at,
    widths,
)
from server.storage.rollups import read_rollups
from server.vectors import to_f32
from wire import Layout, is_absent

LAYERS_PLUS_ONE = frozenset({"ahead", "reference"})  # derived sites over the stream's places


async def steps(database: Database, run_id: str, after: int) -> Steps:
    """The sampled steps past `after`."""
    async with database.reading() as session:
        sampled = await sampled_steps(session, run_id, after=after)
        revisions = await RunRepository(session).revision_steps(run_id)
    return Steps(steps=sampled.tolist(), revision_steps=revisions)


async def profile(
    database: Database, run_id: str, step: int | None, *, derived: bool = True
) -> Profile:
    """Everything measured at the sampled step nearest to `step` from below, and what follows of it.

    Raises:
        NotFound: if there is no such step.
    """
    async with database.reading() as session:
        nearest = await step_at(session, run_id, ANY_STEP if step is None else step)
        if nearest is None:
            raise NotFound(
                f"no frame at or before step {step}" if step is not None else "no frames yet",
                field="step",
                fix="ask GET /api/v1/runs/{run_id}/steps which steps there are",
            )
        layouts = await RunRepository(session).layouts_of(run_id)
        steps = np.array([nearest], dtype=np.int64)
        measured = await read(session, run_id, layouts, steps)
    if derived:
        following = await derived_at(database, run_id, layouts, steps)
        measured = replace(measured, series={**measured.series, **following})
    return _profile(run_id, measured)


async def history(
    database: Database,
    run_id: str,
    key: str,
    *,
    first: int,
    last: int,
    most: int,
    summary: str | None = None,
) -> History:
    """One series over steps, evenly thinned, or summarised over stretches of frames.

    Raises:
        NotFound: if no layout of the run has the series.
        InvalidField: if a derived series is to be summarised.
    """
    async with database.reading() as session:
        layouts = await RunRepository(session).layouts_of(run_id)
        following = derived_series(widths(layouts, None))
        if key not in following:
            _require_series([key], layouts)
    if key in following:
        stretch = Stretch(first, last, most)
        return await derived_history(database, run_id, layouts, key, stretch, summary=summary)
    async with database.reading() as session:
        if summary is None:
            steps_of = recorded_steps if at_every_step(layouts, key) else sampled_steps
            chosen = await steps_of(session, run_id, after=first - 1, last=last)
            measured = await read(session, run_id, layouts, downsample(chosen, most), [key])
            steps, values = measured.steps, measured.series[key]
        else:
            steps, values = await read_rollups(session, run_id, layouts, key=key, summary=summary)
            rows = downsample(np.flatnonzero((steps >= first) & (steps <= last)), most)
            steps, values = steps[rows], values[rows]
    # Outside the session: a prediction of a deep model takes a while to decode.
    curve = predicted(await at_initialisation(database, run_id), key, values.shape[1])
    return History(
        series=key,
        steps=steps.tolist(),
        n_layers_plus_one=values.shape[1],
        shape=(values.shape[0], values.shape[1]),
        values_f32=to_f32(values),
        ratio_f32=to_f32(compare(values, curve, key)),
    )


async def scalars(
    database: Database, run_id: str, keys: Sequence[str], *, after: int, most: int
) -> Scalars:
    """Series of length 1 over steps, evenly thinned.

    Raises:
        NotFound: if no layout of the run has one of the series.
        InvalidField: if one of them is a vector over depth.
    """
    async with database.reading() as session:
        layouts = await RunRepository(session).layouts_of(run_id)
        _require_series(keys, layouts)
        for index, key in enumerate(keys):
            if widths(layouts, [key])[key] != 1:
                raise InvalidField(
                    f"series {key!r} is a vector over depth",
                    field=f"series[{index}]",
                    fix="ask GET /api/v1/runs/{run_id}/history for it",
                )
        recorded = await recorded_steps(session, run_id, after=after)
        measured = await read(session, run_id, layouts, downsample(recorded, most), keys)
    values = {key: to_f32(measured.series[key][:, 0]) for key in keys}
    return Scalars(steps=measured.steps.tolist(), values_f32=values)


def _require_series(keys: Sequence[str], layouts: Mapping[str, Layout]) -> None:
    declared = widths(layouts, None)
    for index, key in enumerate(keys):
        if key not in declared:
            raise NotFound(
                f"the run has no series {key!r}",
                field="series" if len(keys) == 1 else f"series[{index}]",
                fix=f"use one of {', '.join(sorted(declared)[:20])}",
            )


def _profile(run_id: str, measured: Measured) -> Profile:
    stacks: dict[str, dict[str, str]] = {}
    depths: dict[str, int] = {}
    scalars: dict[str, float] = {}
    for key, values in measured.series.items():
        stack, site, quantity = key.split("/", 2)
        if stack:
            stacks.setdefault(stack, {})[f"{site}/{quantity}_f32"] = to_f32(values[0])
            # A stream has one value more than there are blocks, a branch has one for each.
            depth = values.shape[1] - (site.startswith("stream") or site in LAYERS_PLUS_ONE)
            depths[stack] = max(depths.get(stack, 0), depth)
        elif values.shape[1] == 1:
            name = site if quantity == "value" else f"{site}/{quantity}"
            if not is_absent(values).any():
                scalars[name] = float(values[0, 0])
    return Profile(
        run_id=run_id,
        step=int(measured.steps[0]),
        time=float(measured.times[0]),
        stacks={
            name: StackProfile(n_layers=depths[name], series=series)
            for name, series in stacks.items()
        },
        scalars=scalars,
    )
