"""Multi-head attention: heads side by side, and the projection of all they put out."""

from __future__ import annotations

from dslm.components.attention import AttentionHead, attention, attention_backward
from dslm.components.elementary import linear, linear_backward
from dslm.components.moments import GradMoments, Moments, require_at_least


def multi_head(x: Moments, head: AttentionHead, *, n_heads: int, output_var: float) -> Moments:
    r"""Moments after h like heads and the output projection.

    .. math:: \sigma_{out}^2 = h\,d_v\,\sigma_o^2\,\sigma_{head}^2

    and the tokens' correlation of one head.

    Raises:
        AssumptionError: if ``x.mean`` is not 0 or a size is impossible.

    Source: arXiv 2403.09635, §3 (attention block). Exact given one head's.
    """
    require_at_least("n_heads", n_heads, 1)
    return linear(attention(x, head), d_in=n_heads * head.d_value, weight_var=output_var)


def multi_head_backward(
    g: GradMoments, x: Moments, head: AttentionHead, *, n_heads: int, output_var: float
) -> GradMoments:
    r"""Gradient of the input of h like heads: their sum, their weights being independent.

    .. math:: \sigma_{g,in}^2 = h\,\sigma_{head}^2(d\,\sigma_o^2\,\sigma_g^2)

    Raises:
        AssumptionError: if ``x.mean`` is not 0 or a size is impossible.

    Source: derived here from `attention_backward`.
    """
    require_at_least("n_heads", n_heads, 1)
    inside = linear_backward(g, d_out=head.d_model, weight_var=output_var)
    per_head = attention_backward(inside, x, head)
    return GradMoments(var=n_heads * per_head.var, corr_l=per_head.corr_l)
