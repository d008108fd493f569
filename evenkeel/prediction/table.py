"""Cases as text of 100 columns: the diagnosis in words, number formats, and curves by layer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import dslm
from dslm.diagnosis import Crossing, crossing_words, scaling_line
from evenkeel.prediction.cases import Case

WIDTH = 100
MOST_ROWS = 33  # of a curve: deeper stacks are shown in steps of several layers
CASES_A_TABLE = 2  # side by side, as 100 columns have no room for a third
LAYER = f"{'layer':>6}"
COLUMNS = f"{'variance':>13}{'correlation':>13}{'gradient':>13}"
HEADS = (
    ("format", "activations", "gradient leaves", "loss scale", "no loss scale", "layers whose"),
    ("", "overflow at", "normal range at", "needed", "suffices at", "gradient is 0"),
)
LEGEND = (
    "Depths are in layers, those of a gradient counted from the top of a stack. (n): only if its "
    "blocks were repeated to n layers; > n: not found down to n layers."
)

Diagnosed = tuple[Case, dslm.Diagnosis]


def lines(diagnosed: list[Diagnosed]) -> Iterator[str]:
    """Yield the lines that `evenkeel predict` prints."""
    for case, diagnosis in diagnosed:
        for name, stack in diagnosis.stacks.items():
            yield from _words(case, name, stack)
    yield from textwrap.wrap(LEGEND, WIDTH)
    yield ""
    for name in diagnosed[0][1].stacks:
        yield from _curves(name, diagnosed)
    for case, diagnosis in diagnosed:
        for missing in diagnosis.missing:
            text = f"not predicted ({case.name}): {missing.where} ({missing.what}): {missing.why}"
            yield from textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def _words(case: Case, name: str, stack: dslm.StackDiagnosis) -> Iterator[str]:
    sizes = f"{stack.n_layers} layers x {stack.d_model}, {stack.seq_len} tokens"
    yield from textwrap.wrap(f"{case.name}: {name}, {sizes}", WIDTH)
    measured = _measured(case, name, stack.n_layers) + _attributed(case, name)
    for sentence in stack.sentences + measured + case.notes:
        yield from _item(sentence)
    if stack.advice.scaling is not None and stack.advice.needed:
        yield from _item(f"DeepScaleLM's standard deviations: {scaling_line(stack.advice.scaling)}")
    yield ""
    yield from _formats(case, name, stack)
    yield ""


def _measured(case: Case, name: str, n_layers: int) -> tuple[str, ...]:
    measured = case.measured.get(name)
    if measured is None:
        return ()
    return (
        f"Measured at step {measured.step}: the gradient's norm at layer 1 is "
        f"{measured.gradient_ratio:.3g} times that of layer {n_layers}; token correlation at layer "
        f"{n_layers} is {measured.correlation:.3f}.",
    )


def _attributed(case: Case, name: str) -> tuple[str, ...]:
    """Why the blocks differ from those of the first description."""
    if case.attribution is None or name not in case.attribution["stacks"]:
        return ()
    since = f"Since step {case.attribution['baseline_step']}: "
    sentences = case.attribution["stacks"][name]["sentences"]
    note = case.attribution["note"]
    return (*(since + s[0].lower() + s[1:] for s in sentences), *((note,) if note else ()))


def _item(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ")


def _formats(case: Case, name: str, stack: dslm.StackDiagnosis) -> Iterator[str]:
    if not stack.formats:
        return
    n = stack.n_layers
    yield from map(_row, HEADS)
    for report in stack.formats:
        scale = "none" if report.loss_scale is None else f"{report.loss_scale:.4g}"
        yield _row(
            (
                report.name,
                crossing_words(report.activation_overflow, n),
                _from_top(report.gradient_imprecise, n),
                scale,
                _from_top(report.gradient_span, n),
                str(len(report.gradients.flushed)),
            )
        )
    yield from textwrap.wrap(_top(case, name, stack), WIDTH)


def _from_top(crossing: Crossing, n_layers: int) -> str:
    return "the top" if crossing.depth == 0 else crossing_words(crossing, n_layers)


def _row(cells: tuple[str, ...]) -> str:
    return f"{cells[0]:<10}" + "".join(f"{cell:>17}" for cell in cells[1:])


def _top(case: Case, name: str, stack: dslm.StackDiagnosis) -> str:
    top = stack.top_gradient
    if top.source == "given":
        origin = "measured" if case.top_gradient.get(name) == top.std else "given"
        return f"Gradient at the top: {top.std:.3g} an entry, as {origin}."
    if top.source == "predicted":
        return f"Gradient at the top: {top.std:.3g} an entry, predicted from the head and its loss."
    return (
        f"Gradient at the top: {top.std:.3g} an entry, assumed (a mean loss over the batch's "
        "tokens, a gradient of norm 1 at each); --top-gradient gives the measured one."
    )


def _curves(name: str, diagnosed: list[Diagnosed]) -> Iterator[str]:
    """Yield one stack's curves layer by layer, two cases side by side."""
    for first in range(0, len(diagnosed), CASES_A_TABLE):
        beside = diagnosed[first : first + CASES_A_TABLE]
        curves = [diagnosis.prediction.stacks[name] for _, diagnosis in beside]
        deepest = max(len(stack.forward.variance) for stack in curves) - 1
        every = -(-(deepest + 1) // MOST_ROWS)  # rounded up
        for mark, (case, _) in zip("AB", beside, strict=False):
            yield from textwrap.wrap(f"{mark}: {case.name}", WIDTH)
        heads = [f"{mark:>39}" for mark, _ in zip("AB", beside, strict=False)]
        yield f"{name:<6}" + "".join(heads)
        yield LAYER + COLUMNS * len(beside)
        for layer in sorted({*range(0, deepest + 1, every), 1, deepest}):
            yield (f"{layer:>6}" + "".join(_values(stack, layer) for stack in curves)).rstrip()
        if every > 1:
            yield f"every {every} layers; --json has all"
        yield ""


def _values(curves: dslm.StackPrediction, layer: int) -> str:
    if layer >= len(curves.forward.variance):
        return " " * len(COLUMNS)
    forward, backward = curves.forward, curves.backward
    return (
        f"{forward.variance[layer]:>13.4g}{forward.correlation[layer]:>13.4f}"
        f"{backward.variance[layer]:>13.4g}"
    )
