"""The table of faults: how often the block that is named is the one that has the fault."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.innovations.faults import FAULTS, Branch
from benchmarks.innovations.jobs import (
    DEEP,
    SMALL,
    WIDE,
    Job,
    gated,
    gemma2,
    plain,
    t5,
    vit,
)
from benchmarks.innovations.recording import Recorded, record, record_faults
from benchmarks.innovations.replay import episodes, named_after, samples_times_layers
from benchmarks.theory_models import PlainGPT, bert, gpt2, llama
from dslm.ahead import Departure

WITHIN = 10  # samples
HEALTHY_STEPS = 400


@dataclass(frozen=True, slots=True)
class Trial:
    """Faults in one model that trains: at the end of `base` steps, in turn."""

    job: Job
    base: int
    seed: int
    blocks: tuple[int, ...]


# Thresholds were chosen on these.
CHOSEN_ON = (
    Trial(Job("GPT-2", lambda: gpt2(SMALL)), 150, 0, (0, 3, 6)),
    Trial(Job("BERT", lambda: bert(SMALL), kind="masked"), 150, 0, (1, 4, 7)),
    Trial(Job("Post-LN, DeepScaleLM", lambda: PlainGPT(SMALL, "deepscale")), 150, 0, (0, 4, 6)),
)
# And are judged on these, with other seeds, depths and widths.
JUDGED_ON = (
    Trial(Job("GPT-2, 16 deep", lambda: gpt2(DEEP)), 250, 11, (2, 9, 14)),
    Trial(Job("Llama", lambda: llama(WIDE)), 200, 12, (0, 4, 7)),
    Trial(Job("ViT", lambda: vit(WIDE), kind="images"), 120, 13, (1, 3, 6)),
    Trial(Job("Gemma 2 (sandwich)", lambda: gemma2(SMALL)), 160, 14, (0, 2, 5)),
    Trial(Job("GPT-NeoX (parallel)", lambda: plain("GPTNeoX", SMALL)), 90, 15, (1, 4, 7)),
    Trial(Job("OLMo 2 (branch norm)", lambda: gated("Olmo2", SMALL)), 180, 16, (0, 3, 6)),
    Trial(Job("T5, decoder", lambda: t5(SMALL)), 140, 17, (1, 5, 7)),
    Trial(Job("plain GPT, Pre-LN", lambda: PlainGPT(WIDE, "pre")), 300, 18, (2, 4, 6)),
)
_RESTARTS = {"cycle": 100}
HEALTHY = (
    Job("GPT-2", lambda: gpt2(SMALL)),
    Job("GPT-2, warm restarts", lambda: gpt2(SMALL), **_RESTARTS),
    Job("GPT-2, other text", lambda: gpt2(SMALL), other_text_from=250),
    Job("BERT, other text", lambda: bert(SMALL), kind="masked", other_text_from=250),
    Job("Llama, warm restarts", lambda: llama(SMALL), **_RESTARTS),
    Job("Llama, other text", lambda: llama(SMALL), other_text_from=250),
    Job("DeepScaleLM, restarts", lambda: PlainGPT(SMALL, "deepscale"), **_RESTARTS),
    Job("Gemma 2, other text", lambda: gemma2(SMALL), other_text_from=250),
    Job("T5, warm restarts", lambda: t5(SMALL), **_RESTARTS),
)
HEALTHY_SEED = 21


def report_localisation(folder: Path) -> None:
    """Print the share of faults whose block is named, by kind and by model; then healthy runs."""
    for title, trials in (("thresholds chosen on", CHOSEN_ON), ("judged on", JUDGED_ON)):
        _print_faults(title, [(trial, recorded_trial(trial, folder)) for trial in trials])
    _print_healthy(folder)


def recorded_trial(trial: Trial, folder: Path) -> Recorded:
    """The run of a trial and what followed each of its faults."""
    branches: tuple[Branch, ...] = ("attention", "feed_forward")
    faults = [
        (fault, block, branches[(at + order) % 2])
        for order, fault in enumerate(FAULTS)
        for at, block in enumerate(trial.blocks)
    ]
    return record_faults(trial.job, base=trial.base, seed=trial.seed, faults=faults, folder=folder)


def _print_faults(title: str, trials: list[tuple[Trial, Recorded]]) -> None:
    hits: dict[str, list[bool]] = defaultdict(list)
    for trial, recorded in trials:
        for run in recorded.faults:
            hit = _is_right(named_after(recorded, run), run.block)
            for name in (run.fault, trial.job.name, "all"):
                hits[name].append(hit)
    print(f"\n{title:30}{'runs':>6}{'block named':>13}")
    for name, of_name in hits.items():
        print(f"{name:30}{len(of_name):>6}{np.mean(of_name):>13.0%}", flush=True)


def _is_right(departure: Departure | None, block: int) -> bool:
    return departure is not None and departure.row < WITHIN and departure.block == block


def _print_healthy(folder: Path) -> None:
    print(f"\n{'healthy runs':30}{'steps x layers':>15}{'blocks named':>14}{'in 1,000':>10}")
    total, named = 0, 0
    for job in HEALTHY:
        recorded = record(job, steps=HEALTHY_STEPS, seed=HEALTHY_SEED, folder=folder)
        pairs = samples_times_layers(recorded)
        blocks = [each for _, each in episodes(recorded) if each.block is not None]
        total, named = total + pairs, named + len(blocks)
        print(f"{job.name:30}{pairs:>15}{len(blocks):>14}{1000 * len(blocks) / pairs:>10.2f}")
    print(f"{'all':30}{total:>15}{named:>14}{1000 * named / total:>10.2f}", flush=True)
