"""The position-resolved recursion: each part of a block as a map of kernels, and of gradients'.

A kernel holds the second moments of a signal between the token positions of a sequence, in
expectation over random weights (`dslm.spec.Kernel`). `grid` has the arithmetic; `linear`, `norm`,
`feed_forward` and `attention` the parts; `block` and `stack` put them together; `head` goes on to
the loss. In formulas K is a stream's kernel, G a gradient's, i and j are tokens.
"""

from __future__ import annotations

__all__: list[str] = []
