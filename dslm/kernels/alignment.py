"""The directions of a gradient relative to the stream, as a norm's Jacobian removes two of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dslm.kernels.grid import add, dense, mean_diagonal, mean_off_diagonal, multiply
from dslm.masks.head_masks import Mask, head_masks
from dslm.spec import Attention, Floats, Kernel


@dataclass(frozen=True, slots=True)
class Alignment:
    """A gradient's energy along two directions, relative to an isotropic gradient's.

    1 for a gradient in random directions; 0 right below a norm, which removes both components.

    Attributes:
        radial, radial_pairs: along the token's stream vector; of a token, and of two tokens.
        constant, constant_pairs: along the vector of ones.
    """

    radial: float = 1.0
    radial_pairs: float = 1.0
    constant: float = 1.0
    constant_pairs: float = 1.0


ISOTROPIC = Alignment()


def alignment_below(below: Kernel, through: Kernel, excess: Kernel, x: Kernel) -> Alignment:
    r"""Return the alignment of the gradient below a Post-LN branch.

    The norm above has removed both components, so :math:`g \perp \lambda x + \beta f` and

    .. math:: x \cdot g_x = \beta (Jx - f) \cdot g

    where J is the branch's Jacobian: 0 for a branch that is homogeneous of degree one on each
    token. Along 1, the part of the gradient that comes through the branch's random weights is
    isotropic again.

    Args:
        below: the gradient below the branch, residual part included.
        through: the part of it that came through the branch, with the amplitude beta.
        excess: kernel of :math:`\beta (Jx - f) \cdot g`, per feature.
        x: the stream before the branch.

    Source: derived here.
    """
    isotropic = multiply(below, x)

    def shares(mean: Callable[[Kernel], float]) -> tuple[float, float]:
        radial = _share(mean(excess), mean(isotropic))
        return radial, _share(mean(through), mean(below))

    radial, constant = shares(mean_diagonal)
    radial_pairs, constant_pairs = shares(mean_off_diagonal)
    return Alignment(radial, radial_pairs, constant, constant_pairs)


def attention_excess(
    g: Kernel, x: Kernel, branch: Kernel, through: Kernel, layer: Attention
) -> Kernel:
    r"""Return the kernel of :math:`(Jx - f)_i \cdot g_i` for attention, through its values.

    A token's vector goes to all tokens that attend to it, while its branch output comes from all
    tokens that it attends to, so the two differ:

    .. math:: F \circ G + K \circ G' - w^2 ((\bar A K) \circ (G \bar A) + T)

    F being the branch's kernel, G' the gradient's through it, :math:`\bar A` the uniform weights
    and T the transpose of the term before it.

    Source: derived here.
    """
    gain = layer.value.d_in * layer.value.weight_var * layer.output.d_in * layer.output.weight_var
    crossed = [share * _crossed(g, x, mask) for share, mask in head_masks(x, x, layer)]
    cross = gain * np.sum(crossed, axis=0)
    both = Kernel(2 * np.diagonal(cross), cross + cross.T, x.cell_sizes)
    passed = add(multiply(branch, g), multiply(x, through))
    return add(passed, both, 1.0, -1.0)


def _crossed(g: Kernel, x: Kernel, mask: Mask) -> Floats:
    attended = mask.keys(dense(x), 0) / mask.keys_per_query[:, None]
    spread = mask.queries(dense(g) / mask.keys_per_query[None, :], 1)
    return np.asarray(attended * spread)


def _share(part: float, total: float) -> float:
    # differences of large sums may leave a share a little outside
    return float(np.clip(part / total, 0.0, 1.0)) if total > 0 else 1.0
