"""Faults put into one block of a model that trains, as bugs and broken devices do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from trainer_agent.model.plan import StackPlan

Branch = Literal["attention", "feed_forward"]
Undo = Callable[[], None]
Fault = Callable[[nn.Module, StackPlan, int, Branch], Undo]

FACTOR = 4.0
ROWS_FACTOR = 8.0
LARGEST_HALF = 65504.0


def scale_weights(model: nn.Module, stack: StackPlan, block: int, branch: Branch) -> Undo:
    """One matrix of the branch, the last, is `FACTOR` times as large."""
    with torch.no_grad():
        _last_matrix(model, stack, block, branch).mul_(FACTOR)
    return _nothing


def zero_gain(model: nn.Module, stack: StackPlan, block: int, branch: Branch) -> Undo:
    """The gain of the branch's norm is zero."""
    paths = {"attention": stack.attention_norm, "feed_forward": stack.feed_forward_norm}[branch]
    norm = model.get_submodule(_path(paths, block))
    with torch.no_grad():
        # Gemma's norms multiply by 1 + weight.
        offset = -1.0 if type(norm).__name__.startswith("Gemma") else 0.0
        norm.get_parameter("weight").fill_(offset)
    return _nothing


def add_noise(model: nn.Module, stack: StackPlan, block: int, branch: Branch) -> Undo:
    """One matrix of the branch, the last, has noise of its own size added."""
    return _noise(_last_matrix(model, stack, block, branch), 1.0)


def add_much_noise(model: nn.Module, stack: StackPlan, block: int, branch: Branch) -> Undo:
    """The same with noise of `FACTOR` times its size."""
    return _noise(_last_matrix(model, stack, block, branch), FACTOR)


def _noise(matrix: Tensor, size: float) -> Undo:
    with torch.no_grad():
        matrix.add_(torch.randn_like(matrix) * matrix.square().mean().sqrt() * size)
    return _nothing


def half_precision(model: nn.Module, stack: StackPlan, block: int, branch: Branch) -> Undo:
    """What the branch adds passes through half precision, its gradient too."""
    return _through_half(model.get_submodule(_branch_path(stack, block, branch)), share=0.0)


def half_overflows(model: nn.Module, stack: StackPlan, block: int, branch: Branch) -> Undo:
    """The same in units in which the largest value overflows."""
    return _through_half(model.get_submodule(_branch_path(stack, block, branch)), share=2.0)


def _through_half(module: nn.Module, share: float) -> Undo:
    """`share` is the largest value over the largest half; 0 leaves the units as they are."""

    def rounded(x: Tensor) -> Tensor:
        unit = float(x.detach().abs().max()) / LARGEST_HALF / share if share else 1.0
        return (x / unit).half().to(x.dtype) * unit

    def hook(_module: nn.Module, _args: object, output: object) -> object:
        if isinstance(output, tuple):
            return (rounded(output[0]), *output[1:])
        return rounded(output) if isinstance(output, Tensor) else output

    # Before the agent's hook, which then measures what is added.
    handle = module.register_forward_hook(hook, prepend=True)
    return handle.remove


def freeze(model: nn.Module, stack: StackPlan, block: int, _branch: Branch) -> Undo:
    """The block's parameters are no longer trained."""
    parameters = list(model.get_submodule(stack.blocks[block]).parameters())
    for parameter in parameters:
        parameter.requires_grad_(requires_grad=False)

    def thaw() -> None:
        for parameter in parameters:
            parameter.requires_grad_(requires_grad=True)

    return thaw


def blow_up_queries(model: nn.Module, stack: StackPlan, block: int, _branch: Branch) -> Undo:
    """A quarter of the rows of the query matrix, or one head's, is `ROWS_FACTOR` times as large."""
    module = model.get_submodule(stack.projections[block][0])
    weight = module.get_parameter("weight")
    transposed = type(module).__name__ == "Conv1D"
    width = weight.shape[0] if transposed else weight.shape[1]
    rows = slice(0, max(1, width // 4))
    with torch.no_grad():
        (weight[:, rows] if transposed else weight[rows]).mul_(ROWS_FACTOR)
    return _nothing


FAULTS: dict[str, Fault] = {
    "weights x 4": scale_weights,
    "norm's gain zeroed": zero_gain,
    "noise on a matrix x 1": add_noise,
    "noise on a matrix x 4": add_much_noise,
    "half precision": half_precision,
    "half precision overflows": half_overflows,
    "block frozen": freeze,
    "query rows x 8": blow_up_queries,
}


def possible(fault: str, stack: StackPlan, block: int, branch: Branch) -> bool:
    """Whether the model has what the fault breaks."""
    if fault == "query rows x 8":
        return len(stack.projections) > block and bool(stack.projections[block])
    if fault == "norm's gain zeroed":
        norms = {"attention": stack.attention_norm, "feed_forward": stack.feed_forward_norm}
        return len(norms[branch]) > block and norms[branch][block] is not None
    return True


def _last_matrix(model: nn.Module, stack: StackPlan, block: int, branch: Branch) -> Tensor:
    if branch == "attention":
        path = _path(stack.attention_outputs, block)
    else:
        path = _branch_path(stack, block, branch)
    matrices = [p for p in model.get_submodule(path).parameters() if p.ndim == 2]
    if not matrices:  # the branch ends in a norm: the last matrix of the block
        within = model.get_submodule(stack.blocks[block]).parameters()
        matrices = [p for p in within if p.ndim == 2]
    return matrices[-1]


def _branch_path(stack: StackPlan, block: int, branch: Branch) -> str:
    paths = {"attention": stack.attention, "feed_forward": stack.feed_forward}[branch]
    return _path(paths, block)


def _path(paths: tuple[str | None, ...], block: int) -> str:
    path = paths[block]
    assert path is not None
    return path


def _nothing() -> None:
    pass
