"""What healthy jobs do that is lively: schedules, data, sizes, habits of training loops."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.alerts.faults import Act, Job


def _prose(job: Job, _block: int) -> None:
    job.prose = True


def _larger_batch(job: Job, _block: int) -> None:
    job.draws = 4


def _accumulation(job: Job, _block: int) -> None:
    job.accumulation = 4


def _no_clipping(job: Job, _block: int) -> None:
    job.clip = None


def _dropout(job: Job, _block: int) -> None:
    for path in job.stack.blocks:
        job.model.get_submodule(path).register_forward_hook(_mild_dropout)


def _mild_dropout(_module: nn.Module, _args: object, output: object) -> object:
    if isinstance(output, tuple):
        return (nn.functional.dropout(output[0], 0.1), *output[1:])
    assert isinstance(output, torch.Tensor)
    return nn.functional.dropout(output, 0.1)


def _frozen_blocks(job: Job, _block: int) -> None:
    for path in job.stack.blocks[: len(job.stack.blocks) // 2]:
        job.model.get_submodule(path).requires_grad_(requires_grad=False)


def _scaled_loss(job: Job, _block: int) -> None:
    job.loss = lambda loss: 0.5 * loss


def _rate_drop(job: Job, _block: int) -> None:
    job.rate_factor = 0.1


def _rate_rise(job: Job, _block: int) -> None:
    job.rate_factor = 2.0


def _reset_moments(job: Job, _block: int) -> None:
    for optimizer in job.optimizers:
        for state in optimizer.state.values():
            for name in ("exp_avg", "momentum_buffer"):
                if isinstance(state.get(name), torch.Tensor):
                    state[name].zero_()


def _averaged_weights(job: Job, _block: int) -> None:
    with torch.no_grad():
        for parameter in job.model.parameters():
            parameter.data = parameter.data.clone()


#: From a step on; those of `SCHEDULES` are looked up by the loop.
CHANGES: dict[str, Act | None] = {
    "warm restarts": None,
    "decay to zero": None,
    "no warm-up": None,
    "evaluation between steps": None,
    "other text": _prose,
    "batch x 4": _larger_batch,
    "accumulation of 4": _accumulation,
    "no clipping": _no_clipping,
    "dropout": _dropout,
    "frozen blocks": _frozen_blocks,
    "loss halved": _scaled_loss,
    "rate / 10": _rate_drop,
    "rate x 2": _rate_rise,
    "momentum lost": _reset_moments,
    "weights in new memory": _averaged_weights,
}
