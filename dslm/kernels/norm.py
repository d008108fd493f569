"""LayerNorm and RMSNorm on kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dslm.duals.piecewise import correlation_of
from dslm.kernels.alignment import ISOTROPIC, Alignment
from dslm.kernels.grid import affine, bounded, mean_diagonal, mean_off_diagonal, n_tokens
from dslm.kernels.lengths import mean_inverse
from dslm.spec import Floats, Kernel, Norm


def centre(x: Kernel, layer: Norm | None, d_model: int) -> Kernel:
    r"""Return the kernel of `x` less its mean over features, for LayerNorm; `x` for RMSNorm.

    .. math:: C_{ij} = (K_{ij} - m_i m_j \mu_0^2)(1 - 1/d), \quad
        \mu_0^2 = \max(\mu^2 - M/d, 0), \quad m_i^2 = \min(K_{ii} / \bar K, 1)

    for features that scatter around a common mean, of which a token smaller than most, such as one
    that is all zeros, has no more than its share. The mean of d features holds 1/d of their
    covariance, which the factor removes. The squared mean :math:`\mu^2` over tokens contains 1/d of
    the covariance M of two different tokens as well, and this must not be removed twice. The
    stream after a LayerNorm is centred already, so Post-LN centres the branch alone.

    Source: arXiv 2403.09635, Table 1 (LayerNorm covariance). Exact in expectation.
    """
    if layer is None or layer.kind == "rmsnorm":
        return x
    shrink = 1 - 1 / d_model
    # a single token has no pairs: its own second moment is the covariance that all tokens share
    shared = mean_off_diagonal(x) if n_tokens(x) > 1 else mean_diagonal(x)
    square = max(x.mean**2 - max(shared, 0.0) / d_model, 0.0)
    energy = mean_diagonal(x)
    if square == 0 or not energy > 0:
        return affine(x, shrink)
    part = np.sqrt(np.minimum(x.diagonal / energy, 1.0))
    centred = replace(
        x,
        diagonal=shrink * (x.diagonal - square * part**2),
        off_diagonal=shrink * (x.off_diagonal - square * np.outer(part, part)),
        mean=0.0,
    )
    return bounded(centred)


def norm(x: Kernel, layer: Norm | None) -> Kernel:
    r"""Return the kernel after LayerNorm, RMSNorm or no norm, C being that of the centred input.

    .. math:: K_{ij} \to (E[\gamma]^2 + Var\,\gamma)
        \frac{C_{ij}}{\sqrt{(C_{ii} + \epsilon)(C_{jj} + \epsilon)}} + E[b^2]

    Source: arXiv 2403.09635, Table 1 (LayerNorm), with eps, gain and bias derived here.
    """
    if layer is None:
        return x
    gain = layer.gain_mean**2 + layer.gain_var
    scale = np.sqrt(x.diagonal + layer.eps)
    diagonal = gain * x.diagonal / scale**2 + layer.bias_var
    off_diagonal = gain * x.off_diagonal / np.outer(scale, scale) + layer.bias_var
    mean = 0.0 if layer.kind == "layernorm" else layer.gain_mean * x.mean / float(scale.mean())
    return replace(x, diagonal=diagonal, off_diagonal=off_diagonal, mean=mean)


def norm_backward(
    g: Kernel,
    x: Kernel,
    layer: Norm | None,
    d_model: int,
    *,
    alignment: Alignment = ISOTROPIC,
    lengths: Kernel | None = None,
) -> Kernel:
    r"""Return the gradient kernel below a norm whose input kernel is `x`.

    The Jacobian is :math:`(I - 11^T/d - \kappa\,u u^T)\,\mathrm{diag}(\gamma)/s`, with s the
    norm's divisor, u the unit vector along the normed token and :math:`\kappa = C_{ii}/s_i^2`;
    RMSNorm has no :math:`11^T`. For a gradient of covariance :math:`H_{ij} I`,

    .. math:: G_{ij} = \frac{H_{ij}}{s_i s_j} \left(1 - \frac{\delta\,\phi_1}{d}
        - \phi \frac{\kappa_i + \kappa_j - \kappa_i \kappa_j \rho_{ij}^2}{d}\right)

    from :math:`tr(P_i P_j)/d`, with :math:`\delta` 1 for LayerNorm and 0 for RMSNorm. The factors
    :math:`\phi, \phi_1` are those in `alignment`: a gradient that came through a norm has nothing
    left along those directions.

    `lengths` holds the relative covariances of :math:`|x_i|^2` over random weights
    (`dslm.kernels.lengths`). Those of :math:`s_i^2` are :math:`\kappa_i \kappa_j` times as large,
    and enlarge :math:`E[1/(s_i s_j)]` by their second-order term.

    Source: arXiv 2403.09635, Table 1 for the leading term; the projection derived here.
    """
    if layer is None:
        return g
    gain = layer.gain_mean**2 + layer.gain_var
    scale = np.sqrt(x.diagonal + layer.eps)
    remaining, remaining_pairs = _remaining_energy(x, scale, layer, d_model, alignment)
    if lengths is not None:
        share = x.diagonal / scale**2
        off_diagonal = np.outer(share, share) * lengths.off_diagonal
        of_divisor = replace(
            lengths, diagonal=share**2 * lengths.diagonal, off_diagonal=off_diagonal
        )
        wider, wider_pairs = mean_inverse(of_divisor)
        remaining, remaining_pairs = remaining * wider, remaining_pairs * wider_pairs
    return replace(
        g,
        diagonal=gain * g.diagonal / scale**2 * remaining,
        off_diagonal=gain * g.off_diagonal / np.outer(scale, scale) * remaining_pairs,
        mean=0.0 if layer.kind == "layernorm" else g.mean / float(scale.mean()),
    )


def _remaining_energy(
    x: Kernel, scale: Floats, layer: Norm, d_model: int, alignment: Alignment
) -> tuple[Floats, Floats]:
    share = x.diagonal / scale**2  # kappa, below 1 where eps counts
    removed = 2 * share - share**2
    removed_pairs = share[:, None] + share[None, :] - np.outer(share, share) * _cosine(x) ** 2
    constant = 1.0 if layer.kind == "layernorm" else 0.0
    lost = constant * alignment.constant + alignment.radial * removed
    lost_pairs = constant * alignment.constant_pairs + alignment.radial_pairs * removed_pairs
    return 1 - lost / d_model, 1 - lost_pairs / d_model


def _cosine(x: Kernel) -> Floats:
    return np.asarray(correlation_of(x.diagonal[:, None], x.diagonal[None, :], x.off_diagonal))
