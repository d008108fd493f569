"""Trains a recipe beside an agent and keeps what it sent, with the loss on text held out."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

import trainer_agent
from benchmarks.alerts.faults import FAULTS, Act, Job
from benchmarks.alerts.health import CHANGES
from benchmarks.alerts.models import batch_of, build, held_out_loss
from benchmarks.alerts.recipes import Recipe
from benchmarks.innovations.recording import KeepingTransport
from trainer_agent.agent import Agent
from trainer_agent.description.planning import plan_of
from trainer_agent.options import SPOOL_LIMIT_BYTES, read_options

SECOND_RATE = 1e-3  # of AdamW beside Muon
CYCLE = 60


@dataclass(frozen=True, slots=True)
class Recorded:
    """One run.

    Attributes:
        series: by key, (steps, n).
        spec: the description that the agent sent first.
        held_out: mean loss on text that no run trains on, after the last step.
        held_out_prose: the same of the other text.
    """

    series: dict[str, NDArray[np.float32]]
    spec: dict[str, object]
    held_out: float
    held_out_prose: float


def recorded(recipe: Recipe, folder: Path) -> Recorded:
    """The run of a recipe: trained, or read from what an earlier call kept."""
    digest = hashlib.blake2b(repr(recipe).encode(), digest_size=8).hexdigest()
    path = folder / f"{digest}.npz"
    if not path.exists():
        run = _trained(recipe)
        folder.mkdir(parents=True, exist_ok=True)
        head = json.dumps([run.spec, run.held_out, run.held_out_prose])
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, head=np.array(head), **run.series)  # type: ignore[arg-type]
        part.rename(path)
    with np.load(path) as file:
        spec, held_out, prose = json.loads(str(file["head"]))
        series = {key: file[key] for key in file.files if key != "head"}
    return Recorded(series, spec, held_out, prose)


def _trained(recipe: Recipe) -> Recorded:
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    model = build(recipe.family, recipe.layers).train()
    architecture = trainer_agent.description.architecture(
        model, (), batch_of(recipe.family, 0, recipe.seed)
    )
    job = Job(model, plan_of(architecture).stacks[-1], _optimizers(recipe, model))
    torch.manual_seed(recipe.seed)
    transport = KeepingTransport()
    act = _act(recipe)
    if act is not None and recipe.at == 0:
        act(job, recipe.block)
    with tempfile.TemporaryDirectory() as folder:
        options = read_options(
            project="benchmark", run=recipe.name, server="http://127.0.0.1:9", key=None, every=1,
            tags=(), config=None, spool_dir=folder, spool_limit_bytes=4 * SPOOL_LIMIT_BYTES,
            rank=0,
        )  # fmt: skip
        agent = Agent(model, options, optimizer=job.optimizers, transport=lambda: transport)
        for step in range(recipe.steps):
            if act is not None and step == recipe.at > 0:
                act(job, recipe.block)
            _step(recipe, job, step, agent)
        agent.close(timeout_s=60)
    losses = (held_out_loss(model, recipe.family, prose=prose) for prose in (False, True))
    return Recorded(transport.series(), transport.spec or {}, *losses)


def _act(recipe: Recipe) -> Act | None:
    return FAULTS[recipe.fault][0] if recipe.fault else CHANGES.get(recipe.change)


def _optimizers(recipe: Recipe, model: nn.Module) -> list[Optimizer]:
    parameters = list(model.parameters())
    if recipe.optimizer == "sgd":
        optimizers: list[Optimizer] = [torch.optim.SGD(parameters, recipe.rate, momentum=0.9)]
    elif recipe.optimizer == "muon":
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        matrices = [p for p in parameters if p.ndim == 2 and id(p) not in tables]
        inside = set(map(id, matrices))
        others = [p for p in parameters if id(p) not in inside]
        optimizers = [
            torch.optim.Muon(matrices, recipe.rate),
            torch.optim.AdamW(others, SECOND_RATE),
        ]
    else:
        optimizers = [torch.optim.AdamW(parameters, recipe.rate)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base"] = group["lr"]
    return optimizers


def _step(recipe: Recipe, job: Job, step: int, agent: Agent) -> None:
    factor = job.rate_factor * _schedule(recipe, step)
    for optimizer in job.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["base"]
        if job.zeroes:
            optimizer.zero_grad()
    total = 0.0
    for micro in range(job.accumulation):
        batch = _batch(recipe, job, step + 1000 * micro)
        loss = job.loss(job.model(**batch)["loss"]) / job.accumulation
        if loss.requires_grad:
            loss.backward()
        total += float(loss.detach())
    if job.clip is not None:
        nn.utils.clip_grad_norm_(job.model.parameters(), job.clip)
    for optimizer in job.optimizers:
        optimizer.step()
    agent.step(loss=total)
    if recipe.change == "evaluation between steps" and step % 20 == 19:
        held_out_loss(job.model, recipe.family)


def _schedule(recipe: Recipe, step: int) -> float:
    if recipe.change == "no warm-up":
        return 1.0
    warm = min(1.0, (step + 1) / recipe.warm_up)
    if recipe.change == "warm restarts":
        return warm * (0.05 + 0.95 * (1 + math.cos(math.pi * (step % CYCLE) / CYCLE)) / 2)
    if recipe.change == "decay to zero":
        return warm * (1 - step / recipe.steps)
    return warm


def _batch(recipe: Recipe, job: Job, step: int) -> dict[str, torch.Tensor]:
    drawn = [
        batch_of(recipe.family, step + 5000 * part, recipe.seed, prose=job.prose)
        for part in range(job.draws)
    ]
    return job.batch({key: torch.cat([each[key] for each in drawn]) for key in drawn[0]})
