"""Which positions of a long sequence share a cell, as the masks of its attentions allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from dslm.position_bias import reach
from dslm.spec import Block

SINGLE_UP_TO = 64  # tokens up to which every position has a cell to itself
LEADING = 4  # tokens that always do: a class token, or what starts every text
GROWTH = 16  # under a causal mask a cell spans at most 1/GROWTH of the positions before it
UNMASKED_CELLS = 48  # cells of a sequence whose tokens all see each other
CELLS_PER_WINDOW = 8  # cells that a window spans at least
MAX_WINDOW_CELLS = 128  # cells of equal width, for windows narrower than L / 16

Sizes = NDArray[np.int64]


def cell_sizes(seq_len: int, *, causal: bool = True, window: int | None = None) -> Sizes:
    r"""Return (cells,) tokens per cell, on which a prediction is as good as on single tokens.

    A causal mask lets position i average i tokens, so what happens there changes by the relative
    step in i: cells grow in proportion to their position, 16 + 16 ln(L/16) of them. Without a
    mask positions differ only by what the batch has there, and few cells of equal width do. A
    window sets a scale of its own.

    Against single tokens at L = 512 and 1,024 (`benchmarks.theory_cost` prints these): variances
    within 0.05 % at the median layer and 0.2 % at the worst, correlations within 0.0025. At hot
    scores (weights of std 0.05) the gradient of the lowest layer differs by up to 5 %, as words
    that repeat share a cell with words that do not. A window of only two cells: up to 2.5 %.

    Args:
        seq_len: L, at least 1; up to 64 each token has its own cell.
        causal: whether a token sees only those up to itself.
        window: how many it sees at most, None for all; as in `Attention.window`.

    Source: derived here.
    """
    ones = np.ones(seq_len, dtype=np.int64)
    return np.add.reduceat(ones, _starts(ones, causal, window))


def block_cells(blocks: Sequence[Block | None], seq_len: int) -> Sizes:
    """Return the `cell_sizes` of a stack: causal if a block is, with its narrowest window.

    A position bias sets a window, too: the number of keys over which its steepest head spreads.
    """
    return cell_sizes(seq_len, **_limits(blocks))


def coarse_starts(sizes: Sizes, blocks: Sequence[Block | None]) -> Sizes:
    """Return (coarse cells,) the indices, in cells of `sizes`, where the cells of a stack begin."""
    return _starts(sizes, **_limits(blocks))


class _Limits(TypedDict):
    causal: bool
    window: int | None


def _limits(blocks: Sequence[Block | None]) -> _Limits:
    attentions = [block.attention for block in blocks if block is not None]
    windows = [a.window for a in attentions if a.window is not None]
    windows += [reach(a.position_bias) for a in attentions if a.position_bias is not None]
    causal = any(a.causal for a in attentions)
    return _Limits(causal=causal, window=min(windows, default=None))


def _starts(sizes: Sizes, causal: bool, window: int | None) -> Sizes:
    if len(sizes) <= SINGLE_UP_TO:
        return np.arange(len(sizes))
    seq_len = int(sizes.sum())
    widest = seq_len if causal else seq_len // UNMASKED_CELLS
    if window is not None:
        widest = min(widest, max(window // CELLS_PER_WINDOW, seq_len // MAX_WINDOW_CELLS))
    starts, begin, end = [0], 0, int(sizes[0])
    for index, size in enumerate(sizes[1:].tolist(), start=1):
        growth_limit = begin // GROWTH if causal else (begin >= LEADING) * seq_len
        if end + size - begin > max(min(growth_limit, widest), 1):
            starts.append(index)
            begin = end
        end += size
    return np.array(starts, dtype=np.int64)
