"""The device buffer that a sampled step fills, and its one copy to the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer_agent.capture.moments import COLUMNS, Row
from trainer_agent.capture.plan import Plan

# Columns of a row of logit sums; the maximum is kept apart, because it does not add up.
LOGIT_COUNT, LOGIT_SUM, LOGIT_SQUARES, ENTROPY_COUNT, ENTROPY_SUM = range(5)
LOGIT_COLUMNS = 5
SCALAR_SLOTS = 64
SCALE_SLOT = SCALAR_SLOTS - 1  # the loss scale, which is no series of its own here


@dataclass(frozen=True, slots=True)
class Sums:
    """What the buffer held at the end of a step, on the host."""

    moments: NDArray[np.float64]  # (rows, 6)
    logits: NDArray[np.float64]  # (logit rows, 5)
    logit_max: NDArray[np.float64]  # (logit rows,)
    scalars: NDArray[np.float64]  # (64,)


class Accumulator:
    """One flat buffer on the model's device, and views into it.

    Attributes:
        device: where it lives.
        wide: its type, float64 where the device has it.
    """

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.device = device
        self.wide = torch.float32 if device.type == "mps" else torch.float64
        self._parts = (plan.rows * COLUMNS, plan.logit_rows * LOGIT_COLUMNS, plan.logit_rows)
        self._flat = torch.zeros(sum(self._parts) + SCALAR_SLOTS, dtype=self.wide, device=device)
        moments, logits, self._logit_max, self._scalars = _split(self._flat, self._parts)
        self._moments = moments.view(-1, COLUMNS)
        self._logits = logits.view(-1, LOGIT_COLUMNS)
        self.clear()

    def add(self, row: int, sums: Row) -> None:
        """Add a row of `moment_row`; one that is on the host already is added up later."""
        if isinstance(sums, tuple):
            self._on_host.append((row, sums))
        else:
            self._moments[row].add_(sums.to(self.device, non_blocking=True))

    def add_logits(self, rows: Sequence[int], sums: Tensor, largest: Tensor) -> None:
        """Add sums over sampled attention logits, (rows, 5), and note their maxima, (rows,).

        No row may come twice in one call.
        """
        first, n = rows[0], len(rows)
        if list(rows) != list(range(first, first + n)):
            for at, row in enumerate(rows):
                self.add_logits([row], sums[at : at + 1], largest[at : at + 1])
            return
        # A slice, not an index: an index made on the host would have to wait for the device.
        self._logits[first : first + n].add_(sums.to(self._flat))
        here = self._logit_max[first : first + n]
        torch.maximum(here, largest.to(self._flat), out=here)

    def scalar(self, slot: int, value: float | Tensor | None) -> Callable[[Sums], float]:
        """Take a number along, from wherever it is, without waiting; returns how to read it."""
        if isinstance(value, Tensor) and value.numel() != 1:
            value = None  # not one number: as good as not given
        if isinstance(value, Tensor) and value.device.type != "cpu" and slot < SCALAR_SLOTS:
            self._scalars[slot].copy_(value.detach().reshape(()), non_blocking=True)
            return lambda sums: float(sums.scalars[slot])
        try:
            plain = value.detach() if isinstance(value, Tensor) else value
            number = float("nan") if plain is None else float(plain)
        except (TypeError, ValueError):  # no number at all
            number = float("nan")
        return lambda _: number

    def clear(self) -> None:
        """Start the next step."""
        self._on_host: list[tuple[int, tuple[float, ...]]] = []
        self._flat.zero_()
        self._logit_max.fill_(float("-inf"))

    def take(self) -> Callable[[], Sums]:
        """Copy the buffer without waiting and clear it; the result waits, in any thread."""
        host, wait = _copy(self._flat)
        rows = self._on_host
        self.clear()
        parts = self._parts

        def finish() -> Sums:
            wait()
            flat = host.double()
            moments, logits, logit_max, scalars = _split(flat, parts)
            summed = moments.view(-1, COLUMNS).numpy()
            for row, sums in rows:
                summed[row] += sums
            return Sums(
                moments=summed,
                logits=logits.view(-1, LOGIT_COLUMNS).numpy(),
                logit_max=logit_max.numpy(),
                scalars=scalars.numpy(),
            )

        return finish


def _split(flat: Tensor, parts: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    moments, logits, logit_max, scalars = torch.split(flat, [*parts, SCALAR_SLOTS])
    return moments, logits, logit_max, scalars


def _copy(flat: Tensor) -> tuple[Tensor, Callable[[], None]]:
    if flat.device.type != "cuda":
        return flat.to("cpu", copy=True), lambda: None
    host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
    host.copy_(flat, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(flat.device))
    return host, copied.synchronize
