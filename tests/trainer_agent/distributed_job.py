"""One process of a job of two, run by `test_ranks`: trains on its part of each batch.

python -m tests.trainer_agent.distributed_job KIND RANK PORT FOLDER
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import SmallGPT, batch, built, loss_of

WORLD, STEPS = 2, 12


def wrapped(kind: str, model: SmallGPT) -> nn.Module:
    """The model as the kind of job has it."""
    if kind != "fsdp":
        return DistributedDataParallel(model)
    for block in model.blocks:
        fully_shard(block)
    return fully_shard(model)


def whole_weights(model: nn.Module) -> dict[str, np.ndarray]:
    """Every parameter, gathered where it is sharded."""
    whole: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        value: Any = parameter.detach()
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        whole[name.removeprefix("module.")] = value.numpy()
    return whole


def main(kind: str, rank: int, port: int, folder: Path) -> None:
    """Train, watched as `kind` says, and leave weights and frames in the folder."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD
    )
    model = wrapped(kind, built()[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    given: dict[str, Any] = {"overhead": 0.05} if kind == "budget" else {}
    agent, transport = None, RecordingTransport()
    if kind != "bare" and (kind != "alone" or rank == 0):
        agent, transport = recorded(model, folder / f"spool-{rank}", optimizer=optimizer, **given)
    for step in range(STEPS):
        ids = batch(step, size=4)[rank::WORLD]
        optimizer.zero_grad()
        loss = loss_of(model, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if agent is not None:
            agent.step(loss=loss)
    if agent is not None:
        agent.close(30.0)
    np.savez(folder / f"weights-{rank}.npz", **whole_weights(model))
    if transport.frames:
        keys = transport.declarations[0].layout.slices
        found = {key.replace("/", "|"): transport.series(key, at=0) for key in keys}
        steps = np.array([frame.step for frame in transport.frames])
        reason = np.array(transport.health.first_failure)
        np.savez(folder / f"frames-{rank}.npz", steps=steps, reason=reason, **found)
    distributed.destroy_process_group()
