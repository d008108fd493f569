"""Which tokens a loss labels, and how alike labels and ids are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import dslm.spec as theory
from trainer_agent.description.read.parts import LabelsPart
from trainer_agent.description.spec.kernels import Sizes, cell_sums, filled

MAX_SEQUENCES, MAX_PAIRS = 16, 2**24  # whose tokens are compared with each other


@torch.no_grad()
def label_kernels(part: LabelsPart, cells: Callable[[int], Sizes]) -> theory.Labels:
    """Shares of sequences, on the cells that `kernel` gives to this batch.

    Pairs are compared in the first 16 sequences, fewer if they are longer than 1,024 tokens.
    """
    ids = part.ids if part.ids is not None else part.labels
    columns, real = filled(torch.stack([part.labels, ids], -1), part.mask)
    n_compared = min(MAX_SEQUENCES, max(MAX_PAIRS // columns.shape[1] ** 2, 1))
    labelled = (columns[..., 0] >= 0) & (real > 0)
    labels, ids = columns[:n_compared, :, 0], columns[:n_compared, :, 1]
    counted, sizes = labelled[:n_compared], cells(columns.shape[1])
    ratio = _density(labelled, real) / _density(counted, real[:n_compared])
    real = real[:n_compared]
    n = _over_pairs(lambda b: real[b, :, None] * real[b, None, :], real, sizes)

    def share(match: Callable[[int], Tensor]) -> theory.Kernel:
        def both(b: int) -> Tensor:
            return match(b) & counted[b, :, None] & counted[b, None, :]

        return _share(_over_pairs(both, real, sizes), n, sizes, ratio)

    same = share(lambda b: labels[b, :, None] == labels[b, None, :])
    everywhere = share(lambda b: torch.ones_like(counted[b, :, None]))
    if part.ids is None:
        return theory.Labels(part.weight, everywhere, same)
    same_id = share(lambda b: ids[b, :, None] == ids[b, None, :])
    label_to_id = share(lambda b: labels[b, :, None] == ids[b, None, :])
    both_ways = (label_to_id.off_diagonal + label_to_id.off_diagonal.T) / 2
    crossed = theory.Kernel(label_to_id.diagonal, both_ways, sizes)
    return theory.Labels(part.weight, everywhere, same, same_id, crossed)


Pairs = tuple[NDArray[np.float64], NDArray[np.float64]]


def _over_pairs(matrix: Callable[[int], Tensor], real: Tensor, sizes: Sizes) -> Pairs:
    """Sums of (seq, seq) matrices over sequences and cells: of i = j, of i ≠ j."""
    same, pairs = torch.zeros(len(sizes)), torch.zeros(len(sizes), len(sizes))
    for b in range(len(real)):
        values = matrix(b).float()
        rows = cell_sums(values.unsqueeze(0), sizes).transpose(1, 2)
        pairs += cell_sums(rows, sizes)[0].T.cpu()
        same += cell_sums(values.diagonal().reshape(1, -1, 1), sizes).flatten().cpu()
    pairs.diagonal().sub_(same)
    return same.double().numpy(), pairs.double().numpy()


def _density(labelled: Tensor, real: Tensor) -> float:
    return float(labelled.sum()) / max(float((real > 0).sum()), 1.0) or 1.0


def _share(matching: Pairs, of: Pairs, sizes: Sizes, ratio: float) -> theory.Kernel:
    """Shares of those compared, times how many more labels the whole batch has."""
    diagonal, off_diagonal = (a / np.maximum(b, 1.0) for a, b in zip(matching, of, strict=True))
    return theory.Kernel(ratio * diagonal, ratio**2 * off_diagonal, sizes)
