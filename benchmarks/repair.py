"""Which repair helps which kind of model: ``python -m benchmarks.repair``.

For each kind of model and depth: how even stream and gradient are predicted to be over depth at
initialisation (largest over smallest variance), and the held-out loss after training at several
rates, each a mean over seeds. ``plain`` is the model as its code draws it. The alerts' advice names
a form only where a row of this table shows that it helped.

What a run measured is kept in a file, so that another call goes on where this one ended.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import dslm
import trainer_agent
from benchmarks.deepscale import CONTEXT, HEADS, WIDTH, WithLoss
from benchmarks.theory_models import Shape, llama
from dslm.branch_share import Count
from examples.stdlib_text import batches, stdlib_bytes

CACHE = Path(".cache/repair.jsonl")
RATES = (3e-4, 1e-3, 3e-3)
DEPTHS = (24,)
SEEDS = (0, 1)
STEPS, WARMUP, SIZE = 300, 20, 16
HELD_OUT_BATCHES = 16
MASK, MASKED, UNLABELLED = 256, 0.15, -100
TWICE = ", β²·2"  # N counts blocks
OURS = ("plain", "kernel", f"kernel{TWICE}", "paper", "balanced", f"balanced{TWICE}")
Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model: how it is built at a depth, its batches and the forms that are for it."""

    build: Callable[[int], nn.Module]
    batch: Callable[[Tensor, Tensor, torch.Generator], Batch]
    forms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One training run to make."""

    kind: str
    depth: int
    form: str
    rate: float
    seed: int
    steps: int


def next_byte(inputs: Tensor, targets: Tensor, _: torch.Generator) -> Batch:
    """Bytes and the bytes that follow them."""
    return {"input_ids": inputs, "labels": targets}


def same_byte(inputs: Tensor, _: Tensor, __: torch.Generator) -> Batch:
    """Bytes as labels of their own, which a causal model of `transformers` shifts."""
    return {"input_ids": inputs, "labels": inputs}


def masked_bytes(inputs: Tensor, _: Tensor, draw: torch.Generator) -> Batch:
    """Bytes, some of them masked, which are the labels."""
    masked = torch.rand(inputs.shape, generator=draw) < MASKED
    labels = inputs.masked_fill(~masked, UNLABELLED)
    return {"input_ids": inputs.masked_fill(masked, MASK), "labels": labels}


def bert(depth: int) -> nn.Module:
    """A masked language model of bytes."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=MASK + 1,
        hidden_size=WIDTH,
        num_hidden_layers=depth,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=2 * CONTEXT,
    )
    model: nn.Module = BertForMaskedLM(config)
    return model


KINDS = {
    "Post-LN decoder": Kind(
        lambda depth: WithLoss(depth, "post"), next_byte, (*OURS, "deepnorm", "admin")
    ),
    "Pre-LN decoder": Kind(
        lambda depth: WithLoss(depth, "pre"),
        next_byte,
        (*OURS, "gpt2", "depth_mup", "layernorm_scaling"),
    ),
    "Llama": Kind(lambda depth: llama(Shape(depth, WIDTH, HEADS)), same_byte, OURS),
    "BERT, masked": Kind(bert, masked_bytes, (*OURS, "deepnorm")),
}


def built(kind: Kind, depth: int, form: str, seed: int) -> nn.Module:
    """The model with a form's weights and scales, drawn from a seed."""
    torch.manual_seed(seed)
    model = kind.build(depth)
    if form != "plain":
        batch = next(_batches(kind, seed=0))
        count: Count = "blocks" if form.endswith(TWICE) else "sublayers"
        form = form.removesuffix(TWICE)
        trainer_agent.deepscale(model, batch, form=form, count=count, force=True)  # type: ignore[arg-type]
    return model


def _batches(kind: Kind, seed: int, *, held_out: bool = False) -> Iterator[Batch]:
    text = stdlib_bytes()
    eighth = len(text) // 8
    part = text[-eighth:] if held_out else text[:-eighth]
    draw = torch.Generator().manual_seed(seed)
    for inputs, targets in batches(part, batch=SIZE, context=CONTEXT, seed=seed):
        yield kind.batch(inputs, targets, draw)


def train(job: Job) -> float:
    """Train; returns the mean loss on text that was held out."""
    kind = KINDS[job.kind]
    model = built(kind, job.depth, job.form, job.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.rate, weight_decay=0.0)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: min(1.0, (at + 1) / WARMUP))
    for _, batch in zip(range(job.steps), _batches(kind, job.seed), strict=False):
        optimizer.zero_grad(set_to_none=True)
        model(**batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        warmup.step()
    return _held_out(kind, model)


@torch.no_grad()
def _held_out(kind: Kind, model: nn.Module) -> float:
    model.eval()
    held_out = _batches(kind, seed=1_000, held_out=True)
    losses = [
        float(model(**batch)["loss"])
        for _, batch in zip(range(HELD_OUT_BATCHES), held_out, strict=False)
    ]
    return float(np.mean(losses))


class Store:
    """Losses of runs that were trained before, in a file of a line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        known = [json.loads(line) for line in lines]
        self._losses = {Job(**each["job"]): float(each["held_out"]) for each in known}

    def loss(self, job: Job) -> float:
        """The held-out loss; the run is trained now where it is not in the file."""
        if job not in self._losses:
            self._losses[job] = train(job)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                line = {"job": asdict(job), "held_out": self._losses[job]}
                file.write(json.dumps(line) + "\n")
        return self._losses[job]


def evenness_of(kind: Kind, depth: int, form: str) -> str:
    """Predicted largest over smallest variance of stream and gradient, of the worst stack."""
    model = built(kind, depth, form, seed=0)
    spec = trainer_agent.describe(model, next(_batches(kind, seed=0)))
    stacks = dslm.evenness(spec).values()
    return f"{max(e.stream for e in stacks):>9.3g}{max(e.gradient for e in stacks):>10.3g}"


def rows(
    store: Store, kinds: Sequence[str], depths: Sequence[int], seeds: Sequence[int], steps: int
) -> Iterator[str]:
    """One line for each kind, depth and form."""
    yield (
        f"held-out loss in nats after {steps} steps of {SIZE} × {CONTEXT} bytes, width {WIDTH}; "
        f"means of {len(seeds)} seeds, ± half their range"
    )
    yield f"{'kind':<17}{'layers':>6}  {'form':<18}{'stream':>9}{'gradient':>10}" + "".join(
        f"{rate:>16g}" for rate in RATES
    )
    for name in kinds:
        for depth in depths:
            for form in KINDS[name].forms:
                cells = ""
                for rate in RATES:
                    jobs = [Job(name, depth, form, rate, seed, steps) for seed in seeds]
                    losses = list(map(store.loss, jobs))
                    half = (max(losses) - min(losses)) / 2
                    cells += f"{np.mean(losses):>10.3f} ±{half:>4.2f}"
                even = evenness_of(KINDS[name], depth, form)
                yield f"{name:<17}{depth:>6}  {form:<18}{even}{cells}"


def main() -> None:
    """Print the table, line by line as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cache", type=Path, default=CACHE, help="file of runs trained before")
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    torch.set_num_threads(1)
    began = time.perf_counter()
    for line in rows(
        Store(options.cache), options.kinds, options.depths, options.seeds, options.steps
    ):
        print(line, flush=True)
    print(f"done, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
