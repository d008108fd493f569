"""From the API's answers to the columns of the depth charts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dashboard import theme
from dashboard.api_types import Band, Profile, Revision, RunDetail, StackProfile
from dashboard.display.quantities import Quantity
from dashboard.figures import DepthColumn
from dashboard.vectors import Vector, relative_to_top

EMPTY: Vector = np.empty(0)


def stack_of(run: RunDetail, requested: str = "") -> str:
    """The stack on show: the one requested, else the decoder where there is one."""
    if requested in run.stacks:
        return requested
    # Before a model is described there are no stacks, and most models will have a decoder.
    return "decoder" if "decoder" in run.stacks or not run.stacks else sorted(run.stacks)[0]


def n_layers(run: RunDetail, stack: str) -> int:
    """Layers of a stack; 1 where the model is not described yet."""
    return run.stacks[stack].n_layers if stack in run.stacks else 1


def depth_column(
    quantity: Quantity,
    stack: str,
    profile: Profile | None,
    revisions: Sequence[Revision],
    *,
    title: str = "",
    colour: str = theme.MEASURED,
) -> DepthColumn:
    """Measured values of one step over the run's first prediction and the one that held then."""
    at_init = _band(revisions[0] if revisions else None, stack, quantity)
    today = _band(_revision_at(revisions, profile), stack, quantity)
    return DepthColumn(
        measured=measured(quantity, stack, profile),
        predicted=at_init.middle,
        low=at_init.low,
        high=at_init.high,
        today=today.middle,
        title=title,
        colour=colour,
    )


def measured(quantity: Quantity, stack: str, profile: Profile | None) -> Vector:
    """The measured vector, gradients relative to the top; empty before the first step."""
    values = profile_of(profile, stack).vector(quantity.series)
    if values is None:
        return EMPTY
    return relative_to_top(values) if quantity.relative else values


def profile_of(profile: Profile | None, stack: str) -> StackProfile:
    """The vectors of one stack; none of them where nothing of it was measured."""
    stacks = {} if profile is None else profile.stacks
    return stacks.get(stack, StackProfile({}))


def _revision_at(revisions: Sequence[Revision], profile: Profile | None) -> Revision | None:
    """The latest revision up to the profile's step; None where that is the run's first."""
    if profile is None:
        return None
    later = [revision for revision in revisions[1:] if revision.step <= profile.step]
    return later[-1] if later else None


def _band(revision: Revision | None, stack: str, quantity: Quantity) -> Band:
    if revision is None or revision.state != "ready" or stack not in revision.stacks:
        return Band(EMPTY, EMPTY, EMPTY)
    return revision.stacks[stack].at(quantity.site).band(quantity.moment)
