"""How many bits of a significand the values of a tensor use, whatever type holds them.

A branch that somewhere passes through half precision comes out in float32 with the low bits empty:
no moment shows it. A float32 that was computed as such has a low bit set nearly always, so a few
values tell.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAMPLED_VALUES = 64
FLOAT32, FLOAT16, BFLOAT16 = 24, 11, 8
# Bits of a float32 that are empty where a float16 or a bfloat16 of normal size held the value.
_BELOW_FLOAT16, _BELOW_BFLOAT16 = (1 << 13) - 1, (1 << 16) - 1


class SignificandSamples:
    """First values of the tensors of a sampled step, by row, until they are counted together."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._values: list[Tensor] = []
        self._row_tensors: dict[tuple[int, ...], Tensor] = {}

    def add(self, row: int, x: Tensor) -> None:
        """Copy the first values of a tensor of tokens and features."""
        x = x.detach()
        while x.ndim > 1:
            x = x[0]
        if len(x) >= SAMPLED_VALUES:
            x = x[:SAMPLED_VALUES]
        elif len(x):
            x = x.repeat(-(-SAMPLED_VALUES // len(x)))[:SAMPLED_VALUES]
        else:
            return
        self._rows.append(row)
        self._values.append(x.to(torch.float32, copy=True))

    def adopt(self, other: SignificandSamples, rows: Mapping[int, int]) -> None:
        """Take over what another one holds, in the rows that it has here."""
        pairs = zip(other._rows, other._values, strict=True)
        self.clear()
        for row, values in pairs:
            if row in rows:
                self._rows.append(rows[row])
                self._values.append(values)

    def count_into(self, table: Tensor) -> None:
        """Add to each row how many values are not zero, past float16's bits, past bfloat16's.

        Args:
            table: (rows, 3).
        """
        if not self._rows:
            return
        values = torch.stack([value.to(table.device) for value in self._values])
        bits = values.view(torch.int32)
        counts = torch.stack(
            [
                values.ne(0).sum(1),
                bits.bitwise_and(_BELOW_FLOAT16).ne(0).sum(1),
                bits.bitwise_and(_BELOW_BFLOAT16).ne(0).sum(1),
            ],
            dim=1,
        )
        table.index_add_(0, self._index(table.device), counts.to(table.dtype))
        self.clear()

    def clear(self) -> None:
        """Forget what was added."""
        self._rows, self._values = [], []

    def _index(self, device: torch.device) -> Tensor:
        """The rows on the device; brought there once, because that waits."""
        key = tuple(self._rows)
        if key not in self._row_tensors:
            self._row_tensors = {key: torch.tensor(key, device=device)}
        return self._row_tensors[key]


def significand_bits(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits of the significand that values use, (rows,), from counts (rows, 3).

    24 as in float32, 11 as in float16, 8 as in bfloat16, the leading one included. Of values that
    are all zero, the least.
    """
    bits = np.where(rows[:, 2] > 0, FLOAT16, BFLOAT16)
    return np.where(rows[:, 1] > 0, FLOAT32, bits).astype(np.float64)
