"""The figures' style, and the folder that they are saved in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[Any]

FOLDER = Path(__file__).parents[2] / "docs" / "images" / "theory"
# dark enough for white paper, and distinguishable without colour vision
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#8A8A8A"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def sheet(columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many axes, row by row."""
    figure = Figure(figsize=(4.1 * columns, 3.2 * rows), dpi=110, layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.grid(visible=True, color="#E6E6E6", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def points(axes: Axes, x: Floats, y: Floats, colour: str, label: str | None = None) -> None:
    """Measurements: open circles."""
    axes.plot(x, y, "o", markersize=4, markerfacecolor="white", color=colour, label=label)


def line(
    axes: Axes, x: Floats, y: Floats, colour: str, *, label: str | None = None, style: str = "-"
) -> None:
    """A prediction."""
    axes.plot(x, y, style, linewidth=1.6, color=colour, label=label)


def titled(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)


def keyed(axes: Axes) -> None:
    axes.legend(fontsize=8, frameon=False)


def save(figure: Figure, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    # no version in the file: a figure drawn again without a change is the same file
    figure.savefig(FOLDER / f"{name}.png", facecolor="white", metadata={"Software": None})


def errors(predicted: Floats, measured: Floats) -> str:
    """Median and worst relative error, as text."""
    percent = 100 * np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    return f"median {np.median(percent):.1f} %, worst {percent.max():.1f} %"
