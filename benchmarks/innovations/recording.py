"""Train a job beside an agent that measures every step, and keep the series in a file."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import dslm
import trainer_agent
from benchmarks.innovations.faults import FAULTS, Branch, possible
from benchmarks.innovations.jobs import Job
from trainer_agent.agent import Agent
from trainer_agent.description.planning import plan_of
from trainer_agent.options import SPOOL_LIMIT_BYTES, read_options
from wire import (
    FrameBatch,
    FramesReceipt,
    Layout,
    RunDeclaration,
    RunEnd,
    RunReceipt,
    SpecRevision,
)

AFTER = 10  # steps recorded after a fault
Series = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class FaultRun:
    """A fault at the end of `base` steps, and the steps after it."""

    fault: str
    stack: str
    block: int
    branch: Branch
    after: Series


@dataclass(frozen=True, slots=True)
class Recorded:
    """The series of one run, (steps, n) each, theory's curves for it, and its continuations."""

    series: Series
    curves: Series
    faults: tuple[FaultRun, ...] = ()


class KeepingTransport:
    """A server that takes everything and keeps the vectors in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, NDArray[np.float32]]] = []
        self.layouts: dict[str, Layout] = {}
        self.spec: dict[str, Any] | None = None

    def declare(self, run_id: str, declaration: RunDeclaration) -> RunReceipt:
        """Keep the layout."""
        self.layouts[declaration.layout.hash] = declaration.layout
        return RunReceipt(run_id=run_id, durable={}, url=f"/runs/{run_id}")

    def describe(self, run_id: str, revision: SpecRevision) -> None:  # noqa: ARG002
        """Keep the first description."""
        self.spec = self.spec or revision.spec

    def send(self, run_id: str, batch: FrameBatch) -> FramesReceipt:  # noqa: ARG002
        """Keep the frames."""
        self.rows += [(frame.layout, frame.unpack()) for frame in batch.frames]
        durable = max((frame.seq for frame in batch.frames), default=0)
        return FramesReceipt(durable, accepted=len(batch.frames), duplicates=0, commands=[])

    def end(self, run_id: str, end: RunEnd) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def series(self) -> Series:
        """Every series that all frames have, (steps, n)."""
        layouts = [self.layouts[name] for name, _ in self.rows]
        keys = [key for key in layouts[-1].slices if all(key in each.slices for each in layouts)]
        return {
            key: np.stack([row[self.layouts[name].slices[key]] for name, row in self.rows])
            for key in keys
        }


def record(job: Job, *, steps: int, seed: int, folder: Path, every: int = 1) -> Recorded:
    """Train and sample every `every`-th step, or read what an earlier call recorded."""
    key = ("plain", steps, seed, every)
    return _cached(job, folder, key, lambda: _train(job, steps, seed, every=every))


def record_faults(
    job: Job, *, base: int, seed: int, faults: Sequence[tuple[str, int, Branch]], folder: Path
) -> Recorded:
    """Train for `base` steps; from there, train on after each of the faults in turn."""
    key = ("faults", base, seed, tuple(faults))
    return _cached(job, folder, key, lambda: _train(job, base, seed, faults))


def _train(
    job: Job,
    steps: int,
    seed: int,
    faults: Sequence[tuple[str, int, Branch]] = (),
    every: int = 1,
) -> Recorded:
    torch.manual_seed(seed)
    model = job.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), job.rate, fused=True)
    architecture = trainer_agent.description.architecture(model, (), job.batch(0, seed))
    stack = plan_of(architecture).stacks[-1]
    with _watched(model, optimizer, every) as (agent, transport):
        training = _Training(job, seed, model, optimizer, agent)
        training.run(range(steps))
        start = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        ran = []
        for fault, block, branch in faults:
            if not possible(fault, stack, block, branch):
                continue
            undo = FAULTS[fault](model, stack, block, branch)
            training.run(range(steps, steps + AFTER))
            undo()
            model.load_state_dict(start[0])
            optimizer.load_state_dict(copy.deepcopy(start[1]))
            ran.append((fault, block, branch))
    series = transport.series()
    steps = -(-steps // every)
    runs = [
        FaultRun(fault, stack.name, block, branch, _part(series, steps + at * AFTER))
        for at, (fault, block, branch) in enumerate(ran)
    ]
    before = {key: values[:steps] for key, values in series.items()}
    return Recorded(before, _curves(transport.spec), tuple(runs))


def _part(series: Series, start: int) -> Series:
    part = {key: values[start : start + AFTER] for key, values in series.items()}
    assert all(len(values) == AFTER for values in part.values()), "frames were lost"
    return part


def _cached(
    job: Job, folder: Path, arguments: tuple[Any, ...], make: Callable[[], Recorded]
) -> Recorded:
    digest = hashlib.blake2b(repr((job.name, arguments)).encode(), digest_size=8).hexdigest()
    path = folder / f"{digest}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **_flat(make()))
    return _unflat(path)


def _flat(recorded: Recorded) -> dict[str, Any]:
    parts = {"series": recorded.series, "curves": recorded.curves}
    parts |= {f"after {at}": run.after for at, run in enumerate(recorded.faults)}
    flat: dict[str, Any] = {
        f"{part}:{key}": values for part, series in parts.items() for key, values in series.items()
    }
    heads = [(run.fault, run.stack, run.block, run.branch) for run in recorded.faults]
    return flat | {"faults": np.array(json.dumps(heads))}


def _unflat(path: Path) -> Recorded:
    parts: dict[str, Series] = {}
    with np.load(path) as file:
        heads = json.loads(str(file["faults"]))
        for name in file.files:
            part, _, key = name.partition(":")
            parts.setdefault(part, {})[key] = file[name]
    runs = [FaultRun(*head, parts[f"after {at}"]) for at, head in enumerate(heads)]
    return Recorded(parts["series"], parts["curves"], tuple(runs))


@dataclass(frozen=True, slots=True)
class _Training:
    """A job with all that one of its steps needs."""

    job: Job
    seed: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    agent: Agent

    def run(self, steps: range) -> None:
        """Train for these steps."""
        for step in steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.job.rate_at(step)
            loss = self.model(**self.job.batch(step, self.seed))["loss"]
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.agent.step(loss=loss)


@contextmanager
def _watched(
    model: nn.Module, optimizer: torch.optim.Optimizer, every: int
) -> Iterator[tuple[Agent, KeepingTransport]]:
    transport = KeepingTransport()
    with tempfile.TemporaryDirectory() as spool:
        options = read_options(
            project="benchmark",
            run="innovations",
            server="http://127.0.0.1:9",
            key=None,
            every=every,
            tags=(),
            config=None,
            spool_dir=spool,
            spool_limit_bytes=16 * SPOOL_LIMIT_BYTES,
            rank=0,
        )
        agent = Agent(model, options, optimizer=optimizer, transport=lambda: transport)
        yield agent, transport
        agent.close(timeout_s=60)


def _curves(spec: dict[str, Any] | None) -> Series:
    assert spec is not None
    curves: Series = {}
    for name, stack in dslm.predict(dslm.spec_from_json(spec)).stacks.items():
        curves[f"{name}/stream/variance"] = stack.forward.variance.astype(np.float32)
        curves[f"{name}/stream/correlation"] = stack.forward.correlation.astype(np.float32)
        curves[f"{name}/stream_gradient/variance"] = stack.backward.variance.astype(np.float32)
    return curves
