r"""Putting lambda and beta into the residual steps of a model that was not written for them.

Where the blocks carry `lam` and `beta`, these are set. What is still to do, hooks do. Let a
block's step i, as it stands, be :math:`x' \leftarrow l_i x' + b_i f_i`, and the wanted one
:math:`x \leftarrow \lambda_i x + \beta_i f_i`. With the branch's output multiplied by
:math:`h_i`, the stream inside the block is :math:`c_i` times the wanted one, :math:`c_0 = 1`:

.. math:: c_i = c_{i-1} l_i / \lambda_i, \quad h_i = c_i \beta_i / b_i

and the block's output is multiplied by :math:`1/c_S`. What reads the stream through a norm does
not see :math:`c`; where a branch reads it raw (norm on the branch only), the weights that read it
are drawn smaller by :math:`c_{i-1}`. A norm on the sum (Post-LN) sets c back to 1.

The price: a multiplication per branch and block, and hooks that belong to the module, not to its
state: a state dict stays as it was and must be loaded into a model scaled in the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dslm import Amplitudes
from trainer_agent.deepscale_lm.report import DeepScaleError
from trainer_agent.description import BlockParts, StackParts

SAME = 1e-5  # relative; scales are traced through float32


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


def scale_output(module: nn.Module, factor: float) -> None:
    """Multiply what a module puts out."""
    hook = OutputScale(factor)
    hook.handle = module.register_forward_hook(hook)


def scale_input(module: nn.Module, factor: float) -> None:
    """Multiply what a module takes in."""
    hook = InputScale(factor)
    hook.handle = module.register_forward_pre_hook(hook)


Scales = Mapping[str, tuple[Any, Any]]


def own_scales(model: nn.Module, stack: StackParts) -> Scales:
    """(lam, beta) of each block that carries both as numbers; empty unless all do."""
    blocks = {path: model.get_submodule(path) for path in stack.blocks}
    scales = {
        path: (getattr(b, "lam", None), getattr(b, "beta", None)) for path, b in blocks.items()
    }
    return scales if all(_is_number(v) for pair in scales.values() for v in pair) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def set_scales(model: nn.Module, scales: Scales) -> None:
    """Write (lam, beta) into the blocks' own attributes."""
    for path, (lam, beta) in scales.items():
        block = model.get_submodule(path)
        for name, value in (("lam", lam), ("beta", beta)):
            attribute = getattr(block, name)
            if isinstance(attribute, Tensor):
                with torch.no_grad():
                    attribute.fill_(float(value))
            else:
                setattr(block, name, float(value))


@dataclass(frozen=True, slots=True)
class Factors:
    """What is to be multiplied in a block: its branches' outputs, what reads the stream, and
    the block's output.
    """

    branches: tuple[float, ...]
    readers: tuple[float, ...]
    block: float

    @property
    def are_one(self) -> bool:
        """Whether nothing is left to do."""
        return all(_is_one(f) for f in (*self.branches, self.block))


def factors(parts: BlockParts, targets: Sequence[Amplitudes]) -> Factors:
    """The factors that turn a block's traced steps into those wanted; derived above."""
    steps, n = steps_of(parts), len(targets)
    ratio = [step.lam / want.lam for step, want in zip(steps, targets, strict=True)]
    shares = [want.beta / step.beta for step, want in zip(steps, targets, strict=True)]
    ones = (1.0,) * n
    if parts.placement == "post":
        return Factors(tuple(r * s for r, s in zip(ratio, shares, strict=True)), ones, 1.0)
    if parts.placement == "parallel":
        return Factors(tuple(ratio[0] * s for s in shares), ones, 1 / ratio[0])
    c = [1.0]
    for r in ratio:
        c.append(c[-1] * r)
    branches = tuple(grown * s for grown, s in zip(c[1:], shares, strict=True))
    reads_raw = parts.placement == "branch"
    return Factors(branches, tuple(1 / x for x in c[:-1]) if reads_raw else ones, 1 / c[-1])


def steps_of(parts: BlockParts) -> tuple[Amplitudes, ...]:
    """The block's residual steps as traced, first to last."""
    crossing = [parts.cross.residual] if parts.cross else []
    residuals = (parts.attention_residual, *crossing, parts.feed_forward_residual)
    return tuple(Amplitudes(step.lam, step.beta) for step in residuals)


def hook_scales(
    model: nn.Module,
    stack: StackParts,
    targets: Sequence[Sequence[Amplitudes]],
    called: Collection[str],
) -> bool:
    """Hook what the blocks' own scales leave to do; whether there was anything.

    `called` are the paths of the modules that a forward pass calls: only those have outputs.
    """
    hooked = False
    for path, parts, steps in zip(stack.blocks, stack.parts, targets, strict=True):
        assert parts is not None
        todo = factors(parts, steps)
        hooked |= not todo.are_one
        ends = [_called_above(end, path, called) for end in _branch_ends(path, parts)]
        _scale_each(scale_output, model, ends, todo.branches)
        _scale_each(scale_output, model, [path], (todo.block,))
    return hooked


def _scale_each(
    scale: Any, model: nn.Module, paths: Sequence[str], values: Sequence[float]
) -> None:
    for path, factor in zip(paths, values, strict=True):
        if not _is_one(factor):
            scale(model.get_submodule(path), factor)


def _branch_ends(block: str, parts: BlockParts) -> Iterator[str]:
    """Paths of the modules whose output is a branch's: its last norm, or its last dense map."""
    on_branch = parts.placement == "branch"
    ends = [(parts.attention.output, parts.attention_norm, parts.attention_out_norm)]
    if parts.cross:
        ends.append((parts.cross.attention.output, parts.cross.norm, parts.cross.out_norm))
    ends.append((parts.feed_forward.down, parts.feed_forward_norm, parts.feed_forward_out_norm))
    for linear, norm, out_norm in ends:
        last = norm if on_branch else out_norm
        if last is None:
            yield linear.module
        elif last.weight is None:
            raise DeepScaleError(f"{block}: the norm on a branch has no weight to find it by")
        else:
            yield last.weight.rpartition(".")[0]


def _called_above(path: str, block: str, called: Collection[str]) -> str:
    """The module itself, or the nearest around it that is called, inside the block.

    ``nn.MultiheadAttention`` uses its output projection's weight without calling it.
    """
    ancestor = path
    while ancestor not in called:
        ancestor = ancestor.rpartition(".")[0]
        if not ancestor.startswith(f"{block}."):
            raise DeepScaleError(
                f"{path}: never called as a module, so its output cannot be scaled"
            )
    return ancestor


def residuals_are(stack: StackParts, targets: Sequence[Sequence[Amplitudes]]) -> str | None:
    """Path of the first traced block that does not step as wanted, however it is written."""
    for path, parts, steps in zip(stack.blocks, stack.parts, targets, strict=True):
        if parts is None or not factors(parts, steps).are_one:
            return path
    return None


def _is_one(factor: float) -> bool:
    return abs(factor - 1) <= SAME
