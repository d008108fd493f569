"""Why a prediction is absent. Translated to JavaScript, see `dashboard.display`."""

from __future__ import annotations

import math

from dashboard.api_types import Revision
from dashboard.vectors import Values


def why_missing(revision: Revision | None, predicted: Values) -> str:
    """Why (part of) the curve at initialisation is absent; "" when it is complete.

    `revision` is the run's first; `predicted` its curve, of shape (layers + 1,) or empty.
    """
    if revision is None:
        return "no prediction: the model is not described yet"
    if revision.state == "pending":
        return "the prediction is being computed"
    if revision.state == "failed":
        return f"no prediction: {revision.reason or 'the theory could not be applied'}"
    holes = []
    for layer, value in enumerate(predicted):
        if not math.isfinite(value):
            holes.append(layer)
    if len(predicted) > 0 and len(holes) == 0:
        return ""
    where = ""
    if len(holes) < len(predicted):
        where = f" from layer {holes[0]} on" if holes[0] > 0 else f" up to layer {holes[-1]}"
    # A hole passes on to every layer above it, so the first part explains them all.
    if len(revision.missing) == 0:
        return f"no prediction{where}"
    part = revision.missing[0]
    return f"no prediction{where}: {part.what}: {part.why}"
