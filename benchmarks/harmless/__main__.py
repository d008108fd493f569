"""``python -m benchmarks.harmless 10000``: that many random jobs, with and without the agent."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch

from benchmarks.harmless.compare import differences
from benchmarks.harmless.job import run
from benchmarks.harmless.recipe import Recipe, drawn

SAID_EVERY = 500


def changed(recipe: Recipe) -> list[str]:
    """What the agent changed in a job; empty where nothing."""
    # An agent that is closed without waiting may still write to its spool.
    folders = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folders as folder, contextlib.redirect_stdout(io.StringIO()):
        bare = run(recipe, None)
        return differences(bare, run(recipe, Path(folder)))


def main() -> int:
    """Run the jobs; exit code 1 where one came out differently."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harmless", description=__doc__)
    parser.add_argument("jobs", type=int, nargs="?", default=300)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    began, harmed = time.perf_counter(), Counter[str]()
    for seed in range(options.first_seed, options.first_seed + options.jobs):
        recipe = drawn(seed)
        names = changed(recipe)
        if names:
            harmed["jobs"] += 1
            print(f"seed {seed}: {len(names)} differ: {'; '.join(names[:4])}\n  {recipe}")
        done = seed - options.first_seed + 1
        if done % SAID_EVERY == 0:
            print(f"{done} jobs, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - began
    print(f"{options.jobs} jobs, {harmed['jobs']} changed by the agent, {seconds:.0f} s")
    return 1 if harmed else 0


if __name__ == "__main__":
    sys.exit(main())
