"""Messages to pages as JSON text: small, and exact for NaN and Inf."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from server.events import FrameEvent
from server.vectors import to_f32
from wire import Layout, is_absent

# A page redraws these at every step; it reads the other series when somebody looks at them.
LIVE_SERIES = (("stream", "variance"), ("stream", "correlation"), ("stream_gradient", "variance"))
LIVE_SCALARS = ("loss", "learning_rate", "gradient_norm")


def frame_message(event: FrameEvent, layout: Layout, skipped: int) -> str:
    """The ``frame`` message of a live page; `skipped` counts the frames it stands for."""
    values = np.frombuffer(event.values, dtype="<f4")
    vectors = {
        series.key: to_f32(values[layout.slices[series.key]])
        for series in layout
        if series.stack and (series.site, series.quantity) in LIVE_SERIES
    }
    scalars = {
        name: float(values[where][0])
        for name in LIVE_SCALARS
        if (where := layout.slices.get(f"/{name}/value")) is not None
        and not is_absent(values[where]).any()
    }
    return to_json(
        {
            "type": "frame",
            "run": event.run,
            "step": event.step,
            "time": event.time,
            "scalars": scalars,
            "series_f32": vectors,
            "skipped": skipped,
        }
    )


def to_json(value: Any) -> str:
    """JSON text in which floats that are not finite are strings."""
    return json.dumps(_exact(value), separators=(",", ":"), allow_nan=False)


def _exact(value: Any) -> Any:
    """The value, with "NaN", "Infinity" and "-Infinity" for floats that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
