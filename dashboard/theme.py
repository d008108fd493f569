"""Colours, fonts and what all charts share; `assets/10-theme.css` repeats what it needs of them.

The chart colours are mid-tones that keep a contrast of at least 3:1 on the light and on the dark
surface, so that a change of theme redraws nothing; the stylesheet sets text and grid colours.
Run colours stay apart under deuteranopia, protanopia and tritanopia.
"""

from __future__ import annotations

from typing import Any

FONT = "Inter, ui-sans-serif, system-ui, sans-serif"

RUN_COLOURS = ("#2f7fd6", "#d9722b", "#14937a", "#b05ec4")
MAX_COMPARED = len(RUN_COLOURS)  # a run without a colour of its own could not be told apart
MEASURED = RUN_COLOURS[0]
PREDICTED = "#7d8896"
PREDICTED_TODAY = "#a8842c"
AHEAD = "#5b9a2f"
AHEAD_BAND = "rgba(91, 154, 47, 0.2)"
BAND = "rgba(125, 136, 150, 0.18)"
ALARM = "#dc3545"
WARNING = "#c98a14"
LEARNING_RATE = "#8a7bd1"

# Left and right alike for all, so that the axes of charts above each other line up.
MARGINS = {"l": 52, "r": 14, "t": 6, "b": 34}
TIMELINE_MARGINS = {"l": 52, "r": 14, "t": 6, "b": 22}


def layout(**settings: Any) -> dict[str, Any]:
    """Layout settings that every chart shares; `settings` win. The stylesheet sets the height."""
    return {
        "margin": MARGINS,
        "font": {"family": FONT, "size": 11},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "dragmode": False,
        "hovermode": "x unified",
        "hoverlabel": {
            "bgcolor": "#1d2733",
            "bordercolor": "#1d2733",
            "font": {"family": FONT, "size": 11, "color": "#f3f5f7"},
        },
        **settings,
    }


def axis(title: str = "", **settings: Any) -> dict[str, Any]:
    """One axis: a quiet grid, no zero line, small ticks; `settings` win."""
    return {
        "title": {"text": title, "standoff": 4, "font": {"size": 12}},
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "fixedrange": True,
        "gridwidth": 1,
        "automargin": False,
        **settings,
    }
