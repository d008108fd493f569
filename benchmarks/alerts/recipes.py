"""The runs of the corpus: models, faults and lively health, drawn from fixed seeds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

STEPS = 240
# A fault comes at a step drawn from here, or with the first step where it is one of set-up.
FIRST, LAST = 90, 160


@dataclass(frozen=True, slots=True)
class Recipe:
    """One run.

    Attributes:
        family: of the model, see `models`.
        layers: blocks.
        seed: of weights and batches; runs of one seed see the same data.
        rate: learning rate after the warm-up.
        optimizer: ``"adamw"``, ``"sgd"`` or ``"muon"``.
        warm_up: steps over which the rate rises.
        fault: of `faults.FAULTS`, "" for none.
        at: step of the fault, or of the change.
        block: the block that has the fault.
        change: of `health.CHANGES`, "" for a plain run.
    """

    family: str
    layers: int
    seed: int
    rate: float = 1e-3
    optimizer: str = "adamw"
    warm_up: int = 20
    fault: str = ""
    at: int = 0
    block: int = 0
    change: str = ""
    steps: int = STEPS

    @property
    def name(self) -> str:
        """What differs from run to run."""
        what = self.fault or self.change or "plain"
        optimizer = "" if self.optimizer == "adamw" else f", {self.optimizer}"
        return f"{self.family} {self.layers}{optimizer}, {what} ({self.seed})"

    @property
    def twin(self) -> Recipe:
        """The same run without its fault or change."""
        return replace(self, fault="", change="", at=0, block=0)


# Families by half: thresholds may be set on the first, and are judged on the second.
FAMILIES = (
    ("GPT2", "Llama", "Bert", "deepscale"),
    ("Qwen3", "Gemma3", "OPT", "GPTNeoX", "T5", "ViT", "pre"),
)
RATES = {"Bert": 1e-3, "ViT": 1e-3}


def bases(half: int, *, first_seed: int) -> Iterator[Recipe]:
    """Plain runs of one half."""
    draw = random.Random(first_seed)
    for number, family in enumerate(FAMILIES[half]):
        for layers in draw.sample((3, 4, 6, 8, 12), 2):
            yield Recipe(family, layers, first_seed + 10 * number + layers)
    yield Recipe(FAMILIES[half][0], 4, first_seed + 98, rate=0.05, optimizer="sgd")
    yield Recipe(FAMILIES[half][1], 4, first_seed + 99, rate=0.02, optimizer="muon")


def corpus(
    half: int, faults: tuple[str, ...], setup_faults: frozenset[str], changes: tuple[str, ...]
) -> list[Recipe]:
    """The runs of one half: each base plain, with faults in turn, and with changes in turn."""
    first_seed = 1000 * (half + 1)
    draw = random.Random(first_seed + 1)
    runs: list[Recipe] = []
    at_fault, at_change = 0, 0
    for base in bases(half, first_seed=first_seed):
        runs.append(base)
        for _ in range(3):
            fault, at_fault = faults[at_fault % len(faults)], at_fault + 1
            step = 0 if fault in setup_faults else draw.randrange(FIRST, LAST)
            runs.append(replace(base, fault=fault, at=step, block=draw.randrange(base.layers)))
        for _ in range(2):
            change, at_change = changes[at_change % len(changes)], at_change + 1
            runs.append(replace(base, change=change, at=draw.randrange(FIRST, LAST)))
    return runs
