"""The step scrubber: play, speed, and following the live end."""

from __future__ import annotations

from dash import html


def player() -> html.Div:
    """The bar at the foot of the page; its controls are built and driven by `player.js`."""
    return html.Div(id="player", className="player", **{"data-testid": "player"})
