"""The sums of a sampled step on the host: of one process, then of its whole job."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer_agent.capture.statistics.columns import RANKED
from trainer_agent.capture.statistics.extra import rank_sums

Matrix = NDArray[np.float64]

# What adds up over processes, and of what the largest value holds for all of them.
ADDITIVE = ("moments", "precision", "extra", "logits", "heads", "parameters", "log_z")
MAXIMA = ("logit_max", "extra_max", "head_max")


@dataclass(frozen=True, slots=True)
class Sums:
    """Tables with a row for each place of the plan; `columns` says what their columns hold."""

    moments: Matrix  # (rows, 6)
    precision: Matrix  # (rows, 3)
    extra: Matrix  # (rows, 14), or no rows where no such quantity is requested
    logits: Matrix  # (logit rows, 5)
    heads: Matrix  # (logit rows * heads, 5)
    parameters: Matrix  # (parameter rows, 8)
    log_z: Matrix  # (1, 3), or no row
    logit_max: Matrix  # (logit rows,)
    extra_max: Matrix  # largest absolute values, (rows,) or ()
    head_max: Matrix  # (logit rows * heads,)
    scalars: Matrix  # (64,)


def unpack(
    flat: Matrix,
    shapes: Mapping[str, tuple[int, ...]],
    host_rows: Sequence[tuple[int, tuple[float, ...]]],
) -> Sums:
    """The sums that a copied buffer holds.

    Args:
        flat: tables one after the other, among them Gram matrices named ``"grams"``.
        shapes: of the tables, by name, in the order of the buffer.
        host_rows: rows of moments that never were in it, each with its number.
    """
    tables: dict[str, Matrix] = {}
    start = 0
    for name, shape in shapes.items():
        end = start + math.prod(shape)
        tables[name] = flat[start:end].reshape(shape)
        start = end
    if host_rows:
        rows, sums = zip(*host_rows, strict=True)
        # Unbuffered: a row that comes twice is added twice.
        np.add.at(tables["moments"], list(rows), np.array(sums))
    grams = tables.pop("grams")
    if len(grams):
        tables["extra"][:, RANKED:] += rank_sums(grams)
    return Sums(**tables)
