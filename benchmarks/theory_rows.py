"""One model's prediction beside its measurement, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import dslm
import trainer_agent
from benchmarks.streams import Curves, measured_stacks
from benchmarks.theory_models import Case, batch_of

Floats = np.ndarray[Any, np.dtype[np.float64]]
Pairs = list[tuple[Curves, Curves]]  # (predicted, measured), one a draw


@dataclass(frozen=True, slots=True)
class Aims:
    """Bounds on the error of a mean over draws, at the median and at the worst layer."""

    variance: tuple[float, float] = (0.03, 0.10)
    correlation: tuple[float, float] = (0.02, 0.06)
    decades: bool = False  # typical draws of variances, as |mean log10(predicted / measured)|

    def of(self, quantity: str) -> tuple[float, float]:
        """(median, worst) for one quantity."""
        return self.correlation if quantity == "correlation" else self.variance


AT_INIT = Aims()
HOT = Aims(variance=(0.20, 0.20))  # worst layer alone; the median cannot pass it
COLLAPSED = Aims(variance=(0.3, 0.3), decades=True)


@dataclass(frozen=True, slots=True)
class Row:
    """Error of the mean over draws.

    Attributes:
        median, worst: over layers.
        layer: the worst layer.
        median_sem, sem: standard errors of the mean over draws, at the median layer and at the
            worst one.
        worst_draw: the largest error of one draw at one layer.
    """

    model: str
    draws: int
    quantity: str
    median: float
    worst: float
    layer: int
    median_sem: float
    sem: float
    worst_draw: float

    def verdict(self, aims: Aims) -> str:
        """Whether the aims are met, and if not, whether two standard errors explain it."""
        median, worst = aims.of(self.quantity)
        if self.median <= median and self.worst <= worst:
            return "ok"
        explained = self.median - 2 * self.median_sem <= median
        explained &= self.worst - 2 * self.sem <= worst
        return "past the aim" + (" (within 2 standard errors of it)" if explained else "")


def draws_of(case: Case, seeds: range, *, typical: bool = False) -> dict[str, Pairs]:
    """(predicted, measured) of each draw of the weights, by stack.

    The prediction is the mean over draws, or with `typical` the typical draw, mid-band.
    """
    pairs: dict[str, Pairs] = {}
    blocks: dict[str, tuple[str, ...]] = {}
    for seed in seeds:
        torch.manual_seed(seed)
        model = case.build().train()
        batch = batch_of(case, seed, size=case.size, context=case.context)
        spec = trainer_agent.describe(model, batch)
        if spec.missing:
            raise SystemExit(f"{case.name}: not understood: {spec.missing[0]}")
        if not blocks:
            stacks = trainer_agent.description.architecture(model, (), batch).stacks
            blocks = {stack.name: stack.blocks for stack in stacks}
        curves = measured_stacks(model, blocks, batch)
        for name, p in dslm.predict(spec).stacks.items():
            pairs.setdefault(name, []).append((_predicted(p, typical=typical), curves[name]))
    return pairs


def _predicted(p: dslm.StackPrediction, *, typical: bool) -> Curves:
    forward, backward = p.forward.variance, p.backward.variance
    if typical:
        forward = np.sqrt(p.forward.variance_low * p.forward.variance_high)
        backward = np.sqrt(p.backward.variance_low * p.backward.variance_high)
    return Curves(forward, backward, p.forward.correlation)


def rows(case: Case, pairs: Mapping[str, Pairs], aims: Aims) -> Iterator[Row]:
    """The rows of every stack and quantity."""
    for stack, drawn in pairs.items():
        name = case.name if len(pairs) == 1 else f"{case.name}, {stack}"
        for index, quantity in enumerate(("forward variance", "backward variance", "correlation")):
            predicted, measured = (np.array([pair[i][index] for pair in drawn]) for i in (0, 1))
            error, sem = _errors(predicted, measured, quantity, decades=aims.decades)
            worst = int(np.argmax(error))
            middle = int(np.argsort(error)[len(error) // 2])
            yield Row(
                name,
                len(drawn),
                quantity,
                float(np.median(error)),
                float(error[worst]),
                worst,
                float(sem[middle]),
                float(sem[worst]),
                _largest(predicted, measured, quantity, decades=aims.decades),
            )


def _errors(
    predicted: Floats, measured: Floats, quantity: str, *, decades: bool
) -> tuple[Floats, Floats]:
    """Return each layer's error of the mean over draws, and that mean's standard error."""
    if quantity == "correlation":
        each = predicted - measured
    elif decades:
        each = np.log10(predicted / measured)
    else:
        each = (predicted - measured) / measured.mean(axis=0)
    return np.abs(each.mean(axis=0)), each.std(axis=0, ddof=1) / np.sqrt(len(each))


def _largest(predicted: Floats, measured: Floats, quantity: str, *, decades: bool) -> float:
    """Return the largest error of one draw, relative to that draw's own variance."""
    if decades and quantity != "correlation":
        return float(np.abs(np.log10(predicted / measured)).max())
    scale = 1.0 if quantity == "correlation" else measured
    return float(np.abs((predicted - measured) / scale).max())


def print_head() -> None:
    """Print the table's columns."""
    print(
        f"{'model':26} {'draws':>5} {'quantity':18} {'median':>8} {'± se':>7}"
        f" {'worst':>8} {'± se':>7} {'layer':>5} {'one draw':>9}"
    )


def print_row(row: Row, verdict: str) -> None:
    """Print one row of it."""
    line = (
        f"{row.model:26} {row.draws:>5} {row.quantity:18} {row.median:8.4f} {row.median_sem:7.4f}"
        f" {row.worst:8.4f} {row.sem:7.4f} {row.layer:>5} {row.worst_draw:9.3f}  {verdict}"
    )
    print(line, flush=True)


def report(case: Case, aims: Aims) -> list[Row]:
    """Print and return a model's rows."""
    table = list(rows(case, draws_of(case, range(case.draws), typical=aims.decades), aims))
    for row in table:
        print_row(row, row.verdict(aims))
    return table
