"""What a query may see of the keys: masks, their sums over cells, and the cells they call for.

`binary_mask` counts every visible key as one; `weighted_mask` weighs keys by a position bias;
`head_masks` picks between the two, head group by head group; `cell_sizes` cuts a sequence.
"""

from __future__ import annotations

__all__: list[str] = []
