"""How early do alerts come? ``python -m benchmarks.lead_time``

Trains small byte-level GPTs, some of which fail, and prints for each the step of its first alert
at warning or above beside the step at which the loss shows it: from where on its median over 11
steps stays 10 % above that of a healthy twin on the same data. Healthy runs count false alarms.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import dslm
import trainer_agent
from benchmarks.measured_run import STACK, Recipe, Values, batches_of, build, measured
from server.alerts.lifecycle import Transition, advance
from server.alerts.rules import Observation, RunningStats, StackFacts, evaluate, facts

DEEPSCALE = "post-ln-deepscale"
RECIPES = (
    Recipe("pre-ln 24", healthy=True, n_saved=100),
    Recipe("pre-ln 24, seed 1", seed=1, healthy=True),
    Recipe("post-ln deepscale 24", DEEPSCALE, healthy=True, n_saved=60),
    Recipe("post-ln deepscale 24, seed 1", DEEPSCALE, seed=1, healthy=True, n_saved=60),
    Recipe("post-ln 4", "post-ln", layers=4, healthy=True, n_saved=100),
    Recipe("pre-ln 12", layers=12, rate=1e-3, steps=110, healthy=True),
    Recipe("pre-ln 8, rate 1e-2", layers=8, rate=1e-2, steps=60, healthy=True),
    Recipe("post-ln 24", "post-ln", twin="pre-ln 24", n_saved=60),
    Recipe("post-ln 24, seed 1", "post-ln", seed=1, twin="pre-ln 24, seed 1"),
    Recipe("post-ln 16", "post-ln", layers=16, twin="pre-ln 24"),
    Recipe(
        "pre-ln 12, rate × 300",
        layers=12,
        rate=1e-3,
        steps=110,
        jump_at=60,
        twin="pre-ln 12",
        n_saved=85,
    ),
    Recipe(
        "pre-ln 8, half overflows",
        layers=8,
        rate=1e-2,
        steps=60,
        half_scale=2000.0,
        twin="pre-ln 8, rate 1e-2",
        n_saved=36,
    ),
)


@dataclass(frozen=True)
class Result:
    """One run's losses and the alerts it raised."""

    recipe: Recipe
    losses: np.ndarray
    raised: list[Transition]


def stack_facts(recipe: Recipe, model: torch.nn.Module) -> dict[str, StackFacts]:
    spec = trainer_agent.describe(model, next(batches_of(recipe))[0])
    return facts(spec, {0: dslm.predict(spec)})


# the server's own rules and lifecycle, without the server
def judged(steps: Iterator[Values], stacks: dict[str, StackFacts]) -> Iterator[tuple[float, list]]:
    stats, tracks = RunningStats(), {}
    for step, values in enumerate(steps):
        verdict = evaluate(Observation(step=step, values=values, stacks=stacks), stats)
        stats = verdict.stats
        tracks, events = advance(tracks, verdict)
        yield float(values["/loss/value"][0]), events


def run(recipe: Recipe, saved: dict[str, np.ndarray] | None) -> Result:
    model = build(recipe)
    stacks = stack_facts(recipe, model)
    steps = measured(recipe, model)
    if saved is not None and recipe.n_saved:
        steps = _saving(recipe, steps, stacks, saved)
    losses, raised = [], []
    for loss, events in judged(steps, stacks):
        losses.append(loss)
        raised += [event for event in events if event.kind == "opened"]
    return Result(recipe, np.array(losses), raised)


def visible_at(losses: np.ndarray, twin: np.ndarray) -> int | None:
    """The step from which on the smoothed loss stays 10 % above the twin's, or is not finite."""
    length = min(len(losses), len(twin))
    above = ~(_smooth(losses[:length]) <= 1.1 * _smooth(twin[:length]))
    # a later step below the line takes an earlier one back: somebody watching would wait
    last_fine = np.flatnonzero(~above)
    first = int(last_fine[-1]) + 1 if len(last_fine) else 0
    return first if first < length else None


def _smooth(losses: np.ndarray) -> np.ndarray:
    """Median of the last 11 steps, so nothing of the future."""
    windows = [losses[max(0, at - 10) : at + 1] for at in range(len(losses))]
    return np.array([np.median(window) for window in windows])


def _saving(
    recipe: Recipe, steps: Iterator[Values], stacks: dict[str, StackFacts], saved: dict
) -> Iterator[Values]:
    every: list[Values] = []
    for values in steps:
        every.append(values)
        yield values
    for key in every[0]:
        series = np.array([values[key] for values in every[: recipe.n_saved]], np.float32)
        saved[f"{recipe.name}:{key}"] = series if "correlation" in key else _rounded(series)
    start = stacks[STACK].at_start
    for name in start.__dataclass_fields__ if start else ():
        saved[f"{recipe.name}:expected:{name}"] = np.asarray(getattr(start, name), np.float32)


def _rounded(values: np.ndarray) -> np.ndarray:
    """15 bits of mantissa, which compress well; NaN and Inf as they are."""
    cut = (values.view(np.uint32) & np.uint32(0xFFFFFF00)).view(np.float32)
    return np.where(np.isfinite(values), cut, values)


def report(results: dict[str, Result]) -> None:
    print(f"{'run':31} {'first alert':34} {'at step':>7} {'in loss':>7} {'lead':>5}")
    for result in results.values():
        loud = [e for e in result.raised if e.finding and e.finding.severity != "info"]
        name, at = (loud[0].key.rule, loud[0].step) if loud else ("–", None)
        twin = results.get(result.recipe.twin or "")
        visible = visible_at(result.losses, twin.losses) if twin else None
        lead = "" if at is None or visible is None else str(visible - at)
        print(f"{result.recipe.name:31} {name:34} {_text(at):>7} {_text(visible):>7} {lead:>5}")
        for event in loud[1:]:
            print(f"{'':31} {event.key.rule:34} {event.step:>7}")
    healthy = [result for result in results.values() if result.recipe.healthy]
    false = sum(
        e.finding.severity != "info" for result in healthy for e in result.raised if e.finding
    )
    steps = sum(len(result.losses) for result in healthy)
    print(f"\nfalse alarms: {false} in {len(healthy)} healthy runs, {steps} steps")


def _text(step: int | None) -> str:
    return "–" if step is None else str(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="keep every measured series in this .npz")
    parser.add_argument("--only", help="names of runs to train, separated by ;")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = set(args.only.split(";")) if args.only else {recipe.name for recipe in RECIPES}
    saved: dict[str, np.ndarray] | None = {} if args.save else None
    began = time.perf_counter()
    results = {recipe.name: run(recipe, saved) for recipe in RECIPES if recipe.name in names}
    report(results)
    print(f"trained in {time.perf_counter() - began:.0f} s")
    if saved is not None:
        np.savez_compressed(args.save, **saved)


if __name__ == "__main__":
    main()
