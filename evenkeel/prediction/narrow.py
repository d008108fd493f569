"""A config made narrower by a whole factor, to read from it what the wide model computes.

Width, heads and the feed-forward layer shrink alike; the width of a head stays, so that the scale
of the scores and the rotation do too. Sizes are scaled back afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from dslm.position_bias import with_heads
from evenkeel.prediction.block_kinds import BlockKinds, remove_unbuilt
from evenkeel.prediction.meta_model import build_on_meta
from evenkeel.prediction.model_settings import Settings, config_of, setting
from server.errors import StartError
from trainer_agent.description.read.parts import (
    Architecture,
    AttentionParts,
    BlockParts,
    CrossParts,
    ExpertParts,
    FeedForwardParts,
    LinearPart,
    StackParts,
)
from trainer_agent.description.read.position_bias import BiasPart
from trainer_agent.description.spec.moments import Weighed
from trainer_agent.model.blocks import columns

WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
WIDTHS_OF_FAMILIES: tuple[str, ...] = (
    "ffn_dim",
    "d_ff",
    "n_inner",
    "ffn_hidden_size",
    "num_kv_heads",
)
WIDTHS_OF_FAMILIES += ("word_embed_proj_dim", "hidden_size_per_layer_input")
WIDTHS_OF_FAMILIES += ("moe_intermediate_size", "shared_expert_intermediate_size")
WIDTHS_OF_FAMILIES += ("q_lora_rank", "kv_lora_rank")
# its outputs are a latent, which shrinks, and one head's rotated features, which do not
LATENT_AND_ROTATED = "kv_a_proj_with_mqa"
FACTORS = (64, 32, 16, 8, 4, 2)
NARROWEST = 256  # features: statistics of fewer are no guide to what a tensor is


@dataclass(frozen=True, slots=True)
class Narrowing:
    """A narrower model, and the factor by which the wide one is wider.

    Attributes:
        model: the narrower model, on the meta device.
        factor: ratio of the widths.
        ratios: by parameter of a block, the ratio of its sizes.
    """

    model: nn.Module
    factor: int
    ratios: Mapping[str, tuple[int, ...]]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of it."""
        return (
            f"blocks were read at 1/{self.factor} of their width; sizes and weight moments are "
            "those of the full width, biases by position but ALiBi's those of fewer heads",
        )

    def widened(self, layout: Architecture) -> Architecture:
        """Return the layout with the wide model's sizes."""
        return replace(layout, stacks=tuple(self._stack(stack) for stack in layout.stacks))

    def with_moments(
        self, layout: Architecture, weights: Weighed, moments: Mapping[str, tuple[float, float]]
    ) -> Weighed:
        """Return the weights of the wide layout, with the wide model's moments where known."""
        slices = weights.sums.slices
        rows = np.array(
            [
                (*moments[name], 1.0) if name in moments else row
                for (name, _, _), row in zip(slices, weights.sums.rows.tolist(), strict=True)
            ]
        ).reshape(-1, 3)
        biases = {
            part: part.observed
            for stack in layout.stacks
            for block in stack.parts
            if block is not None
            for part in (a.position_bias for a in block.attentions)
            if part is not None
        }
        return Weighed(layout, replace(weights.sums, rows=rows), biases)

    def _stack(self, stack: StackParts) -> StackParts:
        parts = tuple(None if block is None else self._block(block) for block in stack.parts)
        return replace(stack, parts=parts, d_model=stack.d_model * self.factor)

    def _block(self, block: BlockParts) -> BlockParts:
        cross = block.cross
        return replace(
            block,
            attention=self._attention(block.attention),
            feed_forward=self._feed_forward(block.feed_forward),
            cross=None if cross is None else self._cross(cross),
        )

    def _cross(self, cross: CrossParts) -> CrossParts:
        return replace(cross, attention=self._attention(cross.attention))

    def _attention(self, parts: AttentionParts) -> AttentionParts:
        query, key = self._linear(parts.query), self._linear(parts.key)
        n_heads = parts.n_heads * query.d_out // parts.query.d_out
        return replace(
            parts,
            query=query,
            key=key,
            value=self._linear(parts.value),
            output=self._linear(parts.output),
            n_heads=n_heads,
            n_kv_heads=parts.n_kv_heads * key.d_out // parts.key.d_out,
            position_bias=_bias(parts.position_bias, n_heads),
        )

    def _feed_forward(self, parts: FeedForwardParts) -> FeedForwardParts:
        return replace(
            parts,
            up=self._linear(parts.up),
            down=self._linear(parts.down),
            gate=None if parts.gate is None else self._linear(parts.gate),
            experts=None if parts.experts is None else self._experts(parts.experts),
        )

    def _experts(self, parts: ExpertParts) -> ExpertParts:
        shared, gate = parts.shared, parts.shared_gate
        return replace(
            parts,
            router=self._linear(parts.router),
            shared=None if shared is None else self._feed_forward(shared),
            shared_gate=None if gate is None else self._linear(gate),
        )

    def _linear(self, part: LinearPart) -> LinearPart:
        # `outputs` stays: it is the key that the narrow model's moments are found by
        ratios = self.ratios[part.weight][-2:]
        d_in, d_out = ratios if part.input_first else ratios[::-1]
        latent, beside = part.latent, part.beside
        if latent is not None:
            latent = replace(latent, down=self._linear(latent.down))
        wide = replace(part, d_in=part.d_in * d_in, d_out=part.d_out * d_out, latent=latent)
        if beside is None:
            return wide
        # Every head has them, though the matrix makes those of one.
        every = replace(self._linear(beside), d_out=beside.d_out * d_out)
        return replace(wide, beside=every)


def _bias(part: BiasPart | None, n_heads: int) -> BiasPart | None:
    """Return the bias of `n_heads` heads: ALiBi's own, else the narrow model's, repeated."""
    if part is None:
        return None
    observed = part.observed
    repeated = tuple(n * n_heads // sum(observed.heads) for n in observed.heads)
    wide = with_heads(observed, n_heads) or replace(observed, heads=repeated)
    return replace(part, observed=wide, table=None)


def narrowed(settings: Settings, model: nn.Module, kinds: Sequence[BlockKinds]) -> Narrowing | None:
    """Return the narrowest model of which `model` is a multiple, or None where there is none.

    Args:
        settings: the config of `model`.
        model: the wide model on the meta device, without the blocks that are not built.
        kinds: of each of its columns of blocks.
    """
    config = config_of(settings)
    widths = _widths(config)
    settings = _without_other_names(settings, config, widths)
    for factor in FACTORS:
        if any(value % factor for value in widths.values()):
            continue
        if (setting(config, "hidden_size") or 0) < NARROWEST * factor:
            continue
        sizes = {name: value // factor for name, value in widths.items()}
        narrow = _built(settings | sizes | _head_width(config), kinds)
        ratios = None if narrow is None else _ratios(model, narrow, factor)
        if narrow is not None and ratios is not None:
            return Narrowing(narrow, factor, ratios)
    return None


def _widths(config: Any) -> dict[str, int]:
    renamed = getattr(config, "attribute_map", {})
    widths = {}
    for name in (*WIDTHS, *WIDTHS_OF_FAMILIES):
        value = setting(config, name)
        if isinstance(value, int) and value > 0:
            widths[renamed.get(name, name)] = value
    return widths


def _without_other_names(
    settings: Settings, config: Any, widths: Mapping[str, int]
) -> dict[str, Any]:
    """Leave out second names of widths, which would win over a new value of the first.

    A config maps one name to another (`num_attention_heads` to `n_head`), or reads an older name
    and does not keep it (BLOOM's `n_embed`).
    """
    current, renamed = config.to_dict(), getattr(config, "attribute_map", {})
    return {
        name: value
        for name, value in settings.items()
        if renamed.get(name, name) == name or renamed[name] not in widths
        if name in current or value not in widths.values()
    }


def _head_width(config: Any) -> dict[str, int]:
    """Return the width of a head as a setting of its own, where the config has it."""
    width = setting(config, "head_dim")
    return {"head_dim": width} if isinstance(width, int) and "head_dim" in config.to_dict() else {}


def _built(settings: Settings, kinds: Sequence[BlockKinds]) -> nn.Module | None:
    try:
        model = build_on_meta(settings)
    except StartError:  # a size that must divide another no longer does
        return None
    for kind in kinds:
        remove_unbuilt(model, kind)
    return model


def _ratios(wide: nn.Module, narrow: nn.Module, factor: int) -> dict[str, tuple[int, ...]] | None:
    """Return how many times larger each parameter of the wide model's blocks is; None if uneven."""
    blocks = tuple(f"{path}." for column in columns(wide) for path in column.blocks)
    shapes = {name: tuple(p.shape) for name, p in narrow.named_parameters()}
    ratios = {}
    for name, parameter in wide.named_parameters():
        shape = shapes.get(name, ())
        if not name.startswith(blocks):
            continue
        if len(shape) != parameter.ndim:
            return None
        sides = tuple(zip(parameter.shape, shape, strict=True))
        even = all(a % b == 0 for a, b in sides)
        ratio = tuple(a // b if a % b == 0 else 1 for a, b in sides)
        # what belongs to one head keeps its width
        if not (even or LATENT_AND_ROTATED in name) or not {*ratio} <= {1, factor}:
            return None
        ratios[name] = ratio
    return ratios
