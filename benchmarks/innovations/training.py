"""The table "while training": errors one block ahead around several steps, and the bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.innovations.jobs import TRAINED, Job
from benchmarks.innovations.recording import Recorded, record
from benchmarks.innovations.replay import ahead_of, coverage, errors, stacks_of
from dslm.ahead import Ahead

SEEDS = (0, 1, 2)
STEPS = 3001
EVERY = 4  # steps from one sample to the next
AT = (0, 200, 1000, 3000)
AROUND = 12  # samples up to each of these steps, over which a block's error is the median
QUANTITIES = ("variance", "correlation", "gradient")


def report_training(folder: Path) -> None:
    """Print one row a model and step; seeds at the worst of each."""
    print(f"one block ahead, 8 layers x 64, every {EVERY}th step sampled, {len(SEEDS)} seeds")
    print(
        f"{'model':22}{'step':>6}{'variance: median':>18}{'worst':>8}"
        f"{'correlation':>13}{'worst':>8}"
        f"{'gradient':>10}{'worst':>8}{'inside':>8}{'width':>7}"
    )
    for job in TRAINED:
        runs = [record(job, steps=STEPS, every=EVERY, seed=seed, folder=folder) for seed in SEEDS]
        for step in AT:
            _print(job, step, runs)


def _print(job: Job, step: int, runs: list[Recorded]) -> None:
    by_seed = [_around(run, step) for run in runs]
    cells = []
    for name in QUANTITIES:
        of_seeds = [errors(ahead[name], name) for ahead in by_seed]
        cells += [np.median([each.median for each in of_seeds]), max(e.worst for e in of_seeds)]
    bands = [coverage(ahead[name]) for ahead in by_seed for name in QUANTITIES]
    inside = np.mean([share for share, _ in bands])
    widths = [coverage(ahead["variance"])[1] for ahead in by_seed]
    print(
        f"{job.name:22}{step:>6}{cells[0]:>18.1%}{cells[1]:>8.1%}{cells[2]:>13.3f}{cells[3]:>8.3f}"
        f"{cells[4]:>10.1%}{cells[5]:>8.1%}{inside:>8.1%}{np.median(widths):>7.2f}",
        flush=True,
    )


def _around(run: Recorded, step: int) -> dict[str, Ahead]:
    """The last samples up to a step; at the first one, that alone: theory's gains."""
    row = step // EVERY
    rows = np.arange(max(0, row - AROUND + 1), row + 1)
    (stack,) = stacks_of(run.series)
    return ahead_of(run.series, run.curves, stack, rows)
