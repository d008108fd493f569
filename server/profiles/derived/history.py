"""Derived series as pages and scripts ask for them: of one step, or of one series over steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from server.database import Database
from server.errors import InvalidField
from server.profiles.derived.model_facts import model_facts
from server.profiles.derived.names import DerivedSeries, derived_series
from server.profiles.derived.reading import Derived, read_derived
from server.profiles.schemas import History
from server.storage.downsample import Steps, downsample
from server.storage.measurements import sampled_steps, widths
from server.vectors import to_f32
from wire import Layout


class Stretch(NamedTuple):
    """Steps from `first` to `last`, at most `most` of them."""

    first: int
    last: int
    most: int


async def derived_at(
    database: Database, run_id: str, layouts: Mapping[str, Layout], steps: Steps
) -> Derived:
    """Every derived series at these sampled steps, float32 (steps, n) by key."""
    series = derived_series(widths(layouts, None)).values()
    return await _read(database, run_id, layouts, steps, series)


async def derived_history(
    database: Database,
    run_id: str,
    layouts: Mapping[str, Layout],
    key: str,
    stretch: Stretch,
    *,
    summary: str | None,
) -> History:
    """One derived series over steps, evenly thinned; an innovation's ratio is to half its band.

    Raises:
        InvalidField: if it is to be summarised.
    """
    if summary is not None:
        raise InvalidField(
            f"series {key!r} is derived, and derived series have no summaries",
            field="summary",
            fix="leave summary away; max_steps thins the steps",
        )
    async with database.reading() as session:
        sampled = await sampled_steps(session, run_id, after=stretch.first - 1, last=stretch.last)
    steps = downsample(sampled, stretch.most)
    following = derived_series(widths(layouts, None))
    edge = following.get(f"{key}_high") if following[key].site == "innovation" else None
    requested = [following[key], *([] if edge is None else [edge])]
    derived = await _read(database, run_id, layouts, steps, requested)
    values = derived[key]
    ratio = np.full(values.shape, np.nan)
    if edge is not None:
        with np.errstate(all="ignore"):
            ratio = values.astype(np.float64) / derived[edge.key]
    return History(
        series=key,
        steps=steps.tolist(),
        n_layers_plus_one=values.shape[1],
        shape=(values.shape[0], values.shape[1]),
        values_f32=to_f32(values),
        ratio_f32=to_f32(ratio),
    )


async def _read(
    database: Database,
    run_id: str,
    layouts: Mapping[str, Layout],
    steps: Steps,
    series: Iterable[DerivedSeries],
) -> Derived:
    facts = await model_facts(database, run_id)
    async with database.reading() as session:
        return await read_derived(
            session, run_id, layouts, steps, series=tuple(series), facts=facts
        )
