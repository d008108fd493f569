r"""Putting lambda and beta into the residual steps of a model that was not written for them.

Where the blocks carry `lam` and `beta`, these are set. Elsewhere hooks multiply outputs:

* Post-LN, norm(x + f): the norm undoes a common factor, so f · beta/lam is exact up to eps.
* Pre-LN, x + f1, then + f2: with f1 · beta/lam, f2 · beta/lam² and the block's output · lam²,
  the output is lam·(lam·x + beta·f1) + beta·f2, since what f2 reads, it reads through a norm.

The price: a multiplication per branch, and hooks that belong to the module, not to its state:
a state dict stays as it was and must be loaded into a model scaled in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainer_agent.description import BlockParts, StackParts

from .report import DeepScaleError


class OutputScale:
    """A forward hook: output times a number. Follows its module through deepcopy and pickle."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        # kept so that unpickling reserves the handle's number for this hook
        self.handle: RemovableHandle | None = None

    def __call__(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        """Scale a tensor, or the first item of a tuple."""
        if isinstance(output, Tensor):
            return output * self.factor
        return (output[0] * self.factor, *output[1:])


class InputScale:
    """A forward pre-hook: first argument times a number."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.handle: RemovableHandle | None = None

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Scale the first argument."""
        return (args[0] * self.factor, *args[1:])


def is_scaled(model: nn.Module) -> bool:
    """Whether hooks of ours are on the model already."""
    return any(
        isinstance(hook, (OutputScale, InputScale))
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


def scale_output(module: nn.Module, factor: float) -> RemovableHandle:
    """Multiply what a module puts out."""
    hook = OutputScale(factor)
    hook.handle = module.register_forward_hook(hook)
    return hook.handle


def scale_input(module: nn.Module, factor: float) -> RemovableHandle:
    """Multiply what a module takes in."""
    hook = InputScale(factor)
    hook.handle = module.register_forward_pre_hook(hook)
    return hook.handle


Scales = Mapping[str, tuple[Any, Any]]


def own_scales(model: nn.Module, stack: StackParts) -> Scales:
    """(lam, beta) of each block that carries both as numbers; empty unless all do."""
    blocks = {path: model.get_submodule(path) for path in stack.blocks}
    found = {
        path: (getattr(b, "lam", None), getattr(b, "beta", None)) for path, b in blocks.items()
    }
    return found if all(_is_number(v) for pair in found.values() for v in pair) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def set_scales(model: nn.Module, scales: Scales) -> None:
    """Write (lam, beta) into the blocks' own attributes."""
    for path, (lam, beta) in scales.items():
        block = model.get_submodule(path)
        for name, value in (("lam", lam), ("beta", beta)):
            held = getattr(block, name)
            if isinstance(held, Tensor):
                with torch.no_grad():
                    held.fill_(float(value))
            else:
                setattr(block, name, float(value))


def hook_scales(
    model: nn.Module, stack: StackParts, lam: float, beta: float
) -> list[RemovableHandle]:
    """Hooks that make every residual step lam·x + beta·f(x)."""
    handles: list[RemovableHandle] = []
    for path, parts in zip(stack.blocks, stack.parts, strict=True):
        assert parts is not None
        pre = parts.placement == "pre"
        attention, feed_forward = _branch_ends(model, parts)
        handles.append(scale_output(attention, beta / lam))
        handles.append(scale_output(feed_forward, beta / lam**2 if pre else beta / lam))
        if pre:
            handles.append(scale_output(model.get_submodule(path), lam**2))
    return handles


def _branch_ends(model: nn.Module, parts: BlockParts) -> tuple[nn.Module, nn.Module]:
    ends = (parts.attention.output.module, parts.feed_forward.down.module)
    found = tuple(model.get_submodule(path) for path in ends)
    for path, module in zip(ends, found, strict=True):
        if next(module.children(), None) is not None:
            raise DeepScaleError(f"{path}: not a dense layer whose output can be scaled")
    return found[0], found[1]


def residuals_are(stack: StackParts, lam: float, beta: float) -> bool:
    """Whether a traced stack steps as lam·x + beta·f(x), however it is written."""
    return all(p is not None and _steps(p, lam, beta) for p in stack.parts)


def _steps(parts: BlockParts, lam: float, beta: float) -> bool:
    first, last = parts.attention_residual, parts.feed_forward_residual
    want = beta / lam
    # the weight of each branch in the stream, relative to the stream it joins
    ratios = [first.beta / first.lam, last.beta / last.lam]
    wanted = [want, want]
    if parts.placement == "pre":
        ratios[1] *= 1 / first.lam
        wanted[1] = want / lam
        same_whole = _near(first.lam * last.lam, lam**2)
        return same_whole and all(map(_near, ratios, wanted))
    return all(map(_near, ratios, wanted))


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-5 * abs(b)
