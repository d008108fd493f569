"""The curves as one HTML page (plotly) or one PNG (matplotlib), by the file's ending."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from evenkeel.prediction.panels import COLOURS, PANELS, RANK_LOSS, Line, log_limits
from server.errors import StartError

Writer = Callable[[list[Line], Path], None]


def require_writable(target: Path) -> None:
    """Check that a plot can be written, before a prediction is computed for it.

    Raises:
        StartError: naming ``--plot`` and what to give instead, or what to install.
    """
    if target.suffix.lower() not in WRITERS:
        raise StartError(f"--plot {target}: end it in .html or .png")
    if not target.absolute().parent.is_dir():
        raise StartError(f"--plot {target}: there is no folder {target.parent}; make it first")
    if target.suffix.lower() == ".png" and find_spec("matplotlib") is None:
        raise StartError(
            f"--plot {target}: a PNG needs matplotlib: pip install 'evenkeel[plot]', or end it "
            "in .html"
        )


def write_plot(lines: list[Line], target: Path) -> None:
    """Draw the lines into `target`.

    Raises:
        StartError: if the file cannot be written.
    """
    try:
        WRITERS[target.suffix.lower()](lines, target)
    except OSError as error:
        raise StartError(f"--plot {target}: cannot write it: {error.strerror}") from error


def _write_html(lines: list[Line], target: Path) -> None:
    from plotly.subplots import make_subplots

    titles = tuple(panel.title for panel in PANELS)
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles)
    for column, panel in enumerate(PANELS, start=1):
        for number, line in enumerate(lines):
            figure.add_scatter(
                y=getattr(line, panel.quantity),
                name=line.name,
                legendgroup=str(number),
                showlegend=column == 1,
                line={"color": COLOURS[number % len(COLOURS)]},
                row=1,
                col=column,
            )
        kind = "log" if panel.log else "linear"
        figure.update_yaxes(title=panel.label, type=kind, exponentformat="power", col=column)
        limits = log_limits(lines, panel.quantity) if panel.log else None
        if limits is not None:  # plotly takes the exponents
            figure.update_yaxes(range=[math.log10(limit) for limit in limits], col=column)
    figure.add_hline(y=RANK_LOSS, line={"dash": "dot", "color": "#888"}, row=1, col=2)
    figure.update_xaxes(title="layer")
    figure.update_layout(template="plotly_white", legend={"orientation": "h", "y": -0.2})
    figure.write_html(target, include_plotlyjs=True)  # the page must open without a network


def _write_png(lines: list[Line], target: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6 + 0.22 * len(lines)), dpi=150, layout="constrained")
    for axes, panel in zip(figure.subplots(1, 3), PANELS, strict=True):
        for number, line in enumerate(lines):
            colour, dashes = COLOURS[number % len(COLOURS)], "-" if number == 0 else "--"
            axes.plot(getattr(line, panel.quantity), dashes, color=colour, label=line.name, lw=1.8)
        axes.set(title=panel.title, xlabel="layer", ylabel=panel.label)
        if panel.log:
            axes.set(yscale="log", ylim=log_limits(lines, panel.quantity))
        else:
            axes.axhline(RANK_LOSS, color="#888888", ls=":", lw=1)
        axes.grid(color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    # the legend grows with the names, not the figure: long ones would push the axes out
    names = [textwrap.fill(name, 110) for name in names]
    figure.legend(handles, names, loc="outside lower center", frameon=False)
    figure.savefig(target)


WRITERS: dict[str, Writer] = {".html": _write_html, ".htm": _write_html, ".png": _write_png}
