"""DeepScaleLM measured: moments over depth before and after, and training that fails without it.

    python -m benchmarks.deepscale                       # all tables, about half an hour
    python -m benchmarks.deepscale moments --depths 12   # one table, one depth

Moments are of real models on bytes of the standard library, one draw of the weights each:
variance of the stream and of its gradient, smallest and largest over depth, the gradient's
relative to the top. Beside each stands what `dslm.predict` says of the same model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import dslm
import trainer_agent
from benchmarks.streams import measured_stacks
from benchmarks.theory_families import FAMILIES
from benchmarks.theory_models import Batch, Shape, batch_of, llama
from examples.byte_gpt import ByteGPT, Sizes, loss_of
from examples.stdlib_text import batches, stdlib_bytes
from trainer_agent.description import architecture

WIDTH, HEADS, CONTEXT, SIZE = 64, 4, 32, 8
MOST_PREDICTED = 192  # layers; at 1,000 the prediction of a whole model takes longer than the rest
DEPTHS = (12, 48, 192, 1000)
FORMS = ("plain", "simplified", "per-layer", "kernel", "balanced")
DEEP_FORMS = ("plain", "kernel", "balanced")
TABLES = ("moments", "families", "training")
SPANS = (19, 19, 19, 19)
HEADLINE = (
    f"{'model':<22}{'form':<11}{'forward':>19}{'predicted':>19}{'gradient':>19}{'predicted':>19}"
    f"{'cpu s':>7}"
)


class WithLoss(nn.Module):
    """The examples' GPT with its loss inside."""

    def __init__(self, layers: int, placement: str) -> None:
        super().__init__()
        sizes = Sizes(layers=layers, width=WIDTH, heads=HEADS, context=CONTEXT)
        self.gpt = ByteGPT(sizes, "pre" if placement == "pre" else "post")

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of the next byte."""
        return {"loss": loss_of(self.gpt(input_ids), labels)}


@dataclass(frozen=True, slots=True)
class Model:
    """A model to build at any depth."""

    name: str
    build: Callable[[int], nn.Module]


MODELS = (
    Model("GPT, Pre-LN", lambda n: WithLoss(n, "pre")),
    Model("GPT, Post-LN", lambda n: WithLoss(n, "post")),
    Model("Llama (SwiGLU)", lambda n: llama(Shape(n, WIDTH, HEADS))),
)


def byte_batch(seed: int = 0) -> Batch:
    """Bytes and the bytes that follow them."""
    inputs, targets = next(iter(batches(stdlib_bytes(), batch=SIZE, context=CONTEXT, seed=seed)))
    return {"input_ids": inputs, "labels": targets}


def moments(depths: Sequence[int]) -> Iterator[str]:
    """One line for each depth, model and form."""
    batch = byte_batch()
    yield HEADLINE
    for depth in depths:
        for case in MODELS:
            for form in FORMS if depth <= 48 else DEEP_FORMS:
                yield from _lines(Model(f"{case.name}, {depth}", case.build), depth, form, batch)


def families() -> Iterator[str]:
    """One line for each family of 12 layers, stack and form."""
    yield HEADLINE
    for case in FAMILIES:
        batch = batch_of(case, 0, size=4, context=64)
        for form in DEEP_FORMS:
            model = Model(case.name, lambda _, case=case: case.build())  # type: ignore[misc]
            yield from _lines(model, 12, form, batch)


def _lines(case: Model, depth: int, form: str, batch: Batch) -> Iterator[str]:
    torch.manual_seed(0)
    model, start = case.build(depth), time.process_time()
    if form != "plain":
        trainer_agent.deepscale(model, batch, form=form)  # type: ignore[arg-type]
    spent = time.process_time() - start
    stacks = architecture(model, (), batch).stacks
    predicted = _predicted(model, batch) if depth <= MOST_PREDICTED else {}
    curves = measured_stacks(model, {stack.name: stack.blocks for stack in stacks}, batch)
    for name, curve in curves.items():
        theory = predicted.get(name)
        shown = [
            _span(curve.forward),
            _span(theory.forward.variance) if theory else "-",
            _span(curve.backward),
            _span(theory.backward.variance) if theory else "-",
        ]
        cells = "".join(f"{text:>{width}}" for text, width in zip(shown, SPANS, strict=True))
        label = f"{case.name} {name}" if len(curves) > 1 else case.name
        yield f"{label:<22}{form:<11}{cells}{spent:>7.1f}"


def _predicted(model: nn.Module, batch: Batch) -> Mapping[str, dslm.StackPrediction]:
    return dslm.predict(trainer_agent.describe(model, batch)).stacks


def _span(values: NDArray[np.float64]) -> str:
    return f"{values.min():.3g}..{values.max():.3g}"


def training(layers: int, steps: int, rate: float) -> Iterator[str]:
    """Loss of a deep Post-LN GPT over its steps, plain and with each form."""
    yield f"{layers}-layer Post-LN, width {WIDTH}, Adam at {rate:g}: loss in nats"
    at = [steps // 4, steps // 2, steps]
    yield f"{'form':<11}" + "".join(f"{f'step {n}':>12}" for n in at) + f"{'mean of last 20':>18}"
    for form in DEEP_FORMS:
        losses = _train(layers, steps, rate, form)
        last = sum(losses[-20:]) / 20
        yield f"{form:<11}" + "".join(f"{losses[n - 1]:>12.3f}" for n in at) + f"{last:>18.3f}"


def _train(layers: int, steps: int, rate: float, form: str) -> list[float]:
    torch.manual_seed(0)
    model = WithLoss(layers, "post")
    if form != "plain":
        trainer_agent.deepscale(model, byte_batch(), form=form)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    data = batches(stdlib_bytes(), batch=16, context=CONTEXT, seed=0)
    losses = []
    for _, (inputs, targets) in zip(range(steps), data, strict=False):
        optimizer.zero_grad(set_to_none=True)
        loss = model(inputs, targets)["loss"]
        loss.backward()
        optimizer.step()
        warmup.step()
        losses.append(loss.item())
    return losses


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", default=TABLES, help=", ".join(TABLES))
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS, help="of `moments`")
    parser.add_argument("--layers", type=int, default=48, help="of the models that are trained")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=3e-4)
    return parser.parse_args()


def main() -> None:
    """Print the tables, line by line as they are measured."""
    args = _parse()
    torch.set_num_threads(1)
    tables = {
        "moments": lambda: moments(args.depths),
        "families": families,
        "training": lambda: training(args.layers, args.steps, args.rate),
    }
    for name in args.tables:
        for line in tables[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
