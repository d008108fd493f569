"""Alerts on a corpus of runs: ``python -m benchmarks.alerts``.

Trains 132 small models of eleven families, plain, with one of 22 faults and with one of 15 changes
that are no fault, beside an agent that samples every step. A run has failed where its loss on text
held out ends 0.1 nats above that of its twin, which trains on the same data without the fault: the
rules take no part in that. Then the server's rules and those of other tools are put to what was
sent. Streams are kept in a folder, so that another call takes a minute.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks.alerts.faults import FAULTS, SETUP
from benchmarks.alerts.health import CHANGES
from benchmarks.alerts.judge import judged
from benchmarks.alerts.recipes import corpus
from benchmarks.alerts.report import report

CACHE = Path(".cache/alerts")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alerts", description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of recorded runs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--half", type=int, choices=(0, 1), help="0: thresholds; 1: held out")
    parser.add_argument(
        "--misses", action="store_true", help="print every run that is judged wrong"
    )
    options = parser.parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for half in (0, 1) if options.half is None else (options.half,):
        recipes = corpus(half, tuple(FAULTS), SETUP, tuple(CHANGES))
        # Twins first: the runs beside them wait for none.
        recipes.sort(key=lambda recipe: bool(recipe.fault or recipe.change))
        with get_context("spawn").Pool(options.processes) as pool:
            answers = pool.map(partial(judged, folder=options.cache), recipes, chunksize=1)
        title = ("thresholds may be set on", "held out")[half]
        report(title, [each for each in answers if each is not None], misses=options.misses)


if __name__ == "__main__":
    main()
