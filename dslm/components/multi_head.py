"""Multi-head attention: heads side by side, and the projection of their outputs."""

from __future__ import annotations

from dslm.components.attention import AttentionHead, attention, attention_backward
from dslm.components.elementary import linear, linear_backward
from dslm.components.moments import GradMoments, Moments, require_at_least


def multi_head(x: Moments, head: AttentionHead, *, n_heads: int, output_var: float) -> Moments:
    r"""Moments after h heads of the same kind and the output projection.

    .. math:: \sigma_{out}^2 = h\,d_v\,\sigma_o^2\,\sigma_{head}^2

    The correlation between tokens is that of one head.

    Args:
        x: moments of the (batch, seq, d_model) input.
        head: sizes and weight variances of one head.
        n_heads: h.
        output_var: :math:`\sigma_o^2`, variance of the output projection's entries.

    Raises:
        AssumptionError: if ``x.mean`` is not 0 or a size is impossible.

    Source: arXiv 2403.09635, §3 (attention block). Exact, given the moments of one head.
    """
    require_at_least("n_heads", n_heads, 1)
    return linear(attention(x, head), d_in=n_heads * head.d_value, weight_var=output_var)


def multi_head_backward(
    g: GradMoments, x: Moments, head: AttentionHead, *, n_heads: int, output_var: float
) -> GradMoments:
    r"""Gradient at the input of h heads of the same kind, whose weights are independent.

    .. math:: \sigma_{g,in}^2 = h\,\sigma_{head}^2(d\,\sigma_o^2\,\sigma_g^2)

    Args:
        g: moments of the gradient at the output projection's output.
        x: moments of the (batch, seq, d_model) input.
        head: sizes and weight variances of one head.
        n_heads: h.
        output_var: :math:`\sigma_o^2`, variance of the output projection's entries.

    Raises:
        AssumptionError: if ``x.mean`` is not 0 or a size is impossible.

    Source: derived here from `attention_backward`.
    """
    require_at_least("n_heads", n_heads, 1)
    inside = linear_backward(g, d_out=head.d_model, weight_var=output_var)
    per_head = attention_backward(inside, x, head)
    return GradMoments(var=n_heads * per_head.var, corr_l=per_head.corr_l)
