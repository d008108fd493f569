r"""The gradient of a cross-entropy at the logits, on kernels.

With :math:`\delta_i = p_i - e_{y_i}` at a token whose label is :math:`y_i`, and logits that are
Gaussian over the classes because the weights that make them are random,

.. math:: E[\delta_i \cdot \delta_j] = D'(S_{ij}) - 2/V + P(y_i = y_j), \quad
    E|\delta_i|^2 = D(S_{ii}) - 2/V + 1

with D and D' from `dslm.duals.partition`. Where the weights are tied to the embedding, the class of
the token's input id differs from the others: its logit has the mean
:math:`m_i = a_i\,d\,\sigma_w^2`, :math:`a_i` being the amplitude of the id's row in the logits'
input. With q the probability of that class,

.. math:: \delta_i = q_i e_{id_i} + (1 - q_i)\tilde p_i - e_{y_i}

Source: derived here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dslm.components.loss import expected_log_sum
from dslm.duals import dual_of
from dslm.duals.partition import concentration
from dslm.kernels.grid import correlation, map_pairs
from dslm.spec import Floats, Head, Kernel, Labels

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)


@dataclass(frozen=True, slots=True)
class TiedRow:
    """Amplitude of the row of a tied weight that belongs to a token's input id.

    Attributes:
        in_stream: (cells,) in the last block's output.
        at_logits: (cells,) in the logits' input.
    """

    in_stream: Floats
    at_logits: Floats


@dataclass(frozen=True, slots=True)
class TiedLogit:
    """The logit of a token's input id, with a weight tied to the embedding.

    Attributes:
        mean: (cells,) its expectation; that of the other logits is 0.
        share: (cells,) share of the id's row in the stream's energy, which is also the share that
            the final norm removes from a gradient along that row.
        stream: kernel of the last block's output.
    """

    mean: Floats
    share: Floats
    stream: Kernel


def tied_logit(head: Head, row: TiedRow | None, top: Kernel) -> TiedLogit | None:
    """Return the input id's logit for these amplitudes; None for weights that are not tied."""
    if row is None:
        return None
    row_var = head.output.weight_var
    mean = head.scale * head.output.d_in * row_var * row.at_logits
    if head.soft_cap is not None:
        mean = head.soft_cap * np.tanh(mean / head.soft_cap)
    return TiedLogit(mean, np.clip(row.in_stream**2 * row_var / top.diagonal, 0.0, 1.0), top)


def logit_gradient(raw: Kernel, head: Head, tied: TiedLogit | None) -> tuple[Kernel, Kernel]:
    """Return the gradient kernel at the uncapped logits `raw`, and the capped logits' kernel."""
    cap, labels = head.soft_cap, head.labels
    logits = raw if cap is None else _capped(raw, cap)
    diagonal, off_diagonal = _untied(logits, head) if tied is None else _tied(logits, head, tied)
    per_feature = labels.weight**2 / head.output.d_out
    diagonal, off_diagonal = per_feature * diagonal, per_feature * off_diagonal
    if cap is not None:
        slope = map_pairs(_scaled(raw, 1 / cap**2), dual_of("tanh").slope)
        diagonal, off_diagonal = diagonal * slope.diagonal, off_diagonal * slope.off_diagonal
    return replace(raw, diagonal=diagonal, off_diagonal=off_diagonal, mean=0.0), logits


def expected_loss(logits: Kernel, head: Head, tied: TiedLogit | None, counted: Floats) -> float:
    """Return the expected cross-entropy, in nats; `counted` is (cells,), shares of the labels."""
    variance, n = float(counted @ logits.diagonal), head.output.d_out
    if not np.isfinite(variance):
        return float("nan")
    if tied is None:
        return expected_log_sum(variance, n)
    mean = float(counted @ tied.mean)
    labels = head.labels
    right = (labels.label_is_id or labels.same).diagonal / labels.counted.diagonal
    tied_variance = float(counted @ (logits.diagonal * (1 - tied.share)))
    return expected_log_sum(variance, n, mean, tied_variance) - mean * float(
        counted @ np.nan_to_num(right)
    )


def _untied(logits: Kernel, head: Head) -> tuple[Floats, Floats]:
    n, labels = head.output.d_out, head.labels
    counted, same = labels.counted, labels.same
    self_overlap, overlap = _mean_overlaps(logits, n)
    return (
        counted.diagonal * (self_overlap - 2 / n + 1),
        counted.off_diagonal * (overlap - 2 / n) + same.off_diagonal,
    )


def _tied(logits: Kernel, head: Head, tied: TiedLogit) -> tuple[Floats, Floats]:
    n, labels = head.output.d_out, head.labels
    counted, same = labels.counted, labels.same
    same_id, label_is_id = _about_ids(labels)
    self_overlap, overlap = _mean_overlaps(logits, n)
    q, q2 = _probability(tied, logits.diagonal, n)
    others, others2 = 1 - q, 1 - 2 * q + q2
    right, wrong = label_is_id.diagonal, counted.diagonal - label_is_id.diagonal
    at_id = counted.diagonal * q2 - 2 * right * q + right
    diagonal = at_id * (1 - tied.share) + wrong
    diagonal += counted.diagonal * others2 * self_overlap - 2 * wrong * others / n
    remaining = _remaining_of_same_row(tied)
    pairs = np.outer(others, others) * overlap - (others[:, None] + others[None, :]) / n
    pairs += (np.outer(q, others) + np.outer(others, q)) / n
    off_diagonal = counted.off_diagonal * pairs + same.off_diagonal
    off_diagonal += np.outer(q, q) * same_id.off_diagonal * remaining
    pull = q * (1 - tied.share)  # the norm removes an id's row from the gradient of its token
    off_diagonal -= (pull[:, None] + pull[None, :]) * label_is_id.off_diagonal
    return diagonal, off_diagonal


def _remaining_of_same_row(tied: TiedLogit) -> Floats:
    r"""Return what the norms of two tokens of the same id leave of their gradients along its row.

    .. math:: 1 - \rho_i^2 - \rho_j^2 + \rho_i\rho_j \cos_{ij}, \quad
        \cos_{ij} = \rho_i\rho_j + \sqrt{(1-\rho_i^2)(1-\rho_j^2)}\,r

    :math:`\rho^2` being the row's share of the stream's energy, and the cosine that of two streams.
    """
    s, other = tied.share, 1 - tied.share
    along = np.sqrt(np.outer(s, s))
    cosine = along + np.sqrt(np.outer(other, other)) * correlation(tied.stream)
    return np.asarray(1 - s[:, None] - s[None, :] + along * cosine)


def _about_ids(labels: Labels) -> tuple[Kernel, Kernel]:
    none = replace(labels.same, diagonal=0 * labels.same.diagonal)
    none = replace(none, off_diagonal=0 * labels.same.off_diagonal)
    return labels.same_id or none, labels.label_is_id or none


def _mean_overlaps(logits: Kernel, n: int) -> tuple[Floats, Floats]:
    """Return E p_i·p_i and E p_i·p_j."""
    count = np.array(float(n))
    variance = np.sqrt(np.outer(logits.diagonal, logits.diagonal))
    self_overlap = concentration(logits.diagonal, count).self_overlap
    return self_overlap, concentration(variance, count).overlap(logits.off_diagonal)


def _probability(tied: TiedLogit, variance: Floats, n: int) -> tuple[Floats, Floats]:
    """Return E q and E q² of the input id's class, each (cells,)."""
    score = tied.mean[:, None] + np.sqrt(variance * (1 - tied.share))[:, None] * NODES
    log_others = np.log(n - 1) + variance[:, None] / 2
    q = 1 / (1 + np.exp(np.clip(log_others - score, -700, 700)))
    # the other classes' sum is taken at its expectation: it hardly scatters over a vocabulary
    w = WEIGHTS / WEIGHTS.sum()
    return q @ w, q**2 @ w


def _capped(raw: Kernel, cap: float) -> Kernel:
    return _scaled(map_pairs(_scaled(raw, 1 / cap**2), dual_of("tanh").value), cap**2)


def _scaled(kernel: Kernel, factor: float) -> Kernel:
    return replace(
        kernel, diagonal=factor * kernel.diagonal, off_diagonal=factor * kernel.off_diagonal
    )
