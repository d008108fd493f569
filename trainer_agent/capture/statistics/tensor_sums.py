"""What one tensor adds to the tables of sums."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from weakref import ref

import torch
from torch import Tensor

from trainer_agent.capture.statistics.extra import extra_sums, token_gram
from trainer_agent.capture.statistics.moments import MomentRow, moment_row
from trainer_agent.model.sites import RANKS


@dataclass(frozen=True, slots=True)
class TensorSums:
    """Sums over one tensor, and what it takes to find its token ranks."""

    moments: MomentRow
    extra: tuple[Tensor, Tensor] | None
    gram: Tensor | None


class TensorReduction:
    """Takes the sums of tensors of tokens and features."""

    def __init__(self, quantities: Collection[str], wide: torch.dtype, *, repeats: bool) -> None:
        """Prepare for these quantities beyond the moments.

        Args:
            quantities: names; ranks take a Gram matrix, the others a pass over the tensor.
            wide: type of the Gram matrices.
            repeats: whether a tensor may come twice in a row.
        """
        self._quantities = frozenset(quantities) - set(RANKS)
        self._takes_grams = bool(set(quantities) & set(RANKS))
        self._wide, self._repeats = wide, repeats
        self._last: tuple[ref[Tensor], int, Tensor | None, TensorSums] | None = None

    def sums(self, x: Tensor, mask: Tensor | None) -> TensorSums:
        """The sums of one tensor; a norm's input, which often is the stream, is summed once."""
        compiling = torch.compiler.is_compiling()
        if not compiling and self._last is not None:
            last, version, last_mask, sums = self._last
            if last() is x and x._version == version and last_mask is mask:
                return sums
        moments = moment_row(x, mask)
        extra = extra_sums(x, mask, moments, self._quantities) if self._quantities else None
        gram = token_gram(x, mask, self._wide) if self._takes_grams else None
        sums = TensorSums(moments, extra, gram)
        if self._repeats and not compiling:
            # A weak reference: the activation must not outlive its use by the job. In-place writes
            # change its version.
            self._last = ref(x), x._version, mask, sums
        return sums
