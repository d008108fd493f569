"""Faults of the corpus, each as a change of a job that trains, from one step on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.alerts.models import inputs_of
from benchmarks.innovations import faults as in_blocks
from benchmarks.theory_models import Batch
from server.alerts.rules import Advice
from server.alerts.rules.loss import DATA_ADVICE, MOVED_ADVICE
from trainer_agent.model.plan import StackPlan


@dataclass
class Job:
    """A job while it trains: what faults and changes act on.

    Attributes:
        optimizers: each group's learning rate after the warm-up is its ``"base"``.
        rate_factor: times which these are used.
        batch: changes each batch, after it was drawn.
        loss: changes each loss.
        zeroes: whether gradients are taken away before each step.
        prose: whether batches are of the other text.
        draws: how many batches make one.
        accumulation: micro-batches of a step.
        clip: norm to which gradients are clipped, None for no clipping.
    """

    model: nn.Module
    stack: StackPlan
    optimizers: list[Optimizer]
    rate_factor: float = 1.0
    batch: Callable[[Batch], Batch] = lambda batch: batch
    loss: Callable[[Tensor], Tensor] = lambda loss: loss
    zeroes: bool = True
    prose: bool = False
    draws: int = 1
    accumulation: int = 1
    clip: float | None = 1.0


Act = Callable[[Job, int], None]


def _rate(factor: float) -> Act:
    def act(job: Job, _block: int) -> None:
        job.rate_factor = factor

    return act


def _labels_shuffled(job: Job, _block: int) -> None:
    def shuffled(batch: Batch) -> Batch:
        labels = batch["labels"].flatten()
        order = torch.randperm(len(labels))
        return {**batch, "labels": labels[order].view(batch["labels"].shape)}

    job.batch = shuffled


def _sign(job: Job, _block: int) -> None:
    job.loss = lambda loss: -loss


def _one_batch(job: Job, _block: int) -> None:
    batches: list[Batch] = []

    def same(batch: Batch) -> Batch:
        if not batches:
            batches.append(batch)
        return batches[0]

    job.batch = same


def _constant_input(job: Job, _block: int) -> None:
    def constant(batch: Batch) -> Batch:
        name = inputs_of(batch)
        first = batch[name].flatten()[0]
        return {**batch, name: torch.full_like(batch[name], first.item())}

    job.batch = constant


def _noise_input(job: Job, _block: int) -> None:
    def noise(batch: Batch) -> Batch:
        name = inputs_of(batch)
        x = batch[name]
        drawn = torch.randn_like(x) if x.is_floating_point() else torch.randint_like(x, 3, 256)
        return {**batch, name: drawn}

    job.batch = noise


def _forgotten(job: Job, _block: int) -> None:
    inside = {
        id(p) for path in job.stack.blocks for p in job.model.get_submodule(path).parameters()
    }
    for optimizer in job.optimizers:
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in inside]


def _decay(job: Job, _block: int) -> None:
    for optimizer in job.optimizers:
        for group in optimizer.param_groups:
            group["weight_decay"] = 50.0


def _embeddings_fast(job: Job, _block: int) -> None:
    tables = [m.weight for m in job.model.modules() if isinstance(m, nn.Embedding)]
    identities = set(map(id, tables))
    for optimizer in job.optimizers:
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in identities]
    optimizer = job.optimizers[0]
    rate = 300.0 * optimizer.param_groups[0]["base"]
    optimizer.add_param_group({"params": tables, "base": rate})


def _no_zeroing(job: Job, _block: int) -> None:
    job.zeroes, job.clip = False, None


def _nan_weight(job: Job, block: int) -> None:
    with torch.no_grad():
        matrix = next(p for p in _block(job, block).parameters() if p.ndim == 2)
        matrix.view(-1)[0] = float("nan")


def _dropped(job: Job, block: int) -> None:
    _block(job, block).register_forward_hook(_through_dropout)


def _through_dropout(_module: nn.Module, _args: object, output: object) -> object:
    if isinstance(output, tuple):
        return (nn.functional.dropout(output[0], 0.8), *output[1:])
    return nn.functional.dropout(output, 0.8) if isinstance(output, Tensor) else output


def _cut(job: Job, block: int) -> None:
    """The gradient ends behind a block, as after a `detach` too many."""

    def detached(_module: nn.Module, _args: object, output: object) -> object:
        if isinstance(output, tuple):
            return (output[0].detach(), *output[1:])
        return output.detach() if isinstance(output, Tensor) else output

    _block(job, block).register_forward_hook(detached)


def _wide_start(job: Job, _block: int) -> None:
    with torch.no_grad():
        for parameter in job.model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10.0)


def _in_block(fault: in_blocks.Fault, *, attention: bool = False) -> Act:
    def act(job: Job, block: int) -> None:
        fault(job.model, job.stack, block, "attention" if attention else "feed_forward")

    return act


def _block(job: Job, block: int) -> nn.Module:
    return job.model.get_submodule(job.stack.blocks[block])


TOO_HIGH: frozenset[str | Advice] = frozenset({"update_size", "rate_jump", "loss_divergence"})
#: By name: what happens, and the rules that name its cause, or the advice that does.
FAULTS: dict[str, tuple[Act, frozenset[str | Advice]]] = {
    "rate x 30": (
        _rate(30),
        frozenset({"update_size", "rate_jump", "loss_divergence", "exploding_gradient"}),
    ),
    "rate x 100": (_rate(100), frozenset({"update_size", "rate_jump", "loss_divergence"})),
    "rate x 300": (_rate(300), frozenset({"update_size", "rate_jump", "loss_divergence"})),
    "rate 0": (_rate(0), frozenset({"standing_weights", "zero_rate"})),
    "labels shuffled": (_labels_shuffled, frozenset({DATA_ADVICE})),
    "sign of the loss": (_sign, frozenset({"loss_sign"})),
    "one batch for ever": (_one_batch, frozenset({"repeated_batch"})),
    "constant input": (_constant_input, frozenset({"alike_tokens", "repeated_batch"})),
    "noise for input": (_noise_input, frozenset({MOVED_ADVICE})),
    "parameters forgotten": (_forgotten, frozenset({"standing_weights"})),
    "weight decay 50": (_decay, frozenset({DATA_ADVICE})),
    "embeddings' rate x 300": (_embeddings_fast, frozenset({"loss_divergence"})),
    "gradients never zeroed": (_no_zeroing, frozenset({"exploding_gradient"})),
    "a weight is NaN": (_nan_weight, frozenset({"nonfinite"})),
    "dropout of 0.8 in a block": (_dropped, frozenset()),
    "gradient cut": (_cut, frozenset({"vanishing_gradient"})),
    "rate / 3000": (_rate(1 / 3000), frozenset({"small_updates"})),
    "weights x 10 at the start": (_wide_start, frozenset({"departs_from_prediction"})),
    "weights x 4 in a block": (_in_block(in_blocks.scale_weights), frozenset()),
    "a norm's gain zeroed": (_in_block(in_blocks.zero_gain), frozenset()),
    "noise x 4 in a block": (_in_block(in_blocks.add_much_noise), frozenset()),
    "query rows x 8": (
        _in_block(in_blocks.blow_up_queries, attention=True),
        frozenset({"attention_logit_growth", "attention_entropy_collapse"}),
    ),
}
SETUP = frozenset({"parameters forgotten", "rate / 3000", "weights x 10 at the start"})
#: Those that one block has.
LOCAL = frozenset(
    {
        "a weight is NaN",
        "dropout of 0.8 in a block",
        "gradient cut",
        "weights x 4 in a block",
        "a norm's gain zeroed",
        "noise x 4 in a block",
        "query rows x 8",
    }
)
