"""The labels of a batch, in expectation, where there is no batch yet."""

from __future__ import annotations

import numpy as np

from dslm.embedding import same_token_probability
from dslm.errors import SpecError
from dslm.spec import Kernel, Labels


def next_token_labels(
    seq_len: int, batch_size: int, vocabulary: int, *, zipf_exponent: float = 1.0
) -> Labels:
    """Return the labels of a language model: the next position's id, the last one ignored.

    Ids are independent draws from Zipf's law; the loss is a mean over labels.

    Args:
        seq_len: L, positions of a sequence.
        batch_size: sequences of the batch.
        vocabulary: number of ids.
        zipf_exponent: s of the law; 1 for natural text.

    Raises:
        SpecError: if there are fewer than two positions, no sequence or no id.
    """
    if seq_len < 2:
        raise SpecError("seq_len", "give at least two positions: the last one has no next id")
    counted = np.ones(seq_len)
    counted[-1] = 0.0
    labels = _labels(counted, batch_size, same_token_probability(vocabulary, zipf_exponent))
    following = np.arange(seq_len - 1)
    crossed = labels.label_is_id
    assert crossed is not None
    # i has the id of i + 1 as its label for certain, i + 1 that of i by chance; the kernel holds
    # the mean of the two
    both_orders = (1 + crossed.off_diagonal[0, -2]) / 2
    crossed.off_diagonal[following[:-1], following[1:]] = both_orders
    crossed.off_diagonal[following[1:], following[:-1]] = both_orders
    return labels


def masked_labels(
    seq_len: int,
    batch_size: int,
    vocabulary: int,
    *,
    share: float = 0.15,
    zipf_exponent: float = 1.0,
) -> Labels:
    """Return the labels of a masked language model, which has them at `share` of the positions.

    The masked positions have one id in common, which is no label.

    Args:
        seq_len: L, positions of a sequence.
        batch_size: sequences of the batch.
        vocabulary: number of ids.
        share: probability of a position to be masked, above 0 and up to 1.
        zipf_exponent: s of the law that ids are drawn from; 1 for natural text.

    Raises:
        SpecError: if a size is below 1 or `share` is not above 0 and up to 1.
    """
    if seq_len < 1:
        raise SpecError("seq_len", "give at least one position")
    if not 0 < share <= 1:
        raise SpecError("share", "give a share above 0 and up to 1")
    p_same = same_token_probability(vocabulary, zipf_exponent)
    counted = np.full(seq_len, share)
    labels = _labels(counted, batch_size, p_same)
    zero = _kernel(np.zeros(seq_len), np.zeros((seq_len, seq_len)))
    return Labels(labels.weight, labels.counted, labels.same, labels.counted, zero)


def _labels(counted: np.ndarray, batch_size: int, p_same: float) -> Labels:
    if batch_size < 1:
        raise SpecError("batch_size", "give at least one sequence")
    both = np.outer(counted, counted)
    by_chance = _kernel(counted, p_same * both)
    return Labels(
        weight=1 / (batch_size * float(counted.sum())),
        counted=_kernel(counted, both),
        same=by_chance,
        same_id=by_chance,
        label_is_id=_kernel(p_same * counted, p_same * both),
    )


def _kernel(diagonal: np.ndarray, off_diagonal: np.ndarray) -> Kernel:
    return Kernel(diagonal, off_diagonal.copy(), np.ones(len(diagonal), dtype=np.int64))
