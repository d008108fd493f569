r"""Other people's initialisations for deep stacks, each as its source gives it.

N counts blocks, L residual steps (two a block, three with cross-attention).

- ``"deepnorm"``: :math:`x \leftarrow n(\alpha x + f(x))`; Xavier's deviations, times
  :math:`\beta` for values, outputs and the feed-forward maps. Alone
  :math:`\alpha = (2N)^{1/4}, \beta = (8N)^{-1/4}`; of an encoder of N and a decoder of M blocks
  :math:`0.81 (N^4 M)^{1/16}, 0.87 (N^4 M)^{-1/16}` and :math:`(3M)^{1/4}, (12M)^{-1/4}`. For
  Post-LN. Source: Wang et al. 2022, arXiv 2203.00555.
- ``"gpt2"``: all weights 0.02, those that write to the stream :math:`0.02/\sqrt L`. For Pre-LN.
  Source: Radford et al. 2019, and the widths of its code.
- ``"depth_mup"``: :math:`x \leftarrow x + f(x)/\sqrt L`, weights as they are. For Pre-LN and
  parallel branches. Source: Yang et al. 2023, arXiv 2310.02244, with a = 1.
- ``"layernorm_scaling"``: the norms before the branches of block l, counted from 1, times
  :math:`1/\sqrt l`, weights as they are. Here the factor is the gain's value at initialisation, so
  that it trains. For Pre-LN. Source: Sun et al. 2025, arXiv 2502.05795.
- ``"admin"``: :math:`x \leftarrow n(\omega_i x + f_i(x))` with :math:`\omega_1 = 1`,
  :math:`\omega_{i+1}^2 = \omega_i^2 \mathrm{Var}\, x_i + \mathrm{Var} f_i`, weights as they are.
  The variances are those that `dslm.predict` gives for :math:`\omega = 1`, where the source
  profiles a batch. For Post-LN without cross-attention. Source: Liu et al. 2020, arXiv
  2004.08249, and its code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from dslm.errors import SpecError
from dslm.model import predict
from dslm.spec import Attention, Block, FeedForward, Linear, ModelSpec, Norm, Stack
from dslm.unit_branches import Amplitudes, attentions, residuals, with_attentions

SchemeName = Literal["deepnorm", "gpt2", "depth_mup", "layernorm_scaling", "admin"]
PLACEMENTS: Mapping[str, tuple[str, ...]] = {
    "deepnorm": ("post",),
    "gpt2": ("pre",),
    "depth_mup": ("pre", "parallel"),
    "layernorm_scaling": ("pre",),
    "admin": ("post",),
}
GPT2_STD = 0.02
WRITERS = frozenset({"output", "down"})  # the maps that write to the stream
SMALL = frozenset({"value", "output", "up", "down", "gate"})  # DeepNorm's beta is on these


@dataclass(frozen=True, slots=True)
class BlockScheme:
    """What a scheme sets in one block.

    Attributes:
        residuals: its residual steps, first to last.
        stds: standard deviation of each map by its role, those of cross-attention as
            ``"cross query"``; empty where weights stay as they are.
        norm_gain: of the norms before its branches, or None where they stay as they are.
    """

    residuals: tuple[Amplitudes, ...]
    stds: Mapping[str, float] = field(default_factory=dict)
    norm_gain: float | None = None


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a scheme sets in one stack.

    Attributes:
        blocks: block by block.
        tables: standard deviation of embeddings and head, or None where they stay as they are.
    """

    blocks: tuple[BlockScheme, ...]
    tables: float | None = None


def scheme(spec: ModelSpec, name: SchemeName) -> dict[str, Scheme]:
    """Return what the scheme of this name sets in every stack of a model.

    Raises:
        SpecError: naming the stack that the scheme is not for, or the scheme where there is none.
    """
    if name not in get_args(SchemeName):
        raise SpecError("form", f"use one of {', '.join(get_args(SchemeName))}")
    for stack_name, stack in spec.stacks.items():
        _check(stack, f"stacks.{stack_name}.blocks", name)
    if name == "deepnorm":
        return _deepnorm(spec)
    if name == "admin":
        return _admin(spec)
    return {key: _of_stack(stack, name) for key, stack in spec.stacks.items()}


def apply_scheme(spec: ModelSpec, schemes: Mapping[str, Scheme]) -> ModelSpec:
    """Return `spec` with the residual steps, weights and gains of these schemes."""
    stacks = {}
    for name, stack in spec.stacks.items():
        pairs = zip(_blocks(stack), schemes[name].blocks, strict=True)
        stacks[name] = replace(stack, blocks=tuple(_applied(*pair) for pair in pairs))
    return replace(spec, stacks=stacks)


def _check(stack: Stack, path: str, name: str) -> None:
    if not stack.blocks:
        raise SpecError(path, "give at least one block")
    for index, block in enumerate(stack.blocks):
        if block is None:
            raise SpecError(f"{path}[{index}]", "it is not understood; only whole stacks scale")
        if block.placement not in PLACEMENTS[name]:
            places = " and ".join(PLACEMENTS[name])
            raise SpecError(
                f"{path}[{index}].placement", f"{name} is for {places}, not {block.placement}"
            )


def _blocks(stack: Stack) -> list[Block]:
    return [block for block in stack.blocks if block is not None]


def _of_stack(stack: Stack, name: str) -> Scheme:
    blocks = _blocks(stack)
    steps = sum(len(residuals(block)) for block in blocks)
    if name == "gpt2":
        small = GPT2_STD / math.sqrt(steps)
        drawn = tuple(
            BlockScheme(
                _plain_steps(block),
                {role: small if _of(role) in WRITERS else GPT2_STD for role in maps_of(block)},
                norm_gain=1.0,
            )
            for block in blocks
        )
        return Scheme(drawn, GPT2_STD)
    if name == "depth_mup":
        step = Amplitudes(1.0, 1 / math.sqrt(steps))
        return Scheme(tuple(BlockScheme((step,) * len(residuals(block))) for block in blocks))
    return Scheme(
        tuple(
            BlockScheme(_plain_steps(block), norm_gain=1 / math.sqrt(number))
            for number, block in enumerate(blocks, start=1)
        )
    )


def _plain_steps(block: Block) -> tuple[Amplitudes, ...]:
    return (Amplitudes(1.0, 1.0),) * len(residuals(block))


def deepnorm_factors(n_blocks: int, n_decoder: int | None = None) -> tuple[float, float]:
    r"""Return :math:`(\alpha, \beta)` of a stack alone, or of an encoder under a decoder.

    A decoder that reads an encoder has :math:`((3M)^{1/4}, (12M)^{-1/4})`, whatever is below it.
    """
    if n_decoder is None:
        return (2 * n_blocks) ** 0.25, (8 * n_blocks) ** -0.25
    both = (n_blocks**4 * n_decoder) ** (1 / 16)
    return 0.81 * both, 0.87 / both


def _deepnorm(spec: ModelSpec) -> dict[str, Scheme]:
    readers = {s.reads: len(s.blocks) for s in spec.stacks.values() if s.reads is not None}
    schemes = {}
    for name, stack in spec.stacks.items():
        n = len(stack.blocks)
        alpha, beta = deepnorm_factors(n, readers.get(name))
        if stack.reads is not None:
            alpha, beta = (3 * n) ** 0.25, (12 * n) ** -0.25
        schemes[name] = Scheme(
            tuple(
                BlockScheme(
                    (Amplitudes(alpha, 1.0),) * len(residuals(block)),
                    {
                        role: _xavier(linear) * (beta if _of(role) in SMALL else 1.0)
                        for role, linear in maps_of(block).items()
                    },
                )
                for block in _blocks(stack)
            )
        )
    return schemes


def _xavier(linear: Linear) -> float:
    return math.sqrt(2 / (linear.d_in + linear.d_out))


def _admin(spec: ModelSpec) -> dict[str, Scheme]:
    profiled = {
        name: Scheme(tuple(BlockScheme(_plain_steps(block)) for block in _blocks(stack)))
        for name, stack in spec.stacks.items()
    }
    prediction = predict(apply_scheme(spec, profiled))
    schemes = {}
    for name, stack in spec.stacks.items():
        if stack.reads is not None:
            raise SpecError(f"stacks.{name}", "admin is for stacks without cross-attention here")
        predicted = prediction.stacks[name]
        stream, squared, blocks = float(predicted.forward.variance[0]), 1.0, []
        branches = zip(predicted.attention_variance, predicted.feed_forward_variance, strict=True)
        for pair in branches:
            steps = []
            for variance in map(float, pair):
                steps.append(Amplitudes(math.sqrt(squared), 1.0))
                squared = squared * stream + variance
                stream = 1.0  # the norm's
            blocks.append(BlockScheme(tuple(steps)))
        if not math.isfinite(squared):
            raise SpecError(f"stacks.{name}", "its branches' variances are not predicted")
        schemes[name] = Scheme(tuple(blocks))
    return schemes


def maps_of(block: Block) -> dict[str, Linear]:
    """Return the block's dense maps by role; those of cross-attention begin with "cross"."""
    layers = attentions(block)
    maps = _attention_maps(layers[0], "")
    if len(layers) > 1:
        maps |= _attention_maps(layers[1], "cross ")
    layer = block.feed_forward
    maps |= {"up": layer.up, "down": layer.down}
    return maps | ({"gate": layer.gate} if layer.gate is not None else {})


def _attention_maps(layer: Attention, prefix: str) -> dict[str, Linear]:
    return {
        f"{prefix}query": layer.query,
        f"{prefix}key": layer.key,
        f"{prefix}value": layer.value,
        f"{prefix}output": layer.output,
    }


def _of(role: str) -> str:
    return role.rpartition(" ")[2]


def _applied(block: Block, wanted: BlockScheme) -> Block:
    block = _with_steps(block, wanted.residuals)
    if wanted.stds:
        drawn = {
            role: replace(linear, weight_var=wanted.stds[role] ** 2, bias_var=0.0)
            for role, linear in maps_of(block).items()
        }
        layers = [
            _with_maps(layer, drawn, prefix)
            for layer, prefix in zip(attentions(block), ("", "cross "), strict=False)
        ]
        block = replace(
            with_attentions(block, layers),
            feed_forward=_with_feed_forward(block.feed_forward, drawn),
        )
    return block if wanted.norm_gain is None else _with_gain(block, wanted.norm_gain)


def _with_steps(block: Block, steps: tuple[Amplitudes, ...]) -> Block:
    new = [
        replace(old, lam=step.lam, beta=step.beta)
        for old, step in zip(residuals(block), steps, strict=True)
    ]
    cross = block.cross and replace(block.cross, residual=new[1])
    return replace(block, attention_residual=new[0], feed_forward_residual=new[-1], cross=cross)


def _with_maps(layer: Attention, drawn: Mapping[str, Linear], prefix: str) -> Attention:
    return replace(
        layer,
        query=drawn[f"{prefix}query"],
        key=drawn[f"{prefix}key"],
        value=drawn[f"{prefix}value"],
        output=drawn[f"{prefix}output"],
    )


def _with_feed_forward(layer: FeedForward, drawn: Mapping[str, Linear]) -> FeedForward:
    return replace(layer, up=drawn["up"], down=drawn["down"], gate=drawn.get("gate"))


def _with_gain(block: Block, gain: float) -> Block:
    def scaled(norm: Norm) -> Norm:
        return replace(norm, gain_mean=gain, gain_var=0.0)

    cross = block.cross and replace(block.cross, norm=scaled(block.cross.norm))
    return replace(
        block,
        attention_norm=block.attention_norm and scaled(block.attention_norm),
        feed_forward_norm=scaled(block.feed_forward_norm),
        cross=cross,
    )


NEAR = 0.02  # relative: residual scales are exact, deviations of drawn weights scatter


def name_of_scheme(stack: Stack) -> str:
    """Return the known scheme that a stack stands in already, in words; "" where none is.

    Told by its residual steps, the size of the maps that write to the stream, and the norms' gains.
    """
    blocks = _blocks(stack)
    if len(blocks) < len(stack.blocks) or not blocks:
        return ""
    return next((name for name, stands in _known(stack, blocks) if stands), "")


def _known(stack: Stack, blocks: list[Block]) -> Iterator[tuple[str, bool]]:
    steps = [step for block in blocks for step in residuals(block)]
    ratios = [step.lam / step.beta if step.beta else math.inf for step in steps]
    betas, plain = [step.beta for step in steps], all(step.lam == 1.0 for step in steps)
    alpha = (3 * len(blocks)) ** 0.25 if stack.reads else (2 * len(blocks)) ** 0.25
    is_post = all(block.placement == "post" for block in blocks)
    yield "DeepNorm", is_post and _are(ratios, alpha) and not _are(ratios, 1.0)
    parallel = any(block.placement == "parallel" for block in blocks)
    yield "ReZero or SkipInit", plain and all(beta == 0.0 for beta in betas)
    squares = [step.lam**2 + step.beta**2 for step in steps]
    yield "DeepScaleLM", not parallel and _are(squares, 1.0)
    one = betas[0]
    is_scaled = plain and _are(betas, one) and not math.isclose(one, 1.0, rel_tol=NEAR)
    is_depth = any(_are(betas, n**-0.5) for n in (len(steps), len(blocks)))
    yield "depth-µP, one over the root of the depth", is_scaled and is_depth
    yield f"a residual multiplier of {one:.3g}", is_scaled
    yield "LayerNorm scaling", len(blocks) > 1 and _gains_fall(blocks)
    small = [_written(block) for block in blocks]
    yield (
        "GPT-2's 1/√(2N)",
        len(blocks) > 1 and all(math.isclose(each, 1 / len(steps), rel_tol=0.2) for each in small),
    )


def _are(values: list[float], value: float) -> bool:
    return all(math.isclose(each, value, rel_tol=NEAR) for each in values)


def _gains_fall(blocks: list[Block]) -> bool:
    return all(
        math.isclose(block.feed_forward_norm.gain_mean, number**-0.5, rel_tol=NEAR)
        for number, block in enumerate(blocks, start=1)
    )


def _written(block: Block) -> float:
    """Return how much smaller the map that writes is than the one before it, as variances."""
    layer = block.attention
    return layer.output.weight_var / layer.value.weight_var if layer.value.weight_var else math.nan
