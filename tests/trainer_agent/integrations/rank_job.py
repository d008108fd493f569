"""One process of a job of two under each framework, as a launcher such as torchrun starts it.

python -m tests.trainer_agent.integrations.rank_job KIND FOLDER, with RANK and the like set.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

STEPS = 3


def accelerate(folder: Path) -> nn.Module:
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
    return model


def trainer(folder: Path) -> nn.Module:
    """A `transformers.Trainer`."""
    from tests.trainer_agent.integrations.test_transformers_trainer import trainer as built
    from trainer_agent.integrations.transformers import EvenkeelCallback

    callback = EvenkeelCallback(project="p", every=1)
    job = built(folder, callback, max_steps=STEPS, ddp_backend="gloo")
    job.train()
    return job.model


def lightning(folder: Path) -> nn.Module:
    """A Lightning `Trainer`."""
    from tests.trainer_agent.integrations.test_lightning_trainer import (
        Module,
        batches,
        callback,
    )
    from tests.trainer_agent.integrations.test_lightning_trainer import trainer as built

    module = Module()
    job = built(folder, callback(), devices=2, strategy="ddp", use_distributed_sampler=False)
    job.fit(module, batches(STEPS))
    return module


def main(kind: str, folder: Path) -> None:
    """Train, and leave the weights in the folder."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = {"accelerate": accelerate, "trainer": trainer, "lightning": lightning}[kind](folder)
    rank = torch.distributed.get_rank()
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    np.savez(folder / f"weights-{rank}.npz", **weights)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
