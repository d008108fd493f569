"""DeepScaleLM: weights and residual scales that keep both directions at unit variance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dslm.errors import SpecError
from dslm.kernels.grid import mean_diagonal, prepare
from dslm.spec import Block, ModelSpec, Stack
from dslm.unit_branches import fit_block, with_residuals, with_var
from dslm.validation import validate

BRANCH_SHARE = 2.0  # k of beta² = k / N^alpha
DEPTH_EXPONENT = 1.0  # alpha
MAX_BETA_SQUARED = 0.5  # below 4 blocks 2/N would let the branch outweigh the stream


@dataclass(frozen=True, slots=True)
class BlockScaling:
    """Standard deviations of one block's weight matrices; `gate` is None without a gate."""

    query: float
    key: float
    value: float
    output: float
    up: float
    down: float
    gate: float | None = None


@dataclass(frozen=True, slots=True)
class Scaling:
    r"""What DeepScaleLM sets.

    Attributes:
        lam, beta: residual amplitudes, x ← lam·x + beta·f(x), lam² + beta² = 1.
        embedding: standard deviation of each embedding table.
        blocks: standard deviations, block by block.
        head: standard deviation of an untied LM head.
        tied_head_input: factor on the input of a head that shares the embedding's weights.
    """

    lam: float
    beta: float
    embedding: float
    blocks: tuple[BlockScaling, ...]
    head: float
    tied_head_input: float


def residual_amplitudes(n_blocks: int) -> tuple[float, float]:
    r"""Return (lam, beta): :math:`\beta^2 = 2/N`, :math:`\lambda^2 = 1 - \beta^2`.

    N counts blocks. Fewer than 4 blocks would give the branch more than half; there it gets half.

    Source: arXiv 2403.09635, §4, k = 2, alpha = 1; the limit is this project's.

    Raises:
        SpecError: if there is no block.
    """
    if n_blocks < 1:
        raise SpecError("blocks", "give at least one block")
    beta_squared = min(BRANCH_SHARE / n_blocks**DEPTH_EXPONENT, MAX_BETA_SQUARED)
    return math.sqrt(1 - beta_squared), math.sqrt(beta_squared)


def deepscale(
    spec: Stack | ModelSpec, *, n_embedding_tables: int = 1, p_embedding_drop: float = 0.0
) -> Scaling:
    r"""Return DeepScaleLM's scales for a stack and the kernel of its input.

    Queries and keys get :math:`\sigma = 1/\sqrt d`. Values and outputs share one standard
    deviation, up and down another, that give the branch unit variance after its dropout:

    .. math:: \sigma_v^2 \sigma_o^2 d^2 (r_l + (1 - r_l)/L)/(1-p) = 1, \quad
        \sigma_1^2 \sigma_2^2 d\, d_{ff}\, E[\phi^2]/((1-p) E[u^2]) = 1

    The first is met on the position-resolved kernel, layer after layer, rather than on a scalar
    correlation, so it holds under a causal mask. The second is solved for
    :math:`\sigma_1 = \sigma_2` and any activation; ReLU's closed form is
    :math:`d\,d_{ff}\sigma_1^2\sigma_2^2 = 2(1-p)`. A gated branch multiplies two signals, so
    only its forward variance can be 1: gate and up get unit variance, down the rest, and its
    backward gain is near 2.

    Args:
        spec: a stack, or a spec with a single one; weight moments in it are not used. The input
            kernel's scale is not either: embeddings are assumed to be drawn with `embedding`.
        n_embedding_tables: tables summed into the stream.
        p_embedding_drop: dropout on their sum.

    Raises:
        SpecError: if a block is not understood, or there is not exactly one stack.

    Source: arXiv 2403.09635, §4, with kernels and general activations derived here.
    """
    stack = _only_stack(spec)
    lam, beta = residual_amplitudes(len(stack.blocks))
    kernel = prepare(stack.input_kernel)
    size = mean_diagonal(kernel)
    x = replace(
        kernel,
        diagonal=kernel.diagonal / size,
        off_diagonal=kernel.off_diagonal / size,
        mean=kernel.mean / math.sqrt(size),
    )
    scalings = []
    for index, block in enumerate(stack.blocks):
        if block is None:
            raise SpecError(f"blocks[{index}]", "it is not understood; only whole stacks scale")
        fitted, x = fit_block(x, with_residuals(block, lam, beta), stack.d_model)
        scalings.append(_deviations(fitted))
    embedding = math.sqrt((1 - p_embedding_drop) / n_embedding_tables)
    head = 1 / math.sqrt(stack.d_model)
    return Scaling(lam, beta, embedding, tuple(scalings), head, head / embedding)


def apply_scaling(stack: Stack, scaling: Scaling) -> Stack:
    """Return the stack as it is once its model was initialised with `scaling`."""
    pairs = zip(stack.blocks, scaling.blocks, strict=True)
    blocks = [
        _apply_block(with_residuals(block, scaling.lam, scaling.beta), stds)
        for block, stds in pairs
        if block is not None
    ]
    return replace(stack, blocks=tuple(blocks))


def _only_stack(spec: Stack | ModelSpec) -> Stack:
    model = spec if isinstance(spec, ModelSpec) else ModelSpec("custom", {"decoder": spec})
    validate(model)
    if len(model.stacks) != 1:
        raise SpecError("stacks", f"give a model of one stack; this one has {len(model.stacks)}")
    return next(iter(model.stacks.values()))


def _deviations(block: Block) -> BlockScaling:
    attention, feed_forward = block.attention, block.feed_forward
    return BlockScaling(
        query=math.sqrt(attention.query.weight_var),
        key=math.sqrt(attention.key.weight_var),
        value=math.sqrt(attention.value.weight_var),
        output=math.sqrt(attention.output.weight_var),
        up=math.sqrt(feed_forward.up.weight_var),
        down=math.sqrt(feed_forward.down.weight_var),
        gate=None if feed_forward.gate is None else math.sqrt(feed_forward.gate.weight_var),
    )


def _apply_block(block: Block, stds: BlockScaling) -> Block:
    a, ff = block.attention, block.feed_forward
    attention = replace(
        a,
        query=with_var(a.query, stds.query**2),
        key=with_var(a.key, stds.key**2),
        value=with_var(a.value, stds.value**2),
        output=with_var(a.output, stds.output**2),
    )
    gate = None if ff.gate is None or stds.gate is None else with_var(ff.gate, stds.gate**2)
    up, down = with_var(ff.up, stds.up**2), with_var(ff.down, stds.down**2)
    return replace(
        block, attention=attention, feed_forward=replace(ff, up=up, down=down, gate=gate)
    )
