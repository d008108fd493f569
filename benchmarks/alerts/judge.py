"""What the server's rules say of a recorded run, with every step sampled or few."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import dslm
from benchmarks.alerts.faults import FAULTS, LOCAL
from benchmarks.alerts.peers import PEERS, peer_alarms
from benchmarks.alerts.recipes import Recipe
from benchmarks.alerts.record import Recorded, recorded
from server.alerts.lifecycle import Track, Transition, advance
from server.alerts.rules import Key, Observation, RunningStats, StackFacts, evaluate, facts
from server.alerts.rules.observation import LOSS
from server.alerts.rules.running_stats import updated

FAILED = 0.1  # nats of held-out loss above the twin's
# What a budget samples of a small job, and what is recorded of the steps between.
SPARSE_START, SPARSE_EVERY = 4, 25
EVERY_STEP = frozenset({LOSS, "/learning_rate/value"})


@dataclass(frozen=True, slots=True)
class Judged:
    """One run and what was said of it.

    Attributes:
        failed: whether its fault made it worse than its twin on held-out text.
        opened: alerts at warning and above, as they opened.
        sparse: the same where a budget samples few steps.
        rise: most that a median of the last losses lay above that of those before, in standard
            errors, as `loss_rise` takes them.
        peers: by rule, the steps at which it alarms anew.
    """

    recipe: Recipe
    failed: bool
    opened: list[Transition]
    sparse: list[Transition]
    rise: float
    peers: dict[str, list[int]]

    def after_fault(self, opened: list[Transition]) -> Transition | None:
        """The first alert from the fault's step on; of several, one that names a layer."""
        after = (each for each in opened if each.step >= self.recipe.at)
        return min(after, key=lambda each: (each.step, _layer(each) is None), default=None)

    def names_cause(self, alert: Transition) -> bool:
        """Whether the alert's rule names what was broken, or its advice where to look."""
        causes = FAULTS[self.recipe.fault][1]
        return alert.key.rule in causes or (alert.finding and alert.finding.advice) in causes

    def names_layer(self, alert: Transition) -> bool | None:
        """Whether its first layer is the broken block's; None where no block is."""
        if self.recipe.fault not in LOCAL or alert.finding is None:
            return None
        return _layer(alert) in (self.recipe.block, self.recipe.block + 1)


def _layer(alert: Transition) -> int | None:
    return alert.finding.first_layer if alert.finding else None


def judged(recipe: Recipe, folder: Path) -> Judged | None:
    """A run of the corpus and what is said of it; None where it cannot be trained."""
    try:
        return judge(recipe, recorded(recipe, folder), recorded(recipe.twin, folder))
    except (RuntimeError, ValueError, AssertionError, StopIteration) as error:
        print(f"{recipe.name}: {error!r}", flush=True)
        return None


def judge(recipe: Recipe, run: Recorded, twin: Recorded) -> Judged:
    """Put the rules, and the peers' rules, to a run."""
    losses = run.series["/loss/value"][:, 0].astype(np.float64)
    norms = run.series["/gradient_norm/value"][:, 0].astype(np.float64)
    worse = not run.held_out <= twin.held_out + FAILED
    sampled = [*range(SPARSE_START), *range(SPARSE_EVERY, len(losses), SPARSE_EVERY)]
    return Judged(
        recipe,
        failed=bool(recipe.fault) and worse,
        opened=_opened(run, frozenset(range(len(losses)))),
        sparse=_opened(run, frozenset(sampled)),
        rise=_largest_rise(losses),
        peers={title: peer_alarms(title, losses, norms) for title in PEERS},
    )


def _opened(run: Recorded, sampled: frozenset[int]) -> list[Transition]:
    stacks = _facts(run)
    stats, tracks = RunningStats(), dict[Key, Track]()
    opened: list[Transition] = []
    for step in range(len(run.series["/loss/value"])):
        is_sampled = step in sampled
        values = {
            key: rows[step].astype(np.float64)
            for key, rows in run.series.items()
            if is_sampled or key in EVERY_STEP
        }
        observation = Observation(
            step=step, values=values, stacks=stacks if is_sampled else {}, sampled=is_sampled
        )
        verdict = evaluate(observation, stats)
        stats = verdict.stats
        tracks, changes = advance(tracks, verdict)
        opened += [each for each in changes if _is_loud(each)]
    return opened


def _largest_rise(losses: np.ndarray) -> float:
    """NaN where there are too few finite losses."""
    stats, largest = RunningStats(), float("nan")
    for step, loss in enumerate(losses):
        stats = updated(stats, Observation(step, {LOSS: np.array([loss])}, sampled=False))
        level = stats.loss_level
        largest = np.fmax(largest, (level.now - level.usual) / level.deviation)
    return float(largest)


def _is_loud(change: Transition) -> bool:
    finding = change.finding
    return change.kind == "opened" and finding is not None and finding.severity != "info"


def _facts(run: Recorded) -> dict[str, StackFacts]:
    if not run.spec:
        return {}
    spec = dslm.spec_from_json(run.spec)
    return facts(spec, {0: dslm.predict(spec)})
