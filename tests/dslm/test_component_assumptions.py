"""Scalar formulas refuse what their derivations exclude."""

from __future__ import annotations

from typing import Any

import pytest

import dslm.components as theory
from dslm import AssumptionError
from dslm.components import AttentionHead, GradMoments, Moments
from tests.dslm.signals import (
    G,
    X,
)

HEAD = AttentionHead(8, 8, 8, 8, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "broken",
    [
        lambda: theory.relu(Moments(1.0, 1.0, 0.0)),
        lambda: theory.gelu(Moments(1.0, 1.0, 0.0)),
        lambda: theory.gelu_backward(G, Moments(1.0, 1.0, 0.0)),
        lambda: theory.relu_backward(G, Moments(1.0, 1.0, 0.0)),
        lambda: theory.gated(X, Moments(1.0, 1.0, 0.0), "silu"),
        lambda: theory.rms_norm(Moments(1.0, 1.0, 0.0), d_model=8),
        lambda: theory.layer_norm(Moments(0.0, 0.0, 0.0), d_model=8),
        lambda: theory.layer_norm_backward(G, X, d_model=1),
        lambda: theory.dropout(X, p_drop=1.0),
        lambda: theory.dropout_backward(G, p_drop=-0.1),
        lambda: theory.linear(X, d_in=0, weight_var=1.0),
        lambda: theory.linear_backward(G, d_out=4, weight_var=-1.0),
        lambda: theory.softmax(X, seq_len=1),
        lambda: theory.softmax_backward(G, X, seq_len=1),
        lambda: theory.attention(Moments(1.0, 1.0, 0.0), AttentionHead(8, 8, 8, 8, 1.0, 1.0, 1.0)),
        lambda: AttentionHead(8, 8, 8, 8, 1.0, 1.0, 1.0, p_drop=1.0),
        lambda: AttentionHead(8, 0, 8, 8, 1.0, 1.0, 1.0),
        lambda: AttentionHead(8, 8, 0, 8, 1.0, 1.0, 1.0),
        lambda: AttentionHead(8, 8, 8, 8, -1.0, 1.0, 1.0),
        lambda: theory.multi_head(X, HEAD, n_heads=0, output_var=1.0),
        lambda: theory.multi_head(X, HEAD, n_heads=2, output_var=-1.0),
        lambda: theory.multi_head_backward(G, X, HEAD, n_heads=0, output_var=1.0),
        lambda: theory.attention_backward(G, Moments(1.0, 1.0, 0.0), HEAD),
        lambda: theory.gain(X, gain_var=-1.0),
        lambda: theory.gain(X, bias_var=-1.0),
        lambda: theory.gain_backward(G, gain_var=-1.0),
        lambda: theory.patch_embedding(X, d_patch=0, weight_var=1.0, n_patches=4, class_var=1.0),
        lambda: theory.patch_embedding(X, d_patch=4, weight_var=1.0, n_patches=0, class_var=1.0),
        lambda: theory.patch_embedding(X, d_patch=4, weight_var=1.0, n_patches=4, class_var=-1.0),
        lambda: theory.rms_norm_backward(G, X, d_model=2),
        lambda: theory.gated_backward(G, X, Moments(1.0, 1.0, 0.0), "silu"),
        lambda: theory.activation(Moments(1.0, 1.0, 0.0), "silu"),
        lambda: theory.embedding((1.0,), (1.5,)),
        lambda: theory.embedding((1.0, 2.0), (0.5,)),
        lambda: Moments(0.0, -1.0, 0.0),
        lambda: GradMoments(1.0, 1.1),
    ],
)
def test_formula_refuses_what_its_derivation_excludes(broken: Any) -> None:
    with pytest.raises(AssumptionError):
        broken()
