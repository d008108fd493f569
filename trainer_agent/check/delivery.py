"""The agents of a check: what they would send stays in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from trainer_agent import attach
from trainer_agent.agent import Agent
from trainer_agent.check.cpu_only import replaced
from trainer_agent.delivery.transport import Transport
from trainer_agent.model.sites import SITES
from trainer_agent.model.unwrap import unwrap
from trainer_agent.options import Options
from wire import (
    FrameBatch,
    FramesReceipt,
    Health,
    RunDeclaration,
    RunEnd,
    RunReceipt,
    SpecRevision,
    is_absent,
)

CLOSING_TIMEOUT_S = 60.0


class LocalTransport(Transport):
    """Takes everything at once, as a server would, and keeps it."""

    def __init__(self) -> None:
        self.spec: dict[str, Any] | None = None
        self.health = Health()
        self.measured: dict[str, NDArray[np.bool_]] = {}
        self._declarations: dict[str, RunDeclaration] = {}

    def declare(self, run_id: str, declaration: RunDeclaration) -> RunReceipt:
        """Learn a layout."""
        self._declarations[declaration.layout.hash] = declaration
        return RunReceipt(run_id=run_id, durable={}, url=f"/runs/{run_id}")

    def describe(self, run_id: str, revision: SpecRevision) -> None:  # noqa: ARG002
        """Keep the newest description."""
        self.spec = revision.spec

    def send(self, run_id: str, batch: FrameBatch) -> FramesReceipt:  # noqa: ARG002
        """Note which values of the frames are there, by the key of their series."""
        self.health = batch.health
        for frame in batch.frames:
            present = ~is_absent(frame.unpack())
            for key, values in self._declarations[frame.layout].layout.slices.items():
                before = self.measured.get(key)
                if before is not None and len(before) == values.stop - values.start:
                    present[values] |= before
                self.measured[key] = present[values]
        newest = max((frame.seq for frame in batch.frames), default=batch.oldest)
        return FramesReceipt(newest, accepted=len(batch.frames), duplicates=0)

    def end(self, run_id: str, end: RunEnd) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is open."""


@dataclass(eq=False)
class WatchedModel:
    """A model with its agent, and what the agent has had to say.

    Attributes:
        by_script: whether the script itself calls `watch`, or a callback of the integrations does.
    """

    agent: Agent
    model_type: str
    n_params: int
    transport: LocalTransport
    by_script: bool
    optimizers: list[Optimizer] = field(default_factory=list)


class CheckedAgents:
    """Makes the agents of a check, of the script's own calls of `watch` as well.

    Nothing of them leaves the process; frames wait in a folder that the caller removes.
    """

    def __init__(self, spool_dir: Path) -> None:
        self._spool_dir = spool_dir
        self._is_own_call = False
        self.watched: list[WatchedModel] = []

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have every call of `watch` make such an agent, within the context."""
        with replaced(attach, "Agent", self._make):
            yield

    def watch(self, model: nn.Module, optimizers: list[Optimizer], **options: Any) -> WatchedModel:
        """Watch a model that the script does not watch itself; raises `WatchError`."""
        self._is_own_call = True
        try:
            attach.watch(model, project="check", run=f"model {len(self.watched)}", **options)
        finally:
            self._is_own_call = False
        self.watched[-1].optimizers = optimizers
        return self.watched[-1]

    def close(self) -> None:
        """End all runs, and wait for what the agents still have to say."""
        for watched in self.watched:
            watched.agent.close(CLOSING_TIMEOUT_S)

    def _make(self, model: nn.Module, options: Options, **parts: Any) -> Agent:
        transport, inner = LocalTransport(), unwrap(model)
        options = replace(options, spool_dir=self._spool_dir, every=1, sites=SITES)
        agent = Agent(model, options, **{**parts, "transport": lambda: transport})
        n_params = sum(p.numel() for p in inner.parameters())
        by_script = not self._is_own_call
        kind = type(inner).__name__
        self.watched.append(WatchedModel(agent, kind, n_params, transport, by_script))
        return agent
