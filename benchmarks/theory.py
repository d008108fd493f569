"""Prediction against measurement at initialisation: ``python -m benchmarks.theory``.

GPT-2, BERT and Llama from `transformers` configs, and the examples' plain GPT with Pre-LN and
Post-LN: 24 layers, three seeds, bytes of the standard library's sources as the batch, in training
mode, with the configs' own dropout and without. Each seed is one draw of the weights and scatters;
the bounds are on the mean curves over seeds of the `transformers` models, and where one is passed
the exit code is 1. The plain GPTs, whose Xavier weights drive tokens to one vector, are shown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dslm
import trainer_agent
from benchmarks.streams import Curves, measured
from examples.byte_gpt import ByteGPT, Sizes, loss_of
from examples.stdlib_text import batches, stdlib_bytes

LAYERS, WIDTH, HEADS, CONTEXT, BATCH = 24, 192, 6, 128, 8
PLAIN = Sizes(layers=LAYERS, width=256, heads=8, context=CONTEXT)
SEEDS = (0, 1, 2)
MEDIAN_BOUND, WORST_BOUND = 0.05, 0.15
QUANTITIES = ("forward variance", "backward variance", "correlation")


@dataclass(frozen=True, slots=True)
class Case:
    """One row group of the table: a model to build, and the batch it takes."""

    name: str
    build: Callable[[], nn.Module]
    masked: bool = False
    bounded: bool = True


class PlainGPT(nn.Module):
    """The examples' GPT with its loss inside, so that one call gives gradients too."""

    def __init__(self, placement: str) -> None:
        super().__init__()
        self.gpt = ByteGPT(PLAIN, "pre" if placement == "pre" else "post")
        if placement == "deepscale":
            trainer_agent.deepscale(self.gpt)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Logits and the loss of the next byte."""
        logits = self.gpt(input_ids)
        return {"loss": loss_of(logits[:, :-1], labels[:, 1:]), "logits": logits}


def gpt2(p_drop: float | None) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"n_layer": LAYERS, "n_embd": WIDTH, "n_head": HEADS}
    names = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    dropout = {} if p_drop is None else dict.fromkeys(names, p_drop)
    config = GPT2Config(vocab_size=256, n_positions=CONTEXT, use_cache=False, **sizes, **dropout)
    return GPT2LMHeadModel(config)


def bert(p_drop: float | None) -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    dropout = {} if p_drop is None else dict.fromkeys(names, p_drop)
    config = BertConfig(
        vocab_size=256,
        num_hidden_layers=LAYERS,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        **dropout,
    )
    return BertForMaskedLM(config)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=256,
        num_hidden_layers=LAYERS,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        intermediate_size=512,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


CASES = (
    Case("GPT-2, dropout 0.1", lambda: gpt2(None)),
    Case("GPT-2, no dropout", lambda: gpt2(0.0)),
    Case("BERT, dropout 0.1", lambda: bert(None), masked=True),
    Case("BERT, no dropout", lambda: bert(0.0), masked=True),
    Case("Llama, no dropout", llama),
    Case("plain GPT, Pre-LN", lambda: PlainGPT("pre"), bounded=False),
    Case("plain GPT, Post-LN", lambda: PlainGPT("post"), bounded=False),
    Case("plain GPT, DeepScale", lambda: PlainGPT("deepscale"), bounded=False),
)


def batch_of(case: Case, seed: int) -> dict[str, Tensor]:
    """Bytes as ids; the next byte as the label, or for BERT the byte under a mask."""
    ids, _ = next(iter(batches(stdlib_bytes(), batch=BATCH, context=CONTEXT, seed=seed)))
    if not case.masked:
        return {"input_ids": ids, "labels": ids}
    hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.15
    labels = torch.where(hidden, ids, -100)
    return {"input_ids": torch.where(hidden, 0, ids), "labels": labels}


def curves_of(case: Case, seed: int) -> tuple[Curves, Curves]:
    """(predicted, measured) of one draw of the weights."""
    torch.manual_seed(seed)
    model = case.build().train()
    batch = batch_of(case, seed)
    spec = trainer_agent.describe(model, batch)
    if spec.missing:
        raise SystemExit(f"{case.name}: not understood: {spec.missing[0]}")
    (stack,) = dslm.predict(spec).stacks.values()
    predicted = Curves(stack.forward.variance, stack.backward.variance, stack.forward.correlation)
    blocks = trainer_agent.description.architecture(model, (), batch).stacks[0].blocks
    return predicted, measured(model, blocks, batch)


def errors(predicted: Curves, seen: Curves) -> dict[str, np.ndarray[Any, Any]]:
    """Per layer: relative errors of the variances, absolute error of the correlation."""
    return {
        "forward variance": np.abs(predicted.forward / seen.forward - 1),
        "backward variance": np.abs(predicted.backward / seen.backward - 1),
        "correlation": np.abs(predicted.correlation - seen.correlation),
    }


def mean_of(curves: list[Curves]) -> Curves:
    """The mean curve over seeds."""
    return Curves(*(np.mean([c[i] for c in curves], axis=0) for i in range(3)))


def rows(case: Case) -> Iterator[tuple[str, str, float, float]]:
    """(who, quantity, median, worst) for each seed and for the mean over them."""
    pairs = [curves_of(case, seed) for seed in SEEDS]
    pairs.append((mean_of([p for p, _ in pairs]), mean_of([m for _, m in pairs])))
    for who, (predicted, seen) in zip([*map(str, SEEDS), "mean"], pairs, strict=True):
        for quantity, values in errors(predicted, seen).items():
            yield who, quantity, float(np.median(values)), float(np.max(values))


def report(case: Case) -> bool:
    """Print a model's rows; True where those that count are within bounds."""
    good = True
    for who, quantity, median, worst in rows(case):
        within = median <= MEDIAN_BOUND and worst <= WORST_BOUND
        counts = case.bounded and who == "mean"
        good &= within or not counts
        verdict = "" if not counts else "  ok" if within else "  PAST THE BOUND"
        line = f"{case.name:20} {who:>5} {quantity:18} {median:8.4f} {worst:8.4f}{verdict}"
        print(line, flush=True)
    return good


def main() -> int:
    """Print the table; 0 where every error is within its bound."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    torch.set_num_threads(1)
    chosen = [c for c in CASES if not sys.argv[1:] or c.name in sys.argv[1:]]
    started = time.perf_counter()
    print(f"{LAYERS} layers, d={WIDTH}, L={CONTEXT}, batch {BATCH}; relative error of variances,")
    print(f"absolute of correlation; bounds: median {MEDIAN_BOUND}, worst {WORST_BOUND}")
    print(f"{'model':20} {'seed':>5} {'quantity':18} {'median':>8} {'worst':>8}")
    good = [report(case) for case in chosen]
    print(
        f"{'within bounds' if all(good) else 'PAST BOUNDS'}, {time.perf_counter() - started:.0f} s"
    )
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
