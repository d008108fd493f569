"""What the theory needs to know of a model: its architecture, weight moments and input kernel.

Second moments are per entry or per feature, so they do not grow with a width. Stacks count blocks
from 0. A field with a default may be absent in JSON (`dslm.spec_from_json`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dslm.flows import BlockFlow

Floats = NDArray[np.float64]
Activation = Literal[
    "relu", "gelu", "gelu_tanh", "silu", "tanh", "identity", "quick_gelu", "relu_squared"
]
NormKind = Literal["layernorm", "rmsnorm"]
Gate = Literal["softmax", "sigmoid"]
Placement = Literal["pre", "post", "sandwich", "branch", "parallel"]


@dataclass(frozen=True, slots=True)
class Kernel:
    r"""Second moments between token positions, on a grid of cells.

    A cell is a run of neighbouring positions; with cells of one token this is the plain L×L
    kernel. Values are per feature: :math:`E[x_i \cdot x_j]/d`, mean included.

    Attributes:
        diagonal: (cells,) mean of K_ii over the cell's tokens.
        off_diagonal: (cells, cells) mean of K_ij over i in one cell, j in the other, i≠j.
            Where a cell holds one token its own entry is never read.
        cell_sizes: (cells,) tokens per cell; they add up to L.
        mean: mean of x over tokens and features, so that variance = second moment - mean².
    """

    diagonal: Floats
    off_diagonal: Floats
    cell_sizes: NDArray[np.int64]
    mean: float = 0.0


@dataclass(frozen=True, slots=True)
class Linear:
    """A dense layer's sizes and the second moments of its entries.

    Attributes:
        d_in, d_out: features in and out.
        weight_var: E[w²] over the entries of the (d_out, d_in) weight, whose mean counts as 0.
        bias_var: E[b²] over the (d_out,) bias; 0 without one.
    """

    d_in: int
    d_out: int
    weight_var: float
    bias_var: float = 0.0


@dataclass(frozen=True, slots=True)
class Norm:
    """LayerNorm or RMSNorm with the moments of its gain and bias.

    Attributes:
        kind: ``"layernorm"``, which removes the mean over features, or ``"rmsnorm"``.
        gain_mean, gain_var: mean and variance of the (d_model,) gain.
        bias_var: E[b²] of the (d_model,) bias; 0 without one.
        eps: what is added to the variance before its root is taken.
    """

    kind: NormKind
    gain_mean: float = 1.0
    gain_var: float = 0.0
    bias_var: float = 0.0
    eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding on the first `fraction` of each head's features.

    Attributes:
        theta: base; pair k of n turns by theta^(-k/n) radians a token.
        fraction: share of a head's features that turn.
        frequencies: the pairs' radians a token instead, where they are scaled (linear, dynamic,
            YaRN, Llama 3); `theta` is then not read.
        scale: factor on cosine and sine, so on the features that turn (YaRN's attention factor).
    """

    theta: float = 10_000.0
    fraction: float = 1.0
    frequencies: tuple[float, ...] | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class PositionBias:
    """A number added to the scores by distance, head by head: ALiBi, T5's relative bias.

    Only differences over the keys that a query sees matter.

    Attributes:
        distances: (points,) the query's position less the key's, in tokens, increasing.
        values: (groups, points) the bias there, for each group of heads with the same bias;
            linear between the points, and continued beyond the first and the last.
        heads: (groups,) number of heads in each group.
    """

    distances: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    heads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head attention: of a stream to itself, or to another stack's output.

    Attributes:
        query, key, value, output: the projections; key and value may be narrower (GQA). A head's
            values may have another width than its queries and keys (latent attention).
        n_heads, n_kv_heads, d_head: head counts and width.
        causal: whether token i sees only tokens up to i.
        score_scale: factor on q·k, usually 1/sqrt(d_head).
        rotary: rotary embedding of q and k, or None.
        p_drop: dropout on the attention weights.
        query_norm, key_norm: norms of each head's queries and keys before the rotation (QK-norm).
            One over all heads' features at once (OLMo 2) is given the same.
        soft_cap: c where scores become c·tanh(score/c) (Gemma 2), or None.
        window: tokens seen at most: itself and those before it (causal), or this many to either
            side of itself; None for all.
        prefix: first tokens of a causal sequence that every token sees (prefix-LM); 0 for none.
        position_bias: what is added to the scores by distance, after a soft cap; or None.
        sink: mean over heads of e^b, b a logit that every softmax counts beside its keys' and that
            has no value (GPT-OSS); 0 for none.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    n_heads: int
    n_kv_heads: int
    d_head: int
    causal: bool
    score_scale: float
    rotary: Rotary | None = None
    p_drop: float = 0.0
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    soft_cap: float | None = None
    window: int | None = None
    prefix: int = 0
    position_bias: PositionBias | None = None
    sink: float = 0.0


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) when `gate` is given.

    Attributes:
        up, down, gate: the projections; `gate` is None in a branch without one.
        activation: the nonlinearity; ``"gelu"`` is exact, ``"gelu_tanh"`` its tanh form and
            ``"quick_gelu"`` its logistic form, u·sigmoid(1.702 u).
        p_drop: dropout on the hidden activation, before `down`.
        up_offset: c where the gated form is down(activation(gate(x)) * (up(x) + c)) (GPT-OSS).
        experts: where a router sends each token to some of many such layers; the maps are then
            one expert's, with the moments of all experts. None for a single layer.
    """

    up: Linear
    down: Linear
    activation: Activation
    gate: Linear | None = None
    p_drop: float = 0.0
    up_offset: float = 0.0
    experts: Experts | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    r"""A router of experts: :math:`y = \sum_{e \in top\,k} w_e(x) f_e(x)`, and a shared layer.

    Attributes:
        router: the map to the experts' scores; d_out is their number.
        top_k: experts that each token is sent to.
        gate: ``"softmax"`` over the scores, or the ``"sigmoid"`` of each.
        normalised: whether the gates of the chosen experts are divided by their sum. A softmax over
            the chosen experts alone is the same.
        scale: factor on the gates.
        groups, top_groups: where only experts of the best groups can be chosen (DeepSeek), how
            many groups there are, and how many count.
        shared: a layer that every token goes through besides, or None.
        shared_gate: the map (d_model, 1) whose sigmoid multiplies that layer's output, or None.
    """

    router: Linear
    top_k: int
    gate: Gate = "softmax"
    normalised: bool = True
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    shared: FeedForward | None = None
    shared_gate: Linear | None = None


@dataclass(frozen=True, slots=True)
class Residual:
    """One residual step, x ← lam·x + beta·dropout(f(x)).

    Attributes:
        lam, beta: amplitudes of the skip and of the branch (the paper's lambda, beta).
        p_drop: dropout probability on the branch's output.
    """

    lam: float = 1.0
    beta: float = 1.0
    p_drop: float = 0.0


@dataclass(frozen=True, slots=True)
class Block:
    """Attention, then feed-forward, each on the residual stream.

    `placement` says where the norms stand. With n a branch's norm and m its `_out_norm`:

    - ``"pre"``: x + f(n(x)).
    - ``"post"``: n(x + f(x)).
    - ``"sandwich"``: x + m(f(n(x))) (Gemma 2, Peri-LN).
    - ``"branch"``: x + n(f(x)) (OLMo 2).
    - ``"parallel"``: x + attention(n_a(x)) + feed_forward(n_f(x)) (GPT-NeoX, Phi). The stream's
      factor is the attention residual's `lam`. A norm that both share is given twice.

    Attributes:
        attention_norm: None where attention reads the stream as it is (ModernBERT's first block),
            which a ``"pre"`` block may.
        attention_out_norm, feed_forward_out_norm: given for ``"sandwich"`` and only there.
        cross: attention to another stack's output, after the self-attention, or None.
    """

    placement: Placement
    attention: Attention
    attention_norm: Norm | None
    attention_residual: Residual
    feed_forward: FeedForward
    feed_forward_norm: Norm
    feed_forward_residual: Residual
    attention_out_norm: Norm | None = None
    feed_forward_out_norm: Norm | None = None
    cross: CrossAttention | None = None


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Attention to another stack's output, between a decoder block's two other branches.

    Its norm stands as the block's `placement` says; keys and values come from the stack that
    `Stack.reads` names, after that stack's `final_norm`.
    """

    attention: Attention
    norm: Norm
    residual: Residual
    out_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """A part of the model that the theory does not cover: never guessed, always named.

    Attributes:
        where: its place, such as ``"decoder.blocks[3].attention"`` or a module path.
        what: what stands there.
        why: why no prediction is made.
    """

    where: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """One layer between a stack and the logits: dropout(norm(activation(linear(x)))).

    `linear` and `norm` are None where the layer has none.
    """

    linear: Linear | None = None
    activation: Activation = "identity"
    norm: Norm | None = None
    p_drop: float = 0.0


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels that a loss counts in a batch, on the stack's input cells.

    Every entry of these kernels is a share of the batch's sequences, from 0 to 1. Ignored labels
    (-100) are not counted.

    Attributes:
        weight: dLoss/d(one token's cross-entropy): 1 / labels counted, for a mean over them.
        counted: on the diagonal: position i has a label; off it: i and j both have one.
        same: both have a label, and the two are equal.
        same_id: both have a label, and their input ids are equal; None where embedding and
            logits share no weights.
        label_is_id: both have a label, and that of i is the input id of j; off the diagonal the
            mean of (i, j) and (j, i). None where embedding and logits share no weights.
    """

    weight: float
    counted: Kernel
    same: Kernel
    same_id: Kernel | None = None
    label_is_id: Kernel | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """From the last block's output to a cross-entropy.

    The logits are c·tanh(scale·(W h + b)/c), h being the output after `layers`.

    Attributes:
        layers: what stands before the logits, the final norm among it.
        output: to the logits; d_out is the vocabulary or the number of classes.
        labels: what the loss counts.
        scale: factor on the logits.
        soft_cap: c where logits are capped (Gemma 2), or None.
        tied: amplitude in block 0's input of the row w of `output` that belongs to the token's
            id: mean of x·w/(w·w). 0 where embedding and logits share no weights.
    """

    layers: tuple[HeadLayer, ...]
    output: Linear
    labels: Labels
    scale: float = 1.0
    soft_cap: float | None = None
    tied: float = 0.0


@dataclass(frozen=True, slots=True)
class Carried:
    """What was measured on the two sides of a block that is not understood.

    Attributes:
        mean_square: E[x²] of the stream behind it.
        common_before, common_behind: shares of the stream's energy, 0 to 1, that all tokens of the
            batch have in common, on either side.
        gradient_gain: E[g²] before it over that behind it; NaN where no gradient was measured.
    """

    mean_square: float
    common_before: float
    common_behind: float
    gradient_gain: float = math.nan


@dataclass(frozen=True, slots=True)
class Stack:
    """One column of blocks.

    Attributes:
        d_model: width of the residual stream.
        blocks: the blocks in order; None where a block is not understood (then `missing` of
            the spec says why, and predictions past it are NaN).
        input_kernel: kernel of block 0's input for the batch described.
        top_gradient_kernel: kernel of dLoss/d(output of the last block), up to a factor. None
            when no backward pass was measured: it is then predicted from `head`; in a stack that
            another one reads, it is what comes back from that one; with neither, the gradients
            of different tokens are taken as independent.
        reads: name of the stack whose output the cross-attention sees, or None.
        final_norm, final_p_drop: the norm on the last block's output and the dropout after it,
            which a stack that reads this one sees.
        head: from the last block's output to the logits and the loss. None: the gradient is
            then predicted relative to the top alone.
        carried: by block, what was measured around one that is None, which curves then go on
            from; None for the others. Empty where no block is carried.
    """

    d_model: int
    blocks: tuple[Block | None, ...]
    input_kernel: Kernel
    top_gradient_kernel: Kernel | None = None
    reads: str | None = None
    final_norm: Norm | None = None
    final_p_drop: float = 0.0
    head: Head | None = None
    carried: tuple[Carried | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as the theory sees it.

    Attributes:
        family: ``"gpt2"``, ``"bert"``, ``"llama"``, or ``"custom"`` for a home-made model.
        stacks: by name, ``"encoder"`` and ``"decoder"``.
        missing: what could not be described.
        batch_size: sequences in the batch described.
        n_params: number of trainable parameters.
        notes: what makes a prediction doubtful though nothing is missing.
        flows: by stack, what was measured inside each block (None where nothing was).
    """

    family: str
    stacks: Mapping[str, Stack]
    missing: tuple[Missing, ...] = ()
    batch_size: int = 1
    n_params: int = 0
    notes: tuple[str, ...] = field(default=())
    flows: Mapping[str, tuple[BlockFlow | None, ...]] = field(default_factory=dict)
