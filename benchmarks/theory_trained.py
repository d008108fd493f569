"""Predictions from today's weights after some training, beside those from the first weights.

Second moments of the weights describe the effect of scale alone. Training also aligns weights with
their inputs: after 200 steps the output of GPT-2's first feed-forward layer is tens of times what
matrices of that size make of random directions, which no second moment expresses. ``directions``
propagates the stream's mean vector and covariance from block 0's input through the weights
themselves (`trainer_agent.mean_field`), with all tokens as one group or grouped by the most
frequent ids.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

import dslm
import trainer_agent
from benchmarks.streams import Curves, measured
from benchmarks.theory_models import Case, Shape, batch_of, bert, gpt2

SHAPE = Shape(layers=6, width=128, heads=4)
STEPS, SIZE, CONTEXT, RATE = 200, 16, 64, 1e-3
GROUPS = (1, 64)

CASES = (
    Case("GPT-2", lambda: gpt2(SHAPE), batch="text"),
    Case("BERT", lambda: bert(SHAPE), batch="masked text"),
)


def report_trained() -> None:
    """Print the median and worst error over layers, before and after training."""
    print(f"{SHAPE.layers} layers, d={SHAPE.width}, bytes of Python's sources, AdamW at {RATE}")
    print(
        f"{'model':6} {'step':>4} {'loss':>6} {'predicted from':22} {'forward: median':>16}"
        f" {'worst':>7} {'correlation':>12} {'worst':>7} {'backward':>9} {'worst':>9}"
    )
    for case in CASES:
        torch.manual_seed(0)
        model = case.build().train()
        _print(case, model, step=0)
        train(model, case)
        _print(case, model, step=STEPS)


def train(model: nn.Module, case: Case) -> None:
    """Plain AdamW with clipping and a short warm-up, each step on a fresh batch."""
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    for step in range(1, STEPS + 1):
        loss = model(**batch_of(case, step, size=SIZE, context=CONTEXT))["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warm_up.step()


def _print(case: Case, model: nn.Module, *, step: int) -> None:
    batch = batch_of(case, 10_000, size=SIZE, context=CONTEXT)  # a seed that training never took
    with torch.no_grad():
        loss = float(model(**batch)["loss"])
    blocks = trainer_agent.description.architecture(model, (), batch).stacks[0].blocks
    curves = measured(model, blocks, batch)
    for name, predicted in _predictions(model, batch):
        forward = np.abs(predicted.forward / curves.forward - 1)
        correlation = np.abs(predicted.correlation - curves.correlation)
        backward = np.abs(predicted.backward / curves.backward - 1)
        print(
            f"{case.name:6} {step:>4} {loss:>6.3f} {name:22}"
            f" {np.median(forward):>16.3f} {forward.max():>7.3f}"
            f" {np.median(correlation):>12.3f} {correlation.max():>7.3f}"
            f" {np.median(backward):>9.3f} {backward.max():>9.3f}",
            flush=True,
        )


def _predictions(model: nn.Module, batch: dict[str, torch.Tensor]) -> Iterator[tuple[str, Curves]]:
    (stack,) = dslm.predict(trainer_agent.describe(model, batch)).stacks.values()
    forward, backward = stack.forward, stack.backward
    yield "moments", Curves(forward.variance, backward.variance, forward.correlation)
    unknown = np.full_like(backward.variance, np.nan)
    for groups in GROUPS:
        (course,) = trainer_agent.mean_field(model, batch, groups=groups).stacks.values()
        name = "directions, one group" if groups == 1 else f"directions, {groups} ids"
        yield name, Curves(course.variance, unknown, course.correlation)
