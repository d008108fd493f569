"""The labels of a batch that does not exist yet."""

from __future__ import annotations

import numpy as np

from dslm.embedding import same_token_probability
from dslm.errors import SpecError
from dslm.spec import Kernel, Labels


def next_token_labels(
    seq_len: int, batch_size: int, vocabulary: int, *, zipf_exponent: float = 1.0
) -> Labels:
    """Return the labels of a language model: each position's next id, the last one's ignored.

    Ids are drawn from Zipf's law, each without regard to the others; the loss is a mean.

    Raises:
        SpecError: if there are fewer than two positions, no sequence or no id.
    """
    if seq_len < 2:
        raise SpecError("seq_len", "give at least two positions: the last one has no next id")
    counted = np.ones(seq_len)
    counted[-1] = 0.0
    labels = _labels(counted, batch_size, same_token_probability(vocabulary, zipf_exponent))
    following = np.arange(seq_len - 1)  # i's label is the id of i + 1, if that has a label too
    crossed = labels.label_is_id
    assert crossed is not None
    alike = (1 + crossed.off_diagonal[0, -2]) / 2  # of (i, i + 1) surely, of (i + 1, i) by chance
    crossed.off_diagonal[following[:-1], following[1:]] = alike
    crossed.off_diagonal[following[1:], following[:-1]] = alike
    return labels


def masked_labels(
    seq_len: int,
    batch_size: int,
    vocabulary: int,
    *,
    share: float = 0.15,
    zipf_exponent: float = 1.0,
) -> Labels:
    """Return the labels of a masked language model that asks for `share` of the positions.

    Masked ids are all the same one, which is nobody's label.

    Raises:
        SpecError: if a size is below 1 or `share` is not above 0 and up to 1.
    """
    if seq_len < 1:
        raise SpecError("seq_len", "give at least one position")
    if not 0 < share <= 1:
        raise SpecError("share", "give a share above 0 and up to 1")
    alike = same_token_probability(vocabulary, zipf_exponent)
    counted = np.full(seq_len, share)
    labels = _labels(counted, batch_size, alike)
    zero = _kernel(np.zeros(seq_len), np.zeros((seq_len, seq_len)))
    return Labels(labels.weight, labels.counted, labels.same, labels.counted, zero)


def _labels(counted: np.ndarray, batch_size: int, alike: float) -> Labels:
    if batch_size < 1:
        raise SpecError("batch_size", "give at least one sequence")
    both = np.outer(counted, counted)
    by_chance = _kernel(counted, alike * both)
    return Labels(
        weight=1 / (batch_size * float(counted.sum())),
        counted=_kernel(counted, both),
        same=by_chance,
        same_id=by_chance,
        label_is_id=_kernel(alike * counted, alike * both),
    )


def _kernel(diagonal: np.ndarray, off_diagonal: np.ndarray) -> Kernel:
    return Kernel(diagonal, off_diagonal.copy(), np.ones(len(diagonal), dtype=np.int64))
