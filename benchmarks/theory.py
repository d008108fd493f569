"""Prediction against measurement: ``python -m benchmarks.theory [--families | --deep | …]``.

Models are at initialisation and in training mode. A row has the error of the mean over draws of the
weights, relative for variances and absolute for correlations: at the median and at the worst layer,
each with the standard error of that mean; then the largest error of one draw at one layer, and
whether the aims are met. Ids are drawn by Zipf's law, or are bytes of Python's sources.

Without an option the table has 24 layers of GPT-2 and BERT, with dropout and without, Llama, and
the examples' plain GPTs, whose Xavier weights drive tokens to one vector. The exit code is then 1
if GPT-2 or BERT exceed the aims by half, or one of their draws is 15 % off. Models whose tokens
collapse do not count there, as one draw scatters by tens of percent at any width in reach.

``--families`` prints a 12-layer model of each family, ``--deep`` models of 48 and 192 layers,
``--extremes`` hot scores and full rank collapse (in decades), ``--trained`` predictions from the
weights after 200 steps of training, ``--absolute`` the gradient in absolute units, predicted
without a backward pass.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

import torch

from benchmarks.theory_absolute import report_absolute
from benchmarks.theory_deep import COLLAPSED_CASES, DEEP_CASES, HOT_CASES
from benchmarks.theory_families import FAMILIES
from benchmarks.theory_models import Case, PlainGPT, Shape, bert, gpt2, llama
from benchmarks.theory_rows import AT_INIT, COLLAPSED, HOT, Aims, Row, print_head, report
from benchmarks.theory_trained import report_trained

WIDE, LLAMA, PLAIN = Shape(24, 384, 6), Shape(24, 192, 6), Shape(24, 256, 8)
SLACK = 1.5  # on the aims, for the exit code: three draws scatter
ONE_DRAW = 0.15

CASES = (
    Case("GPT-2, dropout 0.1", lambda: gpt2(WIDE)),
    Case("GPT-2, no dropout", lambda: gpt2(WIDE, 0.0)),
    Case("BERT, dropout 0.1", lambda: bert(WIDE), batch="masked"),
    Case("BERT, no dropout", lambda: bert(WIDE, 0.0), batch="masked"),
    Case("Llama, d=192, bytes", lambda: llama(LLAMA), batch="text", bound="nothing", draws=8),
    Case("GPT-2, bytes", lambda: gpt2(WIDE), batch="text", bound="nothing"),
    Case("Llama, d=384", lambda: llama(WIDE), bound="nothing", draws=8),
    Case("plain GPT, Pre-LN", lambda: PlainGPT(PLAIN, "pre"), batch="text", bound="nothing"),
    Case(
        "plain GPT, Post-LN",
        lambda: PlainGPT(PLAIN, "post"),
        batch="text",
        bound="nothing",
        draws=8,
    ),
    Case(
        "plain GPT, DeepScaleLM",
        lambda: PlainGPT(PLAIN, "deepscale"),
        batch="text",
        bound="nothing",
    ),
)

Group = tuple[tuple[Case, ...], Aims]
GROUPS: dict[str, tuple[Group, ...]] = {
    "layers24": ((CASES, AT_INIT),),
    "families": ((FAMILIES, AT_INIT),),
    "deep": ((DEEP_CASES, AT_INIT),),
    "extremes": ((HOT_CASES, HOT), (COLLAPSED_CASES, COLLAPSED)),
}


def holds(case: Case, rows: Sequence[Row], aims: Aims) -> bool:
    """Whether a model's rows keep what the exit code is held to."""
    if case.bound == "nothing":
        return True
    within = all(
        row.median <= SLACK * aims.of(row.quantity)[0]
        and row.worst <= SLACK * aims.of(row.quantity)[1]
        for row in rows
    )
    return within and max(row.worst_draw for row in rows) <= ONE_DRAW


def _print_group(group: Group, names: Sequence[str]) -> bool:
    cases, aims = group
    unit = "decades" if aims.decades else "relative error"
    print(f"aims: variance ({unit}) {aims.variance}, correlation {aims.correlation}")
    print_head()
    good = True
    for case in cases:
        if not names or case.name in names:
            good &= holds(case, report(case, aims), aims)
    return good


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="prediction against measurement")
    parser.add_argument("names", nargs="*", help="models to run, as the table names them")
    what = parser.add_mutually_exclusive_group()
    for option, words in (
        ("families", "a model of each family, 12 layers"),
        ("deep", "48 and 192 layers"),
        ("extremes", "hot scores and full rank collapse"),
        ("trained", "from the weights after 200 steps"),
        ("absolute", "the gradient in absolute units"),
    ):
        parser_option = {"action": "store_const", "const": option, "dest": "what"}
        what.add_argument(f"--{option}", help=words, **parser_option)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 where every error that counts is within its bound."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    torch.set_num_threads(1)
    options = _arguments(argv)
    started = time.perf_counter()
    good = True
    if options.what == "trained":
        report_trained()
    elif options.what == "absolute":
        report_absolute()
    else:
        for group in GROUPS[options.what or "layers24"]:
            good &= _print_group(group, options.names) or options.what is not None
    print(f"{'done' if good else 'PAST BOUNDS'}, {time.perf_counter() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
