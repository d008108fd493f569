"""A run's loss as a picture the size of a word."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import numpy as np

from dashboard.vectors import number

WIDTH, HEIGHT, AIR = 132, 30, 3.0


def sparkline_uri(values: Sequence[float | None]) -> str:
    """The losses as an SVG data URI; it is used as a mask, so that the theme colours it.

    A loss that is missing or not finite leaves a gap.
    """
    y = np.array([number(value) for value in values], dtype=float)
    finite = np.isfinite(y)
    if not finite.any():
        return _as_uri("")
    # A constant loss would divide by zero; it becomes a line at the foot.
    low, high = y[finite].min(), y[finite].max()
    across = np.linspace(AIR, WIDTH - AIR, max(len(y), 2))
    down = HEIGHT - AIR - (y - low) / max(high - low, 1e-12) * (HEIGHT - 2 * AIR)
    points = zip(across, down, finite, strict=False)
    return _as_uri(_path([(x, y) if drawn else None for x, y, drawn in points]))


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    parts, pen_down = [], False
    for point in points:
        if point is not None:
            parts.append(f"{'L' if pen_down else 'M'}{point[0]:.1f} {point[1]:.1f}")
        pen_down = point is not None
    last = [point for point in points if point is not None][-1]
    line = f'<path d="{"".join(parts)}" fill="none" stroke="#000" stroke-width="1.5"/>'
    return line + f'<circle cx="{last[0]:.1f}" cy="{last[1]:.1f}" r="2.4"/>'


def _as_uri(body: str) -> str:
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'stroke-linejoin="round">{body}</svg>'
    )
    return f"data:image/svg+xml,{quote(picture)}"
