"""The gradient in absolute units at initialisation: predicted from head and labels, measured.

``python -m benchmarks.theory --absolute``. The theory gets no backward pass: it predicts the kernel
of dLoss/d(last block's output), and with it variance, correlation between tokens and first loss,
from the final norm, the head's weights and the batch's labels. The lowest layer's gradient variance
tests the curve below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import dslm
import trainer_agent
from benchmarks.streams import correlation, hooks, variance
from benchmarks.theory_families import FAMILIES
from benchmarks.theory_models import Case, Shape, batch_of, bert, gpt2, llama

SHAPE = Shape(layers=12, width=256, heads=8)
SEEDS = (0, 1, 2, 3, 4)

CASES = (
    Case("GPT-2 (tied)", lambda: gpt2(SHAPE)),
    Case("BERT, masked LM (tied)", lambda: bert(SHAPE), batch="masked"),
    Case("Llama", lambda: llama(SHAPE)),
    *(c for c in FAMILIES if c.name in {"Gemma 2 (sandwich)", "ViT", "BART"}),
)

Row = tuple[float, ...]  # ratios at the top and lowest place, two correlations, two losses


def report_absolute() -> None:
    """Print predicted over measured variances, and correlations and losses side by side."""
    sizes = f"{SHAPE.layers} layers, d={SHAPE.width}"
    print(
        f"{sizes}; variances predicted over measured: mean over {len(SEEDS)} draws, furthest draw"
    )
    print(
        f"{'model':24} {'top variance':>20} {'lowest variance':>20}"
        f" {'top correlation':>20} {'loss':>16}"
    )
    for case in CASES:
        draws = [_draw(case, seed) for seed in SEEDS]
        for stack in draws[0]:
            name = case.name if len(draws[0]) == 1 else f"{case.name}, {stack}"
            _print(name, [draw[stack] for draw in draws])


def _print(name: str, rows: Sequence[Row]) -> None:
    values = np.array(rows)
    mean, ratios = values.mean(axis=0), values[:, :2]
    furthest = ratios[np.abs(np.log(ratios)).argmax(axis=0), (0, 1)]
    print(
        f"{name:24} {mean[0]:>12.3f} {furthest[0]:>7.3f} {mean[1]:>12.3f} {furthest[1]:>7.3f}"
        f" {mean[2]:>12.4f} {mean[3]:>7.4f} {mean[4]:>8.3f} {mean[5]:>7.3f}",
        flush=True,
    )


def _draw(case: Case, seed: int) -> dict[str, Row]:
    torch.manual_seed(seed)
    model = case.build().train()
    batch = batch_of(case, seed)
    spec = trainer_agent.describe(model, batch)
    if spec.missing:
        raise SystemExit(f"{case.name}: not understood: {spec.missing[0]}")
    # `describe` measures the top gradient where it can; here it must be predicted
    unseen = {name: replace(s, top_gradient_kernel=None) for name, s in spec.stacks.items()}
    predicted = dslm.predict(replace(spec, stacks=unseen)).stacks
    stacks = trainer_agent.description.architecture(model, (), batch).stacks
    streams: dict[str, list[Tensor]] = {s.name: [] for s in stacks}
    handles = [h for s in stacks for h in hooks(model, s.blocks, streams[s.name])]
    loss = model(**batch)["loss"]
    for handle in handles:
        handle.remove()
    ends = {name: (xs[0], xs[-1]) for name, xs in streams.items()}
    return {
        name: _row(predicted[name], torch.autograd.grad(loss, pair, retain_graph=True), loss)
        for name, pair in ends.items()
    }


def _row(p: dslm.StackPrediction, gradients: Sequence[Tensor], loss: Tensor) -> Row:
    lowest, top = gradients
    return (
        p.gradient_scale / variance(top),
        p.gradient_variance[0] / variance(lowest),
        p.backward.correlation[-1],
        correlation(top),
        p.loss,
        float(loss.detach()),
    )
