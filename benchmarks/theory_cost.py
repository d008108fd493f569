"""What a prediction costs, in time, memory and accuracy: ``python -m benchmarks.theory_cost``.

The first table has models of 12, 24 and 48 layers at 128 to 8,192 tokens, each in a fresh process
of one thread: CPU time of the first prediction and of the next, and the rise of peak memory over
that after the imports. The cost is proportional to depth where the ratio of 48 to 24 layers is 2.

The second table compares the cells of `dslm.cell_sizes` with single tokens, at a length where
single tokens can still be computed, on the kernel of a drawn batch: median and worst layer,
relative for variances, absolute for correlations.

The exit code is 1 where 48 layers at 1,024 tokens take more than 1 s or 200 MB.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import numpy as np

import dslm
from benchmarks.theory_specs import (
    bert,
    drawn_gradient,
    drawn_kernel,
    expected_kernel,
    gpt2,
    llama,
    spec_of,
)
from dslm.masks import cell_sizes

FAMILIES = {"gpt2": gpt2, "bert": bert, "llama": llama}
DEPTHS, LENGTHS = (12, 24, 48), (128, 256, 1024, 8192)
BOUND_S, BOUND_MB = 1.0, 200.0
CASES = {
    "gpt2": gpt2(),
    "llama": llama(),
    "bert": bert(),
    "gpt2, window 64": gpt2(window=64),
    "llama, window 64": llama(window=64),
    "gpt2, hot": gpt2(std=0.05),
    "bert, hot": bert(std=0.05),
}


# the first prediction also fills the caches, such as the table of softmax moments
def cost_here(family: str, n_layers: int, seq_len: int) -> tuple[float, float, float]:
    """(first CPU seconds, next CPU seconds, MB above the imports) in this process."""
    kernel = expected_kernel(seq_len, causal=family != "bert")
    spec = spec_of(FAMILIES[family](), n_layers, kernel)
    before = _peak_mb()
    first = _cpu_s(spec)
    peak = _peak_mb() - before
    return first, min(_cpu_s(spec) for _ in range(2)), peak


def _cpu_s(spec: dslm.ModelSpec) -> float:
    started = time.process_time()
    dslm.predict(spec)
    return time.process_time() - started


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def cost_apart(family: str, n_layers: int, seq_len: int) -> tuple[float, float, float]:
    """As `cost_here`, in a fresh process of one thread."""
    command = [sys.executable, "-m", "benchmarks.theory_cost", "--row", family]
    single_threaded = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(n_layers), str(seq_len)],
        env=single_threaded, check=True, capture_output=True, text=True,
    )  # fmt: skip
    first, again, peak = map(float, done.stdout.split())
    return first, again, peak


def report_costs() -> bool:
    """Print the table of costs; True where 48 layers at 1,024 tokens keep within the bounds."""
    print(f"{'model':8}{'L':>6}{'cells':>7}{'layers':>8}{'first s':>9}{'next s':>8}{'MB':>6}")
    good = True
    for family in FAMILIES:
        for seq_len in LENGTHS:
            n_cells = len(dslm.cell_sizes(seq_len, causal=family != "bert"))
            times = {}
            for n_layers in DEPTHS:
                first, again, peak = cost_apart(family, n_layers, seq_len)
                times[n_layers] = again
                row = f"{family:8}{seq_len:6}{n_cells:7}{n_layers:8}"
                print(f"{row}{first:9.2f}{again:8.2f}{peak:6.0f}", flush=True)
                if (n_layers, seq_len) == (48, 1024):
                    good &= first <= BOUND_S and peak <= BOUND_MB
            print(f"{'':29}48 layers / 24 layers: {times[48] / times[24]:.2f}")
    return good


def differences(coarse: dslm.StackPrediction, fine: dslm.StackPrediction) -> Iterator[str]:
    """Median and worst over layers, for each of the four curves."""
    for a, b in ((coarse.forward, fine.forward), (coarse.backward, fine.backward)):
        relative = np.abs(a.variance / b.variance - 1)
        absolute = np.abs(a.correlation - b.correlation)
        yield from (f"{np.median(v):.1e} / {v.max():.1e}" for v in (relative, absolute))


def report_differences(seq_len: int, n_layers: int) -> None:
    """Print how far predictions on cells lie from those on single tokens."""
    print(f"\ncells against single tokens, {n_layers} layers, L={seq_len}: median / worst layer")
    names = ("forward variance", "correlation", "backward variance", "correlation")
    print(f"{'model':18}" + "".join(f"{name:>20}" for name in names))
    kernel, gradient = drawn_kernel(seq_len), drawn_gradient(seq_len)
    for name, block in CASES.items():
        spec = spec_of(block, n_layers, kernel, gradient)
        rough = dslm.predict(spec).stacks["stack"]
        with patch.object(cell_sizes, "SINGLE_UP_TO", seq_len):
            fine = dslm.predict(spec).stacks["stack"]
        print(f"{name:18}" + "".join(f"{d:>20}" for d in differences(rough, fine)), flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="what a prediction costs")
    parser.add_argument("--row", nargs=3, metavar=("MODEL", "LAYERS", "L"), help="one row, bare")
    parser.add_argument("--length", type=int, default=512, help="L of the comparison (512)")
    parser.add_argument("--layers", type=int, default=12, help="layers of the comparison (12)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables; 0 where the costs are within their bounds."""
    options = _arguments(argv)
    if options.row:
        family, n_layers, seq_len = options.row
        print(*cost_here(family, int(n_layers), int(seq_len)))
        return 0
    good = report_costs()
    report_differences(options.length, options.layers)
    print("done" if good else "PAST BOUNDS")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
