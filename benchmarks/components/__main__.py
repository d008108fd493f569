"""Component formulas against simulation, beside the errors the reference published.

Each row draws Gaussian signals and weights and runs the component itself. A cell contains the
formula's error and the simulation's scatter together, as in the reference. Variance reduction keeps
the scatter small; each row says which.

Run: python -m benchmarks.components [component ...]; without a name all but attention_wide
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.components import activations, attention, elementary, norms
from benchmarks.components.signals import Errors

COLUMNS = ("x mean", "x var", "g var", "x cov", "g cov")


@dataclass(frozen=True)
class Row:
    """A component: its simulation, how it samples, and the reference's percentiles."""

    simulate: Callable[[np.random.Generator], Iterator[Errors]]
    samples: str
    reference: tuple[str, str, str, str, str]


MATCHED = "pairs of tokens of exact first and second moments"
ROWS = {
    "linear": Row(
        elementary.linear,
        f"{elementary.OUTPUTS:,} rows of weights and {elementary.ENTRIES:,} tokens' entries a size",
        ("0/0.4/1.3", "0.4/1.4/2.8", "0.2/1.0/2.2", "0.4/1.4/2.8", "0.2/1.0/2.2"),
    ),
    "relu": Row(
        activations.relu,
        f"{activations.PAIRS:,} {MATCHED}, each with all 8 signs, fresh for each input",
        ("0.3/1.3/2.3", "0.5/1.9/3.4", "0.6/1.5/2.6", "0.3/1.6/3.1", "0.2/1.1/2.3"),
    ),
    "gelu": Row(
        activations.gelu,
        f"{activations.PAIRS:,} {MATCHED}, each with all 8 signs, fresh for each input",
        ("0.1/1.0/2.4", "0.2/0.6/1.3", "0.2/0.6/1.1", "0.1/0.5/1.2", "0.1/0.4/0.9"),
    ),
    "layer_norm": Row(
        norms.layer_norm,
        f"{norms.PAIRS // 3:,} {MATCHED} a width",
        ("0/0/0", "0/0/0", "0.4/1.5/3.2", "0.1/0.5/1.0", "0.2/0.9/2.2"),
    ),
    "dropout": Row(
        elementary.dropout,
        f"{elementary.PAIRS:,} {MATCHED}, every mask weighted by its chance",
        ("0/0.1/0.5", "0.1/0.5/1.5", "0.1/0.7/1.5", "0/0.4/1.3", "0.1/0.5/1.2"),
    ),
    "softmax": Row(
        attention.softmax,
        f"{attention.LOGITS:,} fresh logits a setting, independent gradients averaged exactly",
        ("0/0/0", "0.2/0.9/4.0", "0.1/0.6/4.5", "-", "-"),
    ),
    "attention": Row(
        attention.attention,
        "a balanced random subset of the grid, 2 to 37 fresh heads a setting",
        ("0.2/1.0/2.5", "1.4/4.1/7.8", "2.2/13.3/44.5", "1.3/3.9/7.4", "1.6/4.5/8.2"),
    ),
    "attention_wide": Row(
        attention.attention_wide,
        "input variances 0.1 to 10, a balanced random subset, 2 to 80 fresh heads a setting",
        ("0.2/1.0/2.5", "1.4/4.1/7.8", "2.2/13.3/44.5", "1.3/3.9/7.4", "1.6/4.5/8.2"),
    ),
}


def percentiles(errors: list[Errors], column: str) -> str:
    values = [e[column] for e in errors if column in e]
    return "/".join(f"{v:.1f}" for v in np.percentile(values, (50, 90, 99))) if values else "-"


def above(ours: str, reference: str) -> bool:
    """Whether any of our percentiles, as printed, is above the reference's."""
    if "-" in (ours, reference):
        return False
    pairs = zip(ours.split("/"), reference.split("/"), strict=True)
    return any(float(value) > float(limit) for value, limit in pairs)


def print_row(name: str, row: Row) -> int:
    """Print a component and how it was sampled; return how many cells exceed the reference."""
    start = time.process_time()
    errors = list(row.simulate(np.random.default_rng(0)))
    ours = [percentiles(errors, column) for column in COLUMNS]
    worse = [above(*cells) for cells in zip(ours, row.reference, strict=True)]
    marked = "".join(f"{c + '*' * w:>17}" for c, w in zip(ours, worse, strict=True))
    print(f"{name:<15}{'ours':<11}{marked}")
    print(f"{'':<15}{'reference':<11}" + "".join(f"{cell:>17}" for cell in row.reference))
    spent = time.process_time() - start
    print(f"{'':<15}{len(errors)} settings, {row.samples}; {spent:.0f} s of CPU", flush=True)
    return sum(worse)


def main() -> None:
    print("50th/90th/99th percentile of |measured - predicted| / |measured|, in percent;")
    print("means that the theory says are zero in percent of the standard deviation")
    print(f"{'component':<15}{'':<11}" + "".join(f"{column:>17}" for column in COLUMNS))
    names = sys.argv[1:] or [name for name in ROWS if name != "attention_wide"]
    worse = sum(print_row(name, ROWS[name]) for name in names)
    print(f"cells above the reference (*): {worse}")


if __name__ == "__main__":
    main()
