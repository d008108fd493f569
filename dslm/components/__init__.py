"""Each component's scalar moments, forward and backward, as in DSLM's Table 1."""

from __future__ import annotations

from dslm.components.activations import (
    activation,
    activation_backward,
    gated,
    gated_backward,
    gelu,
    gelu_backward,
    relu,
    relu_backward,
)
from dslm.components.attention import (
    AttentionHead,
    attention,
    attention_backward,
    softmax,
    softmax_backward,
)
from dslm.components.elementary import (
    dropout,
    dropout_backward,
    linear,
    linear_backward,
    residual,
    residual_backward,
)
from dslm.components.embeddings import embedding, patch_embedding
from dslm.components.loss import cross_entropy, cross_entropy_backward
from dslm.components.moments import GradMoments, Moments
from dslm.components.multi_head import multi_head, multi_head_backward
from dslm.components.norms import (
    gain,
    gain_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)

__all__ = [
    "AttentionHead",
    "GradMoments",
    "Moments",
    "activation",
    "activation_backward",
    "attention",
    "attention_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "dropout_backward",
    "embedding",
    "gain",
    "gain_backward",
    "gated",
    "gated_backward",
    "gelu",
    "gelu_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "multi_head",
    "multi_head_backward",
    "patch_embedding",
    "relu",
    "relu_backward",
    "residual",
    "residual_backward",
    "rms_norm",
    "rms_norm_backward",
    "softmax",
    "softmax_backward",
]
