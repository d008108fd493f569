"""The device buffer that a sampled step fills, and its one copy to the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer_agent.capture.statistics import extra as tails
from trainer_agent.capture.statistics.moments import COLUMNS, Row
from trainer_agent.capture.statistics.token_rank import rank_sums
from trainer_agent.model.plan import Plan, RowsKept

# Columns of a row of logit sums; the maximum is kept apart, because it does not add up.
LOGIT_COUNT, LOGIT_SUM, LOGIT_SQUARES, ENTROPY_COUNT, ENTROPY_SUM = range(5)
LOGIT_COLUMNS = 5
# Columns of a row of parameter sums.
(
    WEIGHTS,
    WEIGHT_SQUARES,
    GRADIENTS,
    GRADIENT_SQUARES,
    CHANGED_SQUARES,
    CHANGES,
    SECOND_MOMENTS,
    SECOND_MOMENT_SUM,
) = range(8)
PARAMETER_COLUMNS = 8
# Sums over the logarithm of the partition function.
LOG_Z_COUNT, LOG_Z_SUM, LOG_Z_SQUARES = range(3)
LOG_Z_COLUMNS = 3
SCALAR_SLOTS = 64
SCALE_SLOT = SCALAR_SLOTS - 1  # the loss scale, which is no series of its own here

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """What the buffer held at the end of a step, on the host."""

    moments: Matrix  # (rows, 6)
    tails: Matrix  # (rows, 14), or no rows where nothing of it is wanted
    logits: Matrix  # (logit rows, 5)
    heads: Matrix  # (logit rows · heads, 5)
    parameters: Matrix  # (parameter rows, 8)
    log_z: Matrix  # (1, 3), or no row
    logit_max: Matrix  # (logit rows,)
    tail_max: Matrix  # (rows,) or ()
    head_max: Matrix  # (logit rows · heads,)
    scalars: Matrix  # (64,)


# What adds up over processes, and what the largest of them speaks for.
ADDITIVE = ("moments", "tails", "logits", "heads", "parameters", "log_z")
MAXIMA = ("logit_max", "tail_max", "head_max")


class Accumulator:
    """One flat buffer on the model's device, and views into it.

    Attributes:
        device: where it lives.
        on_cpu: whether that is the host.
        wide: its type, float64 where the device has it.
        parameters: (parameter rows, 8), to be added to.
        log_z: (1, 3), or no row.
    """

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.device = device
        self.wide = torch.float32 if device.type == "mps" else torch.float64
        self.on_cpu = device.type == "cpu"
        self._shapes = _shapes(plan)
        size = sum(math.prod(shape) for shape in self._shapes.values())
        self._flat = torch.zeros(size, dtype=self.wide, device=device)
        views = _views(self._flat, self._shapes)
        self._moments, self._logits = views["moments"], views["logits"]
        self._scalars = views["scalars"]
        self._tails, self._heads, self._grams = views["tails"], views["heads"], views["grams"]
        self.parameters, self.log_z = views["parameters"], views["log_z"]
        self._n_heads = plan.heads
        self._logit_max, self._tail_max, self._head_max = (views[name] for name in MAXIMA)
        for largest in (self._logit_max, self._head_max):
            largest.fill_(float("-inf"))
        self._empty = self._flat.clone()
        # On the host numpy copies with a fraction of the code that a call of torch runs through.
        self._arrays = (self._flat.numpy(), self._empty.numpy()) if self.on_cpu else None
        self._on_host: list[tuple[int, tuple[float, ...]]] = []

    def add(self, row: int | Tensor, sums: Row) -> None:
        """Add a row of `moment_row`; one that is on the host already is added up later.

        Here and below `row` is a number, or a tensor (1,) that holds it.
        """
        if isinstance(sums, tuple):
            assert isinstance(row, int)
            self._on_host.append((row, sums))
        elif isinstance(row, int):
            self._moments[row].add_(sums.to(self.device, non_blocking=True))
        else:
            self._moments.index_add_(0, row, sums.to(self._flat).unsqueeze(0))

    def add_tails(self, row: int | Tensor, sums: Tensor, largest: Tensor) -> None:
        """Add a row of `tail_sums`, and note the largest value."""
        if isinstance(row, int):
            self._tails[row].add_(sums.to(self._flat))
            here = self._tail_max[row]
            torch.maximum(here, largest.to(self._flat), out=here)
        else:
            self._tails.index_add_(0, row, sums.to(self._flat).unsqueeze(0))
            largest = torch.maximum(self._tail_max[row], largest.to(self._flat))
            self._tail_max.index_copy_(0, row, largest)

    def note_gram(self, row: int | Tensor, gram: Tensor) -> None:
        """Keep a `token_gram` in place of the one before."""
        tokens = len(gram)
        if isinstance(row, int):
            self._grams[row, :tokens, :tokens].copy_(gram)
        else:
            self._grams[:, :tokens, :tokens].index_copy_(0, row, gram.unsqueeze(0))

    def add_logits(self, rows: Sequence[int], sums: Tensor, largest: Tensor) -> None:
        """Add sums over sampled attention logits, and note their maxima.

        No row may come twice in one call.

        Args:
            rows: one for each layer.
            sums: (layers, 5), or (layers · heads, 5) where each head is followed.
            largest: (layers,), or (layers · heads,).
        """
        first, n = rows[0], len(rows)
        each = len(sums) // n
        if list(rows) != list(range(first, first + n)):
            for at, row in enumerate(rows):
                mine = slice(at * each, (at + 1) * each)
                self.add_logits([row], sums[mine], largest[mine])
            return
        # A slice, not an index: an index made on the host would have to wait for the device.
        if each == self._n_heads:
            of_heads = slice(first * each, (first + n) * each)
            self._heads[of_heads].add_(sums.to(self._flat))
            here = self._head_max[of_heads]
            torch.maximum(here, largest.to(self._flat), out=here)
            sums, largest = sums.view(n, each, -1).sum(1), largest.view(n, each).amax(1)
        self._logits[first : first + n].add_(sums.to(self._flat))
        here = self._logit_max[first : first + n]
        torch.maximum(here, largest.to(self._flat), out=here)

    def scalar(self, slot: int, value: float | Tensor | None) -> float | None:
        """Take a number along without waiting; None where it will lie among `Sums.scalars`."""
        if isinstance(value, Tensor):
            if value.device.type == "cpu":
                return _number(value)
            if value.numel() == 1 and slot < SCALAR_SLOTS:
                self._scalars[slot].copy_(value.detach().reshape(()), non_blocking=True)
                return None
        return math.nan if value is None else _number(value)

    def adopt(self, other: Accumulator, rows: RowsKept) -> None:
        """Take over what another one holds, on the same device, in the rows that it has here."""
        self._on_host = [
            (rows.moments[row], sums) for row, sums in other._on_host if row in rows.moments
        ]
        for names, kept in (
            (("_moments", "_tails", "_tail_max", "_grams"), rows.moments),
            (("_logits", "_logit_max"), rows.logits),
            (("parameters",), rows.parameters),
        ):
            before, now = (list(each) for each in (kept.keys(), kept.values()))
            for name in names:
                source, target = getattr(other, name), getattr(self, name)
                if len(source) and len(target):
                    target[now] = source[before]
        self._scalars.copy_(other._scalars)
        self.log_z.copy_(other.log_z)

    def clear(self) -> None:
        """Start the next step."""
        self._on_host = []
        if self._arrays is None:
            self._flat.copy_(self._empty)
        else:
            held, empty = self._arrays
            held[:] = empty

    def take(self) -> Callable[[], Sums]:
        """Copy the buffer without waiting and clear it; the result waits, in any thread."""
        held = _copy(self._flat) if self._arrays is None else self._arrays[0].copy()
        rows = self._on_host
        self.clear()
        return partial(_sums, self._shapes, held, rows)


def _number(value: object) -> float:
    """The value as it is now: a tensor may be written to later. NaN where it is no number."""
    try:
        # A value that has a gradient is read without torch's warning.
        return float(value.item() if isinstance(value, Tensor) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _sums(
    shapes: Mapping[str, tuple[int, ...]],
    held: Matrix | Callable[[], Matrix],
    rows: Sequence[tuple[int, tuple[float, ...]]],
) -> Sums:
    """What lies in a copied buffer, and the rows that never were in it."""
    flat, found, start = held() if callable(held) else held, {}, 0
    for name, shape in shapes.items():
        end = start + math.prod(shape)
        found[name] = flat[start:end].reshape(shape)
        start = end
    if rows:
        np.add.at(found["moments"], [row for row, _ in rows], np.array([sums for _, sums in rows]))
    grams = found.pop("grams")
    if len(grams):
        found["tails"][:, tails.RANKED :] += rank_sums(grams)
    return Sums(**found)


def _shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    heads, costly = plan.logit_rows * plan.heads, plan.wanted.costly
    tail_rows = plan.rows if costly else 0
    tokens = tails.SAMPLED_TOKENS
    return {
        "moments": (plan.rows, COLUMNS),
        "logits": (plan.logit_rows, LOGIT_COLUMNS),
        "logit_max": (plan.logit_rows,),
        "scalars": (SCALAR_SLOTS,),
        "tails": (tail_rows, tails.COLUMNS),
        "tail_max": (tail_rows,),
        "heads": (heads, LOGIT_COLUMNS),
        "head_max": (heads,),
        "parameters": (plan.parameter_rows, PARAMETER_COLUMNS),
        "log_z": (len(plan.log_z_places), LOG_Z_COLUMNS),
        "grams": (tail_rows if costly & set(tails.RANK_COLUMNS) else 0, tokens, tokens),
    }


def _views(flat: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    parts = torch.split(flat, [math.prod(shape) for shape in shapes.values()])
    return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def _copy(flat: Tensor) -> Callable[[], Matrix]:
    """A copy on its way to the host; what is returned waits for it."""
    if flat.device.type != "cuda":
        host = flat.to("cpu", copy=True)
        return lambda: host.double().numpy()
    host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
    host.copy_(flat, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(flat.device))

    def arrived() -> Matrix:
        copied.synchronize()
        return host.double().numpy()

    return arrived
