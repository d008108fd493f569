"""News as JSON text for a page: small, and exact for NaN and Inf."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from server.live.messages import FrameNews
from server.vectors import to_f32
from wire import Layout

# What a page redraws at every step: the rest it reads when somebody looks at it.
LIVE_SERIES = (("stream", "variance"), ("stream", "correlation"), ("stream_gradient", "variance"))
LIVE_SCALARS = ("loss", "learning_rate", "gradient_norm")


def frame_message(news: FrameNews, layout: Layout, skipped: int) -> str:
    """The ``frame`` message of a live page."""
    values = np.frombuffer(news.values, dtype="<f4")
    series = {
        one.key: to_f32(values[layout.slices[one.key]])
        for one in layout
        if one.stack and (one.site, one.quantity) in LIVE_SERIES
    }
    scalars = {
        name: float(values[layout.slices[f"/{name}/value"].start])
        for name in LIVE_SCALARS
        if f"/{name}/value" in layout.slices
    }
    return to_json(
        {
            "type": "frame",
            "run": news.run,
            "step": news.step,
            "time": news.time,
            "scalars": scalars,
            "series_f32": series,
            "skipped": skipped,
        }
    )


def to_json(value: Any) -> str:
    """JSON text in which floats that are not finite are strings."""
    return json.dumps(_exact(value), separators=(",", ":"), allow_nan=False)


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _exact(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
