"""Measured runs for the rules: trained by ``python -m benchmarks.lead_time --save``, cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from server.alerts.lifecycle import Track, Transition, advance
from server.alerts.rules import Expected, Key, Observation, RunningStats, StackFacts, evaluate
from server.alerts.rules.observation import observe
from wire import Layout, Series

RUNS = Path(__file__).with_name("runs.npz")
STACK = "decoder"


@dataclass(frozen=True)
class Run:
    """One measured run."""

    values: dict[str, np.ndarray]  # series key -> (steps, n)
    facts: StackFacts

    def __len__(self) -> int:
        return len(self.values["/loss/value"])

    def observation(self, step: int) -> Observation:
        rows = {key: vectors[step] for key, vectors in self.values.items()}
        layout = Layout(tuple(Series(*key.split("/", 2), len(row)) for key, row in rows.items()))
        values = np.concatenate(list(rows.values())).astype(np.float32)
        return observe(step=step, layout=layout, values=values, stacks={STACK: self.facts})

    def observations(self) -> Iterator[Observation]:
        return (self.observation(step) for step in range(len(self)))

    def with_series(self, key: str, change: Callable[[np.ndarray], np.ndarray]) -> Run:
        return replace(self, values={**self.values, key: change(self.values[key])})


@dataclass
class Diagnosis:
    """The rules and their lifecycle over a stream of observations."""

    stats: RunningStats
    tracks: dict[Key, Track]
    events: list[Transition]

    def see(self, observation: Observation) -> None:
        verdict = evaluate(observation, self.stats)
        self.tracks, events = advance(self.tracks, verdict)
        self.stats = verdict.stats
        self.events += events

    def opened(self, rule: str) -> list[Transition]:
        return [event for event in self.events if event.kind == "opened" and event.key.rule == rule]

    def loud(self) -> list[str]:
        """Rules that were opened at warning or above."""
        notified = [e for e in self.events if e.finding and e.finding.severity != "info"]
        return sorted({event.key.rule for event in notified})


@pytest.fixture(scope="session")
def runs() -> dict[str, Run]:
    with np.load(RUNS) as stored:
        arrays = {name: stored[name] for name in stored}
    names = dict.fromkeys(name.split(":")[0] for name in arrays)
    return {name: _run(name, arrays) for name in names}


def _run(name: str, arrays: dict[str, np.ndarray]) -> Run:
    arrays_of_run = {
        key.split(":", 1)[1]: array for key, array in arrays.items() if key.startswith(f"{name}:")
    }
    values = {key: array for key, array in arrays_of_run.items() if ":" not in key}
    curves = {
        key.split(":")[1]: array.astype(np.float64)
        for key, array in arrays_of_run.items()
        if ":" in key
    }
    n_layers = values[f"{STACK}/stream/variance"].shape[1] - 1
    facts = StackFacts(
        n_layers=n_layers,
        placement="pre" if name.startswith("pre") else "post",
        beta=(2 / n_layers) ** 0.5 if "deepscale" in name else 1.0,
        expected=(Expected(**{**curves, "step": 0}),),
    )
    return Run(values, facts)


@pytest.fixture
def diagnosis() -> Diagnosis:
    return Diagnosis(RunningStats(), {}, [])


@pytest.fixture
def diagnose() -> Callable[[Run], Diagnosis]:
    def judge(run: Run) -> Diagnosis:
        diagnosis = Diagnosis(RunningStats(), {}, [])
        for observation in run.observations():
            diagnosis.see(observation)
        return diagnosis

    return judge


@pytest.fixture
def run_row() -> Callable[..., dict[str, object]]:
    """Rows of `runs`, as far as alerts read them."""
    return _run_row


def _run_row(run_id: str, project: str = "demo") -> dict[str, object]:
    empty = {"tags": [], "config": {}, "sparkline": {}, "stacks": {}, "missing": [], "notes": []}
    texts = ("tag_index", "end_reason", "layout_hash", "agent_version", "family", "architecture")
    zeros = ("created_at", "started_at", "last_seen", "frames", "n_params")
    return {
        "id": run_id,
        "project": project,
        "name": "post-ln",
        "status": "running",
        "diverged": False,
        "diverging": False,
        **empty,
        **dict.fromkeys(texts, ""),
        **dict.fromkeys(zeros, 0),
    }
