"""Which runs does the rule on rank collapse call ill? ``python -m benchmarks.collapse``

Trains small models of several families beside an agent that samples every step, on words of the
standard library's sources (GPTs of this project on their bytes), and puts the server's rules to
what it sent. A run is ill where the mean loss of its last 20 steps stays above 4 nats on bytes: the
entropy of the bytes' frequencies, which is what a model learns that cannot tell tokens apart. On
words no run of these is. Printed beside the alerts: the largest share of layers with a token
correlation within 10^-3 of one, and the least gradient variance that a layer had of the top's.

Thresholds were set on these very runs. They take a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import functools
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor, nn

import dslm
from benchmarks.innovations.recording import KeepingTransport
from benchmarks.lead_time import judged
from benchmarks.theory_models import PlainGPT, Shape, from_config, gated_sizes, plain_sizes
from examples.stdlib_text import stdlib_bytes
from server.alerts.rules import facts
from trainer_agent.agent import Agent
from trainer_agent.options import SPOOL_LIMIT_BYTES, read_options

WORDS, CONTEXT, BATCH = 1500, 32, 8
MASK, MASKED = 2, 0.15
ILL = 4.0  # nats on bytes
COLLAPSED = 1e-3
PLAIN = {"post", "deepscale"}  # of this project, on bytes


@dataclass(frozen=True)
class Run:
    """One run: its model, and how it is trained."""

    family: str
    layers: int
    seed: int
    width: int = 64
    rate: float = 1e-3
    warm_up: int = 20
    steps: int = 200
    sgd: bool = False

    @property
    def name(self) -> str:
        """What differs from run to run."""
        more = [f"width {self.width}"] if self.width != 64 else []
        more += ["SGD"] if self.sgd else []
        return ", ".join(
            [f"{self.family} {self.layers}", f"{self.rate:g}", f"warm-up {self.warm_up}", *more]
        )


def runs() -> list[Run]:
    """Runs that learn and runs that do not, by seeds of their own."""
    on_words = [
        *(Run("Llama", layers, 11 + layers) for layers in (4, 8, 16, 24)),
        Run("Llama", 8, 15, rate=3e-3),
        Run("Llama", 8, 22, rate=0.1, sgd=True),
        Run("Llama", 8, 33, width=128),
        *(Run("Qwen3", layers, 16 + layers) for layers in (8, 16)),
        *(Run("GPT2", layers, 18 + layers) for layers in (8, 16)),
        Run("GPT2", 8, 21, rate=0.1, sgd=True),
        Run("OPT", 12, 20),
        Run("T5", 6, 32),
        *(Run("Bert", layers, 23 + layers) for layers in (4, 12, 24)),
    ]
    on_bytes = [
        Run("post", 6, 26),
        Run("post", 12, 27),
        Run("post", 16, 28),
        Run("post", 24, 29),
        Run("deepscale", 12, 31),
        Run("deepscale", 24, 30),
    ]
    repairs = [
        Run(family, layers, seed, steps=300, rate=rate, warm_up=warm_up)
        for seed in (31, 32)
        for layers in (12, 18)
        for family, rate, warm_up in (
            ("post", 1e-3, 20),
            ("post", 1e-3, 100),
            ("post", 5e-4, 20),
            ("deepscale", 1e-3, 20),
        )
    ]
    return [*on_words, *on_bytes, *repairs]


def build(run: Run) -> nn.Module:
    """The run's model, with fresh weights."""
    shape = Shape(layers=run.layers, width=run.width, heads=4)
    if run.family in PLAIN:
        return PlainGPT(shape, run.family)
    head = {"Bert": "ForMaskedLM", "GPT2": "LMHeadModel", "T5": "ForConditionalGeneration"}
    sizes = gated_sizes(shape) if run.family in {"Llama", "Qwen3"} else plain_sizes(shape)
    if run.family == "GPT2":
        sizes = {"n_layer": run.layers, "n_embd": run.width, "n_head": 4}
    if run.family == "T5":
        sizes = {"d_model": run.width, "d_kv": run.width // 4, "d_ff": 4 * run.width}
        sizes |= {"num_layers": run.layers, "num_heads": 4, "decoder_start_token_id": 0}
    return from_config(run.family, head.get(run.family, "ForCausalLM"), **sizes, vocab_size=WORDS)


@functools.cache
def words() -> Tensor:
    """The text as ids of its most frequent words and signs, from 3 on; 1 is any other."""
    text = bytes(stdlib_bytes().tolist()).decode("utf-8", "ignore")[:3_000_000]
    tokens = re.findall(r"\w+|[^\w\s]|\n", text)
    frequent = Counter(tokens).most_common(WORDS - 3)
    ids = {word: number for number, (word, _) in enumerate(frequent, 3)}
    return torch.tensor([ids.get(word, 1) for word in tokens])


def batch(run: Run, step: int) -> dict[str, Tensor]:
    """The batch of a step: the same for the same run and step."""
    draw = torch.Generator().manual_seed(100_003 * run.seed + step)
    text = stdlib_bytes() if run.family in PLAIN else words()
    starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=draw)
    ids = text[starts + torch.arange(CONTEXT)].long()
    if run.family != "Bert":
        return {"input_ids": ids, "labels": ids}
    hidden = torch.rand(ids.shape, generator=draw) < MASKED
    labels = torch.where(hidden, ids, -100)
    return {"input_ids": torch.where(hidden, MASK, ids), "labels": labels}


def train(run: Run) -> str:
    """Train, judge, and describe the run in a line."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    model = build(run).train()
    kind = torch.optim.SGD if run.sgd else torch.optim.AdamW
    optimizer = kind(model.parameters(), run.rate, **({"momentum": 0.9} if run.sgd else {}))
    transport = KeepingTransport()
    with tempfile.TemporaryDirectory() as folder:
        options = read_options(
            project="benchmark", run=run.name, server="http://127.0.0.1:9", key=None, every=1,
            tags=(), config=None, spool_dir=folder, spool_limit_bytes=SPOOL_LIMIT_BYTES, rank=0,
        )  # fmt: skip
        with Agent(
            model, options, optimizer=optimizer, scaler=None, transport=lambda: transport
        ) as agent:
            for step in range(run.steps):
                for group in optimizer.param_groups:
                    group["lr"] = run.rate * min(1.0, (step + 1) / run.warm_up)
                loss = model(**batch(run, step))["loss"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                agent.step(loss=loss)
    return _line(run, transport)


def _line(run: Run, transport: KeepingTransport) -> str:
    series = transport.series()
    losses = series["/loss/value"][:, 0]
    spec = dslm.spec_from_json(transport.spec or {})
    stacks = facts(spec, {0: dslm.predict(spec)})
    steps = ({key: v[row].astype(float) for key, v in series.items()} for row in range(run.steps))
    raised = [
        f"{event.key.rule} at {event.step}"
        for _, events in judged(steps, stacks)
        for event in events
        if event.kind == "opened" and event.finding and event.finding.severity != "info"
    ]
    share, gradient = _worst(series, list(stacks))
    ill = run.family in PLAIN and losses[-20:].mean() > ILL
    return (
        f"{run.name:34}{run.seed:>5}{losses[-20:].mean():>8.2f}  {'ill' if ill else 'learns':8}"
        f"{share:>6.2f}{gradient:>10.0e}  {', '.join(raised) or '–'}"
    )


def _worst(series: dict[str, np.ndarray], stacks: Sequence[str]) -> tuple[float, float]:
    shares, gradients = [], []
    for stack in stacks:
        alike = 1 - series[f"{stack}/stream/correlation"].astype(float) <= COLLAPSED
        gradient = series[f"{stack}/stream_gradient/variance"].astype(float)
        shares.append(alike.mean(1).max())
        gradients.append(np.nanmin(gradient / gradient[:, -1:]))
    return max(shares), min(gradients)


def main() -> None:
    """Print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="train runs whose name begins so")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    print(
        f"{'run':34}{'seed':>5}{'loss':>8}  {'':8}{'alike':>6}{'gradient':>10}  alerts", flush=True
    )
    chosen = [run for run in runs() if run.name.startswith(arguments.only)]
    with get_context("spawn").Pool(arguments.processes) as pool:
        for line in pool.imap(train, chosen):
            print(line, flush=True)


if __name__ == "__main__":
    main()
