"""One block ahead, while models train and after faults: ``python -m benchmarks.innovations``.

The first table trains small models on real text and compares every layer with what is predicted of
it one block ahead, around several steps. The second puts a fault into one block of models that
train, and says how often the block with the first innovation outside its band is that block, within
10 sampled steps; and how often healthy runs name one.

What a run measured is kept in a folder, so that another call replays it in seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.innovations.localisation import report_localisation
from benchmarks.innovations.training import report_training

CACHE = Path(".cache/innovations")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=("training", "localisation"))
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of recorded runs")
    options = parser.parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    torch.set_num_threads(1)
    started = time.perf_counter()
    if options.only != "localisation":
        report_training(options.cache)
    if options.only != "training":
        report_localisation(options.cache)
    print(f"done, {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
