"""Predictions from today's weights after some training, beside those from the first weights.

Second moments of the weights say what scale alone does. Training also lines weights up with what
they read: after 200 steps GPT-2's first feed-forward layer puts out tens of times what matrices of
that size would for random directions, and no second moment holds that.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import dslm
import trainer_agent
from benchmarks.streams import Curves, measured
from benchmarks.theory_models import Case, Shape, batch_of, bert, gpt2

SHAPE = Shape(layers=6, width=128, heads=4)
STEPS, SIZE, CONTEXT, RATE = 200, 16, 64, 1e-3

CASES = (
    Case("GPT-2", lambda: gpt2(SHAPE), batch="text"),
    Case("BERT", lambda: bert(SHAPE), batch="masked text"),
)


def report_trained() -> None:
    """Print the median and worst error over layers, before and after training."""
    print(f"{SHAPE.layers} layers, d={SHAPE.width}, bytes of Python's sources, AdamW at {RATE}")
    print(
        f"{'model':8} {'step':>5} {'loss':>7} {'forward: median':>16} {'worst':>7}"
        f" {'backward: median':>17} {'worst':>7} {'correlation: median':>20}"
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
    batch = batch_of(case, 10_000, size=SIZE, context=CONTEXT)
    predicted, seen = _curves(model, batch)
    forward = np.abs(predicted.forward / seen.forward - 1)
    backward = np.abs(predicted.backward / seen.backward - 1)
    correlation = np.abs(predicted.correlation - seen.correlation)
    with torch.no_grad():
        loss = float(model(**batch)["loss"])
    print(
        f"{case.name:8} {step:>5} {loss:>7.3f} {np.median(forward):>16.3f} {forward.max():>7.3f}"
        f" {np.median(backward):>17.3f} {backward.max():>7.3f} {np.median(correlation):>20.3f}",
        flush=True,
    )


def _curves(model: nn.Module, batch: dict[str, torch.Tensor]) -> tuple[Curves, Curves]:
    spec = trainer_agent.describe(model, batch)
    (stack,) = dslm.predict(spec).stacks.values()
    blocks = trainer_agent.description.architecture(model, (), batch).stacks[0].blocks
    predicted = Curves(stack.forward.variance, stack.backward.variance, stack.forward.correlation)
    return predicted, measured(model, blocks, batch)
