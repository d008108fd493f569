"""Fitting DeepScaleLM's weights to the stacks of a model, by the scalar forms or on kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dslm.balance import amplitudes, backward_gains, balanced_shares
from dslm.errors import SpecError
from dslm.kernels.block import Layer
from dslm.kernels.coarsen import coarsen_stack
from dslm.kernels.grid import add, correlation, mean_diagonal, n_tokens
from dslm.kernels.stack import memory_of, stack_backward
from dslm.paper_form import paper_blocks
from dslm.spec import Block, Kernel, ModelSpec, Stack
from dslm.unit_branches import (
    Amplitudes,
    fit_block,
    residuals,
    scalar_block,
    second_moment,
    stepped,
    with_residuals,
)

ROUNDS = 2  # shares follow from the gradients and these from the shares
Steps = Sequence[tuple[Amplitudes, ...]]


@dataclass(frozen=True, slots=True)
class Fit:
    """A stack's blocks with fitted weights, and their forward pass.

    `layers` is empty for the scalar forms, which need no forward pass.
    """

    blocks: tuple[Block, ...]
    layers: list[Layer]


def fit_stacks(spec: ModelSpec, even: Mapping[str, Steps], form: str) -> dict[str, Fit]:
    """Return each stack fitted with the residual steps `even`, or with balanced ones.

    `form` is one of `dslm.deepscale`'s.
    """
    stacks = {name: _unit_input(stack) for name, stack in spec.stacks.items()}
    if form == "paper":
        return _paper_fits(stacks, even)
    if form in ("simplified", "per-layer"):
        return _scalar_fits(stacks, even, per_layer=form == "per-layer")
    fits = _kernel_fits(stacks, even)
    for _ in range(ROUNDS if form == "balanced" else 0):
        steps = _balanced_steps(stacks, fits, even)
        fits = _kernel_fits(stacks, steps)
    return fits


def _unit_input(stack: Stack) -> Stack:
    """Return the stack with an input of unit second moment and a final norm of unit gain."""
    stack = coarsen_stack(stack)
    kernel = stack.input_kernel
    size = mean_diagonal(kernel)
    if not size > 0:
        raise SpecError("input_kernel.diagonal", "give an input that is not all zero")
    unit = replace(
        kernel,
        diagonal=kernel.diagonal / size,
        off_diagonal=kernel.off_diagonal / size,
        mean=kernel.mean / math.sqrt(size),
    )
    norm = stack.final_norm and replace(stack.final_norm, gain_mean=1.0, gain_var=0.0, bias_var=0.0)
    return replace(stack, input_kernel=unit, final_norm=norm)


def _readers_last(stacks: Mapping[str, Stack]) -> list[str]:
    return sorted(stacks, key=lambda name: stacks[name].reads is not None)


def _kernel_fits(stacks: Mapping[str, Stack], steps: Mapping[str, Steps]) -> dict[str, Fit]:
    fits: dict[str, Fit] = {}
    for name in _readers_last(stacks):
        stack, reads = stacks[name], stacks[name].reads
        memory = None if reads is None else memory_of(stacks[reads], fits[reads].layers)
        fits[name] = _kernel_fit(stack, steps[name], memory)
    return fits


def _kernel_fit(stack: Stack, steps: Steps, memory: Kernel | None) -> Fit:
    x, blocks, layers = stack.input_kernel, [], []
    for block, block_steps in zip(stack.blocks, steps, strict=True):
        assert block is not None  # `deepscale_stacks` refuses such a stack
        fitted, layer = fit_block(x, with_residuals(block, block_steps), stack.d_model, memory)
        blocks.append(fitted)
        layers.append(layer)
        x = layer[-1].y
    return Fit(tuple(blocks), layers)


def _balanced_steps(
    stacks: Mapping[str, Stack], fits: Mapping[str, Fit], even: Mapping[str, Steps]
) -> dict[str, Steps]:
    """Return residual steps whose shares follow from the gradients through the blocks `fits`."""
    arriving: dict[str, Kernel] = {}
    steps: dict[str, Steps] = {}
    for name in reversed(_readers_last(stacks)):  # a reader's gradient goes to the stack it reads
        stack, fit = stacks[name], fits[name]
        gradients = stack_backward(stack, fit.layers, arriving.get(name))
        triples = zip(fit.blocks, gradients.blocks, even[name], strict=True)
        steps[name] = _below_the_top([_balanced(*triple) for triple in triples], stack)
        if stack.reads is not None and gradients.memory is not None:
            before = arriving.get(stack.reads)
            memory = gradients.memory
            arriving[stack.reads] = memory if before is None else add(before, memory)
    return steps


def _below_the_top(steps: list[tuple[Amplitudes, ...]], stack: Stack) -> Steps:
    """Return `steps` with those of a topmost Post-LN block replaced by the ones below.

    The topmost norm removes the gradient's radial part, 2/d of it, and no norm below does so
    again. Divided by a small beta² that loss would look like a branch that passes no gradient.
    """
    top = stack.blocks[-1]
    if len(steps) > 1 and top is not None and top.placement == "post":
        return [*steps[:-1], steps[-2]]
    return steps


def _balanced(
    block: Block, gradients: Sequence[Kernel], even: Sequence[Amplitudes]
) -> tuple[Amplitudes, ...]:
    shares = balanced_shares(backward_gains(block, gradients))
    squares = [w * step.beta**2 for w, step in zip(shares, even, strict=True)]
    return amplitudes(squares, parallel=block.placement == "parallel")


def _paper_fits(stacks: Mapping[str, Stack], steps: Mapping[str, Steps]) -> dict[str, Fit]:
    fits: dict[str, Fit] = {}
    tops: dict[str, float] = {}
    for name in _readers_last(stacks):
        blocks, tops[name] = paper_blocks(stacks[name], steps[name], tops)
        fits[name] = Fit(blocks, [])
    return fits


def _scalar_fits(
    stacks: Mapping[str, Stack], steps: Mapping[str, Steps], *, per_layer: bool
) -> dict[str, Fit]:
    fits: dict[str, Fit] = {}
    tops: dict[str, float] = {}
    for name in _readers_last(stacks):
        stack = stacks[name]
        memory = None
        if stack.reads is not None:
            read = stacks[stack.reads].input_kernel
            memory = (tops[stack.reads], n_tokens(read))
        fits[name], tops[name] = _scalar_fit(stack, steps[name], memory, per_layer=per_layer)
    return fits


def _scalar_fit(
    stack: Stack, steps: Steps, memory: tuple[float, int] | None, *, per_layer: bool
) -> tuple[Fit, float]:
    r"""Return the fit by :math:`r + (1-r)/L`, and the token correlation r at the top.

    r is the input's in every layer, or each layer's own with `per_layer`.
    """
    length = n_tokens(stack.input_kernel)
    r = _token_correlation(stack.input_kernel)
    blocks = []
    for block, block_steps in zip(stack.blocks, steps, strict=True):
        assert block is not None
        plain = with_residuals(block, block_steps)
        sources = [(r, length), *([memory] if memory and block.cross else [])]
        averaging = [corr + (1 - corr) / tokens for corr, tokens in sources]
        blocks.append(scalar_block(plain, averaging))
        r = _correlation_after(blocks[-1], r) if per_layer else r
    return Fit(tuple(blocks), []), r


def _token_correlation(kernel: Kernel) -> float:
    r = correlation(kernel)
    return min(max(r, 0.0), 1.0) if math.isfinite(r) else 1.0  # one token has no pairs


def _correlation_after(block: Block, r: float) -> float:
    r"""Return the token correlation after a block.

    Attention's output has :math:`1 - p`, the feed-forward branch's
    :math:`(1-p) E[\phi\phi]/E[\phi^2]`, times r where it has a gate.

    Source: arXiv 2403.09635, §4; any activation derived here.
    """
    *first, last = residuals(block)
    before, variance = r, 1.0
    for step in first:
        r, variance = stepped(step, r, variance, 1 - step.p_drop)
    layer = block.feed_forward
    hidden = layer.up.d_in * layer.up.weight_var
    input_correlation = before if block.placement == "parallel" else r / variance
    branch_correlation = second_moment(layer.activation, hidden, input_correlation) / second_moment(
        layer.activation, hidden
    )
    branch_correlation *= (input_correlation if layer.gate is not None else 1.0) * (
        1 - layer.p_drop
    )
    r, variance = stepped(last, r, variance, branch_correlation * (1 - last.p_drop))
    return r / variance
