"""Where the parts of a model's blocks are: names of parameters and facts that do not change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from torch import Tensor

import dslm.spec as theory
from trainer_agent.description.read.position_bias import BiasPart
from trainer_agent.description.trace.graph import Run
from trainer_agent.model.plan import Edge, ends_of


@dataclass(frozen=True, slots=True)
class LinearPart:
    """One dense map inside the model, which may be a slice of a fused one.

    Attributes:
        weight: name of the parameter, as in ``model.named_parameters()``.
        bias: name of its bias, or None.
        d_in, d_out: sizes of the map (of the slice, where it is one).
        outputs: half-open runs of output features this map takes of the parameter.
        input_first: whether the parameter is stored (d_in, d_out), as `transformers`' Conv1D.
        stacked: whether it holds this map of every expert, (experts, d_out, d_in).
        others: weight and bias of the same map in other experts, where each has its own.
        gain: the vector that multiplies its outputs (LayerScale), or None.
        update: a map of low rank that is added to it, and by which factor (LoRA).
        latent: the map before it, of lower rank; `d_in` is then that map's.
        beside: the map of each head's other features, `d_out` being all of them (DeepSeek's keys,
            whose rotated features all heads share).
    """

    weight: str
    bias: str | None
    d_in: int
    d_out: int
    outputs: tuple[Run, ...]
    input_first: bool = False
    stacked: bool = False
    others: tuple[tuple[str, str | None], ...] = ()
    gain: str | None = None
    update: tuple[LinearPart, float] | None = None
    latent: Latent | None = None
    beside: LinearPart | None = None

    @property
    def module(self) -> str:
        """Path of the module that holds the weight."""
        return self.weight.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Latent:
    """The first of two maps that stand for one: to few features, with a norm on these or none."""

    down: LinearPart
    norm: NormPart | None = None


@dataclass(frozen=True, slots=True)
class NormPart:
    """A norm; `gain_offset` is 1 where the module multiplies by 1 + weight.

    `factor` is a number that its output is multiplied by. Where each head has a norm of its own,
    `weight` is that of the first and `weights_of_heads` are those of the others.
    """

    kind: Literal["layernorm", "rmsnorm"]
    weight: str | None
    bias: str | None
    eps: float
    gain_offset: float = 0.0
    factor: float = 1.0
    weights_of_heads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Added:
    """What a branch adds to the stream, but for dropout: `factor` times a module's output.

    `module` is the path of a module inside the block, None where none puts it out.
    """

    module: str | None
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class AttentionParts:
    """Multi-head self-attention; fields as in `dslm.spec.Attention`.

    `token_axis` is the axis of the stream that it attends along, 1 of (batch, seq, d_model); None
    where batches as long as their sequences do not tell.
    """

    query: LinearPart
    key: LinearPart
    value: LinearPart
    output: LinearPart
    n_heads: int
    n_kv_heads: int
    d_head: int
    causal: bool
    score_scale: float
    rotary: theory.Rotary | None
    p_drop: float
    query_norm: NormPart | None = None
    key_norm: NormPart | None = None
    soft_cap: float | None = None
    window: int | None = None
    prefix: int = 0
    position_bias: BiasPart | None = None
    sink: str | None = None
    token_axis: int | None = None


@dataclass(frozen=True, slots=True)
class FeedForwardParts:
    """The feed-forward layer; fields as in `dslm.spec.FeedForward`."""

    up: LinearPart
    down: LinearPart
    gate: LinearPart | None
    activation: theory.Activation
    p_drop: float
    up_offset: float = 0.0
    experts: ExpertParts | None = None


@dataclass(frozen=True, slots=True)
class ExpertParts:
    """A router of experts; fields as in `dslm.spec.Experts`."""

    router: LinearPart
    top_k: int
    gate: theory.Gate
    normalised: bool
    scale: float
    groups: int = 1
    top_groups: int = 1
    shared: FeedForwardParts | None = None
    shared_gate: LinearPart | None = None


@dataclass(frozen=True, slots=True)
class CrossParts:
    """Attention to another stack's output; fields as in `dslm.spec.CrossAttention`."""

    attention: AttentionParts
    norm: NormPart
    residual: theory.Residual
    out_norm: NormPart | None = None


@dataclass(frozen=True, slots=True)
class BlockParts:
    """One block: attention and feed-forward on the residual stream; as `dslm.spec.Block`.

    `said` are fields of it, by dotted name, that the user gave values for.
    """

    placement: theory.Placement
    attention: AttentionParts
    attention_norm: NormPart | None
    attention_residual: theory.Residual
    feed_forward: FeedForwardParts
    feed_forward_norm: NormPart
    feed_forward_residual: theory.Residual
    attention_out_norm: NormPart | None = None
    feed_forward_out_norm: NormPart | None = None
    cross: CrossParts | None = None
    said: tuple[tuple[str, Any], ...] = ()

    @property
    def norms(self) -> tuple[NormPart, ...]:
        """Its norms, each once."""
        norms = [self.attention_norm, self.attention_out_norm]
        norms += [self.feed_forward_norm, self.feed_forward_out_norm]
        norms += [self.cross.norm, self.cross.out_norm] if self.cross else []
        for attention in self.attentions:
            norms += [attention.query_norm, attention.key_norm]
        return tuple(dict.fromkeys(norm for norm in norms if norm is not None))

    @property
    def attentions(self) -> tuple[AttentionParts, ...]:
        """Its attention layers: the one to itself, then the one to another stack."""
        return (self.attention, self.cross.attention) if self.cross else (self.attention,)

    @property
    def causal(self) -> bool:
        """Whether token i sees only tokens up to i."""
        return bool(dict(self.said).get("attention.causal", self.attention.causal))


@dataclass(frozen=True, slots=True)
class HeadLayerPart:
    """A layer between the last block and the logits; fields as in `dslm.spec.HeadLayer`."""

    linear: LinearPart | None = None
    activation: theory.Activation = "identity"
    norm: NormPart | None = None
    p_drop: float = 0.0


@dataclass(frozen=True, slots=True)
class HeadPart:
    """From the last block's output to the loss; fields as in `dslm.spec.Head`."""

    layers: tuple[HeadLayerPart, ...]
    output: LinearPart
    labels: LabelsPart = field(compare=False)  # of a batch, not of the architecture
    scale: float = 1.0
    soft_cap: float | None = None
    tied: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class LabelsPart:
    """A batch's labels, on the host.

    Attributes:
        weight: dLoss/d(one token's cross-entropy).
        labels: (batch, seq) class of each token, -1 where the loss ignores it.
        ids: (batch, seq) input ids whose rows are the head's weights, or None.
        mask: (batch, seq), 1 at real tokens, or None.
    """

    weight: float
    labels: Tensor
    ids: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class StackParts:
    """One column of blocks.

    Attributes:
        name: ``"encoder"`` or ``"decoder"``.
        blocks: module paths in the order the model calls them. A block's stream is its first
            (batch, seq, d_model) argument, or (seq, batch, d_model); its output, or the first
            tensor of it, is the next.
        parts: what was understood of each; None where `Architecture.missing` says why.
        d_model: width of the stream.
        added: by block, what each site ("attention", "feed_forward") adds, where it can be told.
        reads: name of the stack whose output its cross-attention sees, or None.
        final_norm, final_p_drop: between this stack's last block and one that reads it.
        head: from its last block to the loss; None where the forward pass computes no loss.
        skipped: the blocks that the pass did not call (LayerDrop, early exits), which others may.
        first_calls: by block, what the first of its several calls shows; None where it has one.
        edges: as in `trainer_agent.model.plan.StackPlan`.
    """

    name: str
    blocks: tuple[str, ...]
    parts: tuple[BlockParts | None, ...]
    d_model: int
    added: tuple[Mapping[str, Added], ...] = ()
    reads: str | None = None
    final_norm: NormPart | None = None
    final_p_drop: float = 0.0
    head: HeadPart | None = None
    skipped: tuple[str, ...] = ()
    first_calls: tuple[BlockParts | None, ...] = ()
    edges: tuple[Edge, ...] = ()

    def ends(self, index: int) -> tuple[Edge, Edge]:
        """Where the stream enters a block, and where it leaves it."""
        return ends_of(self.blocks, self.edges, index % len(self.blocks))

    @property
    def watched(self) -> tuple[BlockParts | None, ...]:
        """By block, what says where to look: of shared blocks, too, which are not predicted."""
        pairs = zip_longest(self.parts, self.first_calls)
        return tuple(parts or first_call for parts, first_call in pairs)

    @property
    def token_axis(self) -> int | None:
        """The axis of the stream that counts a sequence's tokens, where a block tells."""
        axes = (parts.attention.token_axis for parts in self.watched if parts is not None)
        return next((axis for axis in axes if axis is not None), None)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What stays the same of a model while it trains.

    Attributes:
        family: ``"gpt2"``, ``"bert"``, ``"llama"`` or ``"custom"``.
        stacks: the columns of blocks, encoder before decoder.
        missing: what was not understood, and why.
        n_params: trainable parameters.
        notes: what makes a prediction doubtful though nothing is missing.
    """

    family: str
    stacks: tuple[StackParts, ...]
    missing: tuple[theory.Missing, ...]
    n_params: int
    notes: tuple[str, ...] = ()

    def stack(self, name: str) -> StackParts:
        """The stack of that name; KeyError where the model has none."""
        for stack in self.stacks:
            if stack.name == name:
                return stack
        raise KeyError(name)
