"""Dense layers on kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dslm.kernels.grid import affine, mean_off_diagonal, n_tokens
from dslm.spec import Kernel, Linear


def linear(x: Kernel, layer: Linear) -> Kernel:
    r"""Return the kernel after a dense layer of independent zero-mean weights.

    .. math:: K_{ij} \to d_{in} E[w^2] K_{ij} + E[b^2]

    For random weights, the output's squared mean over tokens and features is the mean of the kernel
    over pairs of different tokens, divided by the number of features.

    Source: arXiv 2403.09635, Table 1 (linear), written for a kernel. Exact in expectation.
    """
    y = affine(x, layer.d_in * layer.weight_var, layer.bias_var)
    return replace(y, mean=mean_of_random_features(y, layer.d_out))


def linear_backward(g: Kernel, layer: Linear) -> Kernel:
    r"""Return the gradient kernel below a dense layer: :math:`G_{ij} \to d_{out} E[w^2] G_{ij}`.

    Source: arXiv 2403.09635, Table 1 (linear). Exact in expectation.
    """
    y = affine(g, layer.d_out * layer.weight_var)
    return replace(y, mean=mean_of_random_features(y, layer.d_in))


def mean_of_random_features(kernel: Kernel, n_features: int) -> float:
    """Return the root of the mean square of what a token's random features average to."""
    if n_tokens(kernel) < 2:
        return 0.0
    return float(np.sqrt(max(mean_off_diagonal(kernel), 0.0) / n_features))
