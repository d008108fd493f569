"""From the API's answers to the columns of the depth charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashboard import theme
from dashboard.api_client import Json
from dashboard.figures import DepthColumn
from dashboard.figures.quantities import Quantity
from dashboard.vectors import Vector, curve, decode, relative_to_top

NOTHING: Vector = np.empty(0)


def stack_of(run: Mapping[str, Any], asked: str = "") -> str:
    """The stack on show: the one asked for, else the decoder where there is one."""
    stacks = run.get("stacks") or {}
    if asked in stacks:
        return asked
    return "decoder" if "decoder" in stacks or not stacks else sorted(stacks)[0]


def depth_column(
    quantity: Quantity,
    stack: str,
    profile: Json | None,
    revisions: Sequence[Json],
    *,
    title: str = "",
    colour: str = theme.MEASURED,
) -> DepthColumn:
    """Measured values of one step over the run's first and latest prediction."""
    at_init = _curve(revisions[:1], stack, quantity)
    today = _curve(revisions[1:][-1:], stack, quantity)
    name = quantity.curve[1]
    return DepthColumn(
        measured=measured(quantity, stack, profile),
        predicted=at_init.get(name, NOTHING),
        low=at_init.get(f"{name}_low", NOTHING),
        high=at_init.get(f"{name}_high", NOTHING),
        today=today.get(name, NOTHING),
        title=title,
        colour=colour,
    )


def measured(quantity: Quantity, stack: str, profile: Json | None) -> Vector:
    """The measured vector, gradients relative to the top; empty before the first step."""
    series = ((profile or {}).get("stacks") or {}).get(stack, {}).get("series", {})
    packed = series.get(f"{quantity.series}_f32")
    if packed is None:
        return NOTHING
    return relative_to_top(decode(packed)) if quantity.relative else decode(packed)


def _curve(revisions: Sequence[Json], stack: str, quantity: Quantity) -> dict[str, Vector]:
    if not revisions or revisions[0]["state"] != "ready":
        return {}
    fields = revisions[0]["stacks"].get(stack, {}).get(quantity.curve[0])
    return curve(fields, 0) if fields else {}


def why_missing(revisions: Sequence[Json], predicted: Vector) -> str:
    """Why (part of) the prediction at initialisation is absent, in place; "" when it is whole."""
    if not revisions:
        return "no prediction: the model is not described yet"
    first = revisions[0]
    if first["state"] == "pending":
        return "the prediction is being computed"
    if first["state"] == "failed":
        return f"no prediction: {first.get('reason') or 'the theory could not be applied'}"
    holes = np.flatnonzero(~np.isfinite(predicted))
    if len(predicted) and not len(holes):
        return ""
    where = ""
    if len(holes) < len(predicted):
        where = f" from layer {holes[0]} on" if holes[0] else f" up to layer {holes[-1]}"
    reasons = [f"{one['what']}: {one['why']}" for one in first.get("missing", [])[:1]]
    return ": ".join([f"no prediction{where}", *reasons])
