"""A job of two processes under each framework, with the environment that torchrun gives each.

Kinds that end in ``-asked`` are longer, and tell rank 0 of a critical alert at an early step.

python -m tests.trainer_agent.integrations.rank_job KIND FOLDER PORT
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import warnings
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

STEPS, LONGER = 3, 40
WORLD = 2
# Loaded once, before the processes are forked: it takes longer than the job.
FRAMEWORKS = {
    "accelerate": "accelerate",
    "trainer": "tests.trainer_agent.integrations.test_transformers_trainer",
    "lightning": "tests.trainer_agent.integrations.test_lightning_trainer",
}


def accelerate(folder: Path, asked: bool) -> tuple[nn.Module, int]:
    """A loop on an `Accelerator`."""
    from accelerate import Accelerator

    from tests.trainer_agent.small_gpt import batch, built, loss_of
    from trainer_agent.integrations.accelerate import watch

    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(*built())
    with watch(accelerator, model, optimizer, project="p", run="r", every=1) as agent:
        for step in range(STEPS):
            ids = batch(step, size=4)[accelerator.process_index :: accelerator.num_processes]
            loss = loss_of(model, ids)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            agent.step(loss=loss)
    return model, STEPS


def trainer(folder: Path, asked: bool) -> tuple[nn.Module, int]:
    """A `transformers.Trainer`."""
    from tests.trainer_agent.integrations.test_transformers_trainer import Alarm
    from tests.trainer_agent.integrations.test_transformers_trainer import trainer as built
    from trainer_agent.integrations.transformers import EvenkeelCallback

    callback = EvenkeelCallback(project="p", every=1, **actions(asked))
    alarms = [Alarm(callback, 1)] if asked else []
    steps = LONGER if asked else STEPS
    job = built(folder, callback, *alarms, max_steps=steps, ddp_backend="gloo")
    job.train()
    return job.model, job.state.global_step


def lightning(folder: Path, asked: bool) -> tuple[nn.Module, int]:
    """A Lightning `Trainer`."""
    from tests.trainer_agent.integrations.test_lightning_trainer import (
        Alarm,
        Module,
        batches,
        callback,
    )
    from tests.trainer_agent.integrations.test_lightning_trainer import trainer as built

    module, watching = Module(), callback(**actions(asked))
    alarms = [Alarm(watching)] if asked else []
    two_processes = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    job = built(folder, watching, *alarms, **two_processes)
    job.fit(module, batches(LONGER if asked else STEPS))
    return module, job.global_step


def actions(asked: bool) -> dict[str, Any]:
    """What the agent is to do about alerts."""
    return {"on_alert": ["stop", "checkpoint"]} if asked else {}


def main(kind: str, folder: Path, port: str) -> int:
    """Train in two processes; returns the exit code of the first that fails, or 0."""
    importlib.import_module(FRAMEWORKS[kind.removesuffix("-asked")])
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=train, args=(kind, folder, rank, port)) for rank in range(WORLD)]
    for rank in ranks:
        rank.start()
    # Asked once a round: to wait for none of them, where the last has ended since, is for ever.
    while (alive := [r for r in ranks if r.is_alive()]) and not any(r.exitcode for r in ranks):
        connection.wait([rank.sentinel for rank in alive])
    for rank in ranks:  # one that fails leaves the other waiting for it
        rank.kill()
        rank.join()
    return next((abs(rank.exitcode or 0) for rank in ranks if rank.exitcode), 0)


def train(kind: str, folder: Path, rank: int, port: str) -> None:
    """Train as one of the processes, and leave its weights and number of steps in the folder."""
    own = str(rank)
    os.environ |= {"RANK": own, "LOCAL_RANK": own, "GROUP_RANK": "0", "MASTER_PORT": port}
    os.environ |= {"WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "tests"}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kind, asked = kind.removesuffix("-asked"), kind.endswith("-asked")
    jobs = {"accelerate": accelerate, "trainer": trainer, "lightning": lightning}
    model, steps = jobs[kind](folder, asked)
    assert rank == torch.distributed.get_rank()
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    np.savez(folder / f"weights-{rank}.npz", steps=np.array(steps), **weights)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
