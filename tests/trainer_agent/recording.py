"""Agents whose frames stay in this process, to be looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from trainer_agent.agent import Agent
from trainer_agent.attach import sites_of
from trainer_agent.commands.alert_actions import read_actions
from trainer_agent.options import SPOOL_LIMIT_BYTES, read_options
from wire import (
    Command,
    Frame,
    FrameBatch,
    FramesReceipt,
    Health,
    Layout,
    RunDeclaration,
    RunEnd,
    RunReceipt,
    SpecRevision,
    first_step,
)


class RecordingTransport:
    """A server that takes everything at once and keeps it.

    Attributes:
        packs_steps: whether it takes the scalars of steps that are not sampled.
    """

    def __init__(self, *, packs_steps: bool = False) -> None:
        self.packs_steps = packs_steps
        self.declarations: list[RunDeclaration] = []
        self.revisions: list[SpecRevision] = []
        self.frames: list[Frame] = []
        self.ends: list[RunEnd] = []
        self.health = Health()
        self.commands: list[Command] = []

    def declare(self, run_id: str, declaration: RunDeclaration) -> RunReceipt:
        self.declarations.append(declaration)
        url = f"/runs/{run_id}"
        return RunReceipt(run_id=run_id, durable={}, url=url, packs_steps=self.packs_steps)

    def describe(self, run_id: str, revision: SpecRevision) -> None:
        self.revisions.append(revision)

    def send(self, run_id: str, batch: FrameBatch) -> FramesReceipt:
        self.frames += batch.frames
        self.health = batch.health
        durable = max((frame.seq for frame in self.frames), default=0)
        taken = len(batch.frames)
        return FramesReceipt(durable, accepted=taken, duplicates=0, commands=self.commands)

    def end(self, run_id: str, end: RunEnd) -> None:
        self.ends.append(end)

    def close(self) -> None:
        pass

    def holds(self, key: str, at: int) -> bool:
        """Whether a frame has a series."""
        layouts = {declaration.layout.hash: declaration.layout for declaration in self.declarations}
        return key in layouts[self.frames[at].layout].slices

    def series(self, key: str, at: int = -1) -> np.ndarray:
        """One series of one frame."""
        frame = self.frames[at]
        return frame.unpack()[self.layouts[frame.layout].slices[key]]

    @property
    def layouts(self) -> dict[str, Layout]:
        """The layouts that were declared, by hash."""
        return {declaration.layout.hash: declaration.layout for declaration in self.declarations}

    def scalars(self, name: str) -> dict[int, np.float32]:
        """A scalar by step, of sampled and other steps, as the newest frames have it."""
        key, values = f"/{name}/value", {}
        for frame in sorted(self.frames, key=lambda frame: frame.seq):
            layout = self.layouts[frame.layout]
            if key in layout.slices:
                first = first_step(frame, layout)
                rows = frame.unpack().reshape(-1, layout.size)[:, layout.slices[key].start]
                values |= {first + n: value for n, value in enumerate(rows)}
        return values


def recorded(model: nn.Module, folder: Path, **options: Any) -> tuple[Agent, RecordingTransport]:
    """An agent on `model` and what it sends."""
    transport = RecordingTransport(packs_steps=options.pop("packs_steps", False))
    optimizer, scaler = options.pop("optimizer", None), options.pop("scaler", None)
    defaults: dict[str, Any] = {
        "project": "tests",
        "run": "run",
        "server": "http://127.0.0.1:9",
        "key": None,
        "every": 1 if "overhead" not in options else None,
        "tags": (),
        "config": None,
        "spool_dir": folder,
        "spool_limit_bytes": SPOOL_LIMIT_BYTES,
        "rank": 0,
    }
    patterns = options.pop("custom_sites", {})
    actions, hints = read_actions(options.pop("on_alert", None)), options.pop("hints", ())
    checked = replace(read_options(**{**defaults, **options}), on_alert=actions)
    custom = sites_of(model, checked, patterns) if patterns else ()
    agent = Agent(
        model,
        checked,
        optimizer=optimizer,
        scaler=scaler,
        transport=lambda: transport,
        custom=custom,
        hints=hints,
    )
    return agent, transport
