"""One process of a job of two, run by `test_ranks`: trains on its part of each batch.

Where both processes work on the same sequences (``tensor``, ``sequence``, ``pipeline``) a batch
goes to both whole. ``-bare`` behind a kind leaves the agent out.

python -m tests.trainer_agent.distributed_job KIND RANK PORT FOLDER
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, loss_of, loss_of_logits
from trainer_agent.ranks import group
from wire import AlertWord, Command

WORLD, STEPS = 2, 12
LONGER = {"burst": 80, "stop": 80, "stop-fixed": 80, "burst-fixed": 40, "stop-apart": 40}
EVERYTHING = {"sites": "all", "quantities": "all"}
HEARD: list[AlertWord] = []  # by the function that some kinds act on alerts with
OPTIONS: dict[str, dict[str, Any]] = {
    "budget": {"overhead": 0.05},
    "burst": {"overhead": 0.05},
    "stop": {"overhead": 1.0, "on_alert": "stop"},
    "stop-fixed": {"every": 1, "on_alert": "stop"},
    "burst-fixed": {"every": 3},
    "stop-apart": {"every": 3, "on_alert": ["stop", HEARD.append]},
    "alone": {"on_alert": ["stop", HEARD.append], **EVERYTHING},
    "slow-server": {"overhead": 1.0},
}
ALERT = AlertWord("rank_collapse", "critical", "Rank collapse", "r is 1", 1, "decoder", "stream")
SAID = {
    "burst": Command(id="b", kind="burst", steps=6),
    "stop": Command(id="a", kind="alert", alert=ALERT),
    "stop-fixed": Command(id="a", kind="alert", alert=ALERT),
    "burst-fixed": Command(id="b", kind="burst", steps=6),
    "stop-apart": Command(id="a", kind="alert", alert=ALERT),
    "alone": Command(id="a", kind="alert", alert=ALERT),
}
STAGED_SITES = ("norm_inputs", "weights", "updates")


def wrapped(kind: str, model: SmallGPT) -> nn.Module:
    """The model as the kind of job has it."""
    if kind in ("tensor", "sequence"):
        return split_matrices(model) if kind == "tensor" else split_sequences(model)
    if kind != "fsdp":
        return DistributedDataParallel(model)
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def split_matrices(model: SmallGPT) -> nn.Module:
    """Tensor parallelism: feed-forward and output projection over both processes."""
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    plan["out"] = RowwiseParallel(input_layouts=Replicate())
    for block in model.blocks:
        parallelize_module(block, init_device_mesh("cpu", (WORLD,)), plan)
    return model


def split_sequences(model: SmallGPT) -> nn.Module:
    """Sequence parallelism: each process holds half of the tokens of the stream."""
    mesh, halves = init_device_mesh("cpu", (WORLD,)), Shard(1)
    inside = {
        "norm_1": SequenceParallel(use_local_output=False),
        "qkv": ColwiseParallel(input_layouts=halves, output_layouts=Replicate()),
        "out": RowwiseParallel(input_layouts=Replicate(), output_layouts=halves),
        "norm_2": SequenceParallel(use_local_output=False),
        "up": ColwiseParallel(input_layouts=halves),
        "down": RowwiseParallel(output_layouts=halves),
    }
    for block in model.blocks:
        parallelize_module(block, mesh, inside)
    outside = {
        "tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=halves),
        "positions": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(0)),
        "norm": SequenceParallel(use_local_output=False),
        "head": ColwiseParallel(input_layouts=halves, output_layouts=Replicate()),
    }
    return parallelize_module(model, mesh, outside)


class Stage(nn.Module):
    """Half of a `SmallGPT`: the embeddings and two blocks, or the last block and the head."""

    def __init__(self, model: SmallGPT, number: int) -> None:
        super().__init__()
        self.first, held = number == 0, range(2) if number == 0 else range(2, 3)
        self.blocks = nn.ModuleDict({str(n): model.blocks[n] for n in held})
        self.rest = nn.ModuleDict(
            {"tokens": model.tokens, "positions": model.positions}
            if self.first
            else {"norm": model.norm, "head": model.head}
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            x = self.rest["tokens"](x) + self.rest["positions"](torch.arange(x.shape[1]))
        for block in self.blocks.values():
            x = block(x)
        return x if self.first else self.rest["head"](self.rest["norm"](x))


def whole_weights(model: nn.Module) -> dict[str, np.ndarray]:
    """Every parameter, gathered where it is sharded."""
    whole: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        value: Any = parameter.detach()
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        whole[name.removeprefix("module.")] = value.numpy()
    return whole


def slow_down() -> None:
    """A server that takes a second to answer, where processes give up after half of that."""
    group.DECISION_TIMEOUT_S = 0.5
    send = RecordingTransport.send

    def later(*args: Any) -> Any:
        time.sleep(1.0)
        return send(*args)

    RecordingTransport.send = later  # type: ignore[method-assign]


def main(kind: str, rank: int, port: int, folder: Path) -> None:
    """Train, watched as `kind` says, and leave weights and frames in the folder."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD
    )
    kind, watched = kind.removesuffix("-bare"), not kind.endswith("bare")
    staged = kind == "pipeline"
    whole = built()[0]
    model = Stage(whole, rank) if staged else wrapped(kind, whole)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    given: dict[str, Any] = dict(OPTIONS.get(kind, EVERYTHING))
    given |= {"pipeline": (rank, WORLD), "sites": STAGED_SITES} if staged else {}
    agent, transport = None, RecordingTransport()
    if kind == "slow-server":
        slow_down()
    if kind == "stop-apart":
        group.COLLECTIVE_TIMEOUT_S = 1.0
    if watched and (kind != "alone" or rank == 0):
        agent, transport = recorded(model, folder / f"spool-{rank}", optimizer=optimizer, **given)
    run = pipelined(model, rank) if staged else partial(backward_of, kind, model, rank)
    for step in range(LONGER.get(kind, STEPS)):
        # To one that turns out to be alone before it can know that.
        said_at = 0 if kind == "alone" else 5
        if step == said_at and rank == 0 and agent is not None and kind in SAID:
            agent._obey(SAID[kind])  # as the sender does with what the server answers
        if step == 12 and rank == 1 and agent is not None and kind == "stop-apart":
            # Here it has heard of the word, and taken it nowhere.
            agent._ranks.part(RuntimeError("on its own"))
        optimizer.zero_grad()
        loss = run(batch(step, size=4))
        if kind not in ("pipeline", "tensor", "sequence"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if agent is not None:
            agent.step(loss=loss)
            if agent.should_stop:
                break
    if agent is not None:
        agent.close(30.0)
    told = {"last_step": np.array(step), "heard": np.array(len(HEARD))}
    np.savez(folder / f"weights-{rank}.npz", **told, **whole_weights(model))
    keep(transport, folder / f"frames-{rank}.npz")
    distributed.destroy_process_group()
    # A gloo group that torch destroys right after a collective may wait for itself for ever.
    os._exit(0)


def backward_of(kind: str, model: nn.Module, rank: int, ids: Tensor) -> Tensor:
    """The loss on this process's part of a batch, and its gradients."""
    ids = ids if kind in ("tensor", "sequence") else ids[rank::WORLD]
    loss = loss_of(model, ids)
    loss.backward()
    return loss


def pipelined(model: nn.Module, rank: int) -> Callable[[Tensor], Tensor | None]:
    """Runs a batch through both stages, as two micro-batches."""
    stage = PipelineStage(model, rank, WORLD, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, n_microbatches=2, loss_fn=loss_of_logits)

    def run(ids: Tensor) -> Tensor | None:
        if rank == 0:
            schedule.step(ids[:, :-1])
            return None
        losses: list[Tensor] = []
        schedule.step(target=ids[:, 1:], losses=losses)
        return torch.stack(losses).mean()

    return run


def keep(transport: RecordingTransport, target: Path) -> None:
    """Leave what was sent, the first frame by series."""
    if not transport.frames:
        return
    keys = transport.declarations[0].layout.slices
    found = {key.replace("/", "|"): transport.series(key, at=0) for key in keys}
    steps = np.array([frame.step for frame in transport.frames])
    reason = np.array(transport.health.first_failure)
    burst = np.array([transport.health.burst, transport.health.burst_note])
    np.savez(target, steps=steps, reason=reason, burst=burst, **found)
