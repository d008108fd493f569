"""Why trained models differ from themselves at initialisation: does the account add up?

Run by hand: ``python -m benchmarks.attribution [--steps 200 1000] [--seeds 3] [names]``. Models of
8 x 96 are trained on real text by AdamW and described on text that training never takes;
`dslm.attribute` compares step 0 with later ones. A row a model and step, the worst over seeds but
for medians: the largest change made in one block, of the stream's variance or of the gradient's
gain, and how much of it the size of its weights and gains makes; the worst difference
between the sum of the terms and the ratio that plain hooks measured on the same batch; and what
remains, as a share of the ratio, at the median and the worst block that changed by 5 % or more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import dslm
import trainer_agent
from benchmarks.streams import Curves, measured
from benchmarks.theory_models import Case, PlainGPT, Shape, batch_of, bert, gpt2, llama

SHAPE = Shape(layers=8, width=96, heads=4)
SIZE, CONTEXT, RATE = 16, 64, 1e-3
HELD_OUT = 10_000  # a seed that training never takes
SUM_AIM, REMAINDER_AIM = 0.01, 0.10
NOTHING = float(np.log10(1.05))
CASES = (
    Case("GPT-2", lambda: gpt2(SHAPE), batch="text"),
    Case("Llama", lambda: llama(SHAPE), batch="text"),
    Case("BERT", lambda: bert(SHAPE), batch="masked text"),
    Case("DeepScaleLM", lambda: PlainGPT(SHAPE, "deepscale"), batch="text"),
)
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moment:
    """A model at one step: as described, and as plain hooks see its stream."""

    spec: dslm.ModelSpec
    curves: Curves


@dataclass(frozen=True, slots=True)
class Account:
    """One direction of one model at one step; each (blocks,)."""

    change: Floats  # decades
    size: Floats  # of it, what the size of weights and gains makes
    sum_error: Floats  # of the ratio itself
    remains: Floats  # share of the change; NaN where there is none


def main() -> None:
    """Print the table; exit with 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models to run, as the table names them")
    parser.add_argument("--steps", nargs="+", type=int, default=[200], help="steps to look at")
    parser.add_argument("--seeds", type=int, default=3, help="runs a model")
    options = parser.parse_args()
    print(f"{SHAPE.layers} x {SHAPE.width}, bytes of Python's sources, AdamW at {RATE}")
    print(
        f"{'model':12} {'step':>5} {'direction':9} {'largest':>9} {'by size':>9} {'sum error':>10}"
        f" {'remains: median':>16} {'worst':>7}"
    )
    missed = False
    for case in CASES:
        if not options.names or case.name in options.names:
            missed |= _report(case, sorted(options.steps), options.seeds)
    raise SystemExit(int(missed))


def _report(case: Case, steps: list[int], seeds: int) -> bool:
    """Print a case's rows; whether an aim was missed."""
    runs = [dict(_moments(case, steps, seed)) for seed in range(seeds)]
    missed = False
    for step in steps:
        results = [_attributed(run[0].spec, run[step].spec) for run in runs]
        for direction in ("forward", "backward"):
            accounts = [
                _account(result, run[0].curves, run[step].curves, direction)
                for result, run in zip(results, runs, strict=True)
            ]
            missed |= _print(case, step, direction, accounts)
        for sentence in results[0].sentences:
            print(f"    {sentence}")
    return missed


def _moments(case: Case, steps: list[int], seed: int) -> Iterator[tuple[int, Moment]]:
    """Train one model, and describe it at step 0 and at `steps`."""
    torch.manual_seed(seed)
    model = case.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    for step in range(steps[-1] + 1):
        if step == 0 or step in steps:
            yield step, _moment(case, model)
        batch = batch_of(case, seed * HELD_OUT * 2 + step + 1, size=SIZE, context=CONTEXT)
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()


def _moment(case: Case, model: nn.Module) -> Moment:
    batch = batch_of(case, HELD_OUT, size=SIZE, context=CONTEXT)
    model.eval()
    spec = trainer_agent.describe(model, batch)
    blocks = trainer_agent.description.architecture(model, (), batch).stacks[0].blocks
    curves = measured(model, blocks, batch)
    model.train()
    return Moment(spec, curves)


def _attributed(before: dslm.ModelSpec, after: dslm.ModelSpec) -> dslm.StackAttribution:
    (stack,) = dslm.attribute(before, after).stacks.values()
    return stack


def _account(
    stack: dslm.StackAttribution, before: Curves, after: Curves, direction: str
) -> Account:
    if direction == "forward":
        ratio = after.forward[1:] / before.forward[1:]
        result, change = stack.forward, stack.forward.total - stack.forward.terms["entering"]
    else:
        gains = [curves.backward[:-1] / curves.backward[1:] for curves in (before, after)]
        ratio = gains[1] / gains[0]
        result, change = stack.backward, stack.backward.total
    explained = np.sum(list(result.terms.values()), axis=0)
    share = np.abs(result.terms["remainder"] / np.where(result.total == 0, 1, result.total))
    return Account(
        change=change,
        size=result.terms["weights"] + result.terms["norms"],
        sum_error=np.abs(10**explained / ratio - 1),
        remains=np.where(np.abs(result.total) > NOTHING, share, np.nan),
    )


def _print(case: Case, step: int, direction: str, accounts: list[Account]) -> bool:
    changes = np.concatenate([account.change for account in accounts])
    largest = int(np.abs(changes).argmax())
    size = np.concatenate([account.size for account in accounts])[largest]
    sum_error = max(float(account.sum_error.max()) for account in accounts)
    remains = np.concatenate([account.remains for account in accounts])
    changed = remains[np.isfinite(remains)]
    median, worst = (np.median(changed), changed.max()) if len(changed) else (0.0, 0.0)
    print(
        f"{case.name:12} {step:>5} {direction:9} {_times(changes[largest])} {_times(size)}"
        f" {100 * sum_error:>8.3f} % {100 * median:>14.2f} % {100 * worst:>5.1f} %",
        flush=True,
    )
    return bool(sum_error > SUM_AIM or median > REMAINDER_AIM)


def _times(decades: float) -> str:
    return f"{'×' + format(10**decades, '.3g'):>9}"


if __name__ == "__main__":
    main()
