"""Scalars of the steps that are not sampled: kept at every step, sent together once a second.

They also tell when a closer look is due: a loss or a gradient norm that leaves its range.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer_agent.capture.guard import Guard
from trainer_agent.capture.overhead_account import SCALARS, OverheadAccount
from trainer_agent.capture.statistics.accumulator import (
    NOT_GIVEN,
    SCALAR_SLOTS,
    Scalar,
    host_copy,
    number,
)
from trainer_agent.capture.statistics.sums import Matrix
from trainer_agent.delivery.messages import Content, Message, Sample
from trainer_agent.delivery.sender import forks
from trainer_agent.job.optimizer import OptimizerReader
from trainer_agent.sampling.rate_changes import Look, RateChanges
from trainer_agent.sampling.scalar_range import ANY_FINITE, ScalarRange
from wire import Layout, RunDeclaration, is_absent, pack_steps, steps_layout

FLUSH_S = 1.0
CALM_S = 10.0  # after a loss that left its range: what has diverged stays suspicious
CAPACITY = 1024  # steps, and as many numbers on the device
PLACE = "scalars"
NORM_RISE = 9.0  # ten times the median of the gradient norms


class Slot(int):
    """The position in the device's ring of a number that the host does not have yet."""


# When a step ended, by `time.perf_counter`; its number, its loss, its learning rate, and what else
# there is.
Row = tuple[float, int, Any, Any, Mapping[str, float]]
NOTHING: Mapping[str, float] = {}


class StepScalars:
    """Keeps what `agent.step` is given where the step is not sampled, and the learning rates.

    A number on another device is copied into a ring there, which is copied to the host with the
    steps it belongs to: nothing waits. Steps that do not follow one another lie in frames of their
    own: the caller flushes between them. All methods belong to the training thread.
    """

    def __init__(
        self,
        optimizer: OptimizerReader,
        declare: Callable[[Layout], RunDeclaration],
        offer: Callable[[Message], None],
        *,
        suspect: Callable[[], None],
        sample: Callable[[], None] = lambda: None,
        guard: Guard,
        account: OverheadAccount,
        enabled: bool,
    ) -> None:
        self._suspect, self._sample = suspect, sample
        self._rates, self._last_rate = RateChanges(), None
        self._reader, self._declare, self._offer = optimizer, declare, offer
        self._guard, self._account, self._enabled = guard, account, enabled
        # The only optimizer; where there are several, or none, the reader is asked.
        self._optimizer = optimizer.optimizers[0] if len(optimizer.optimizers) == 1 else None
        self._rows: list[Row] = []
        self._due = time.perf_counter() + FLUSH_S
        self._ring: Tensor | None = None
        self._slots: Sequence[Tensor] = ()
        self._used, self._forks = 0, forks.count
        # Above it a loss is suspicious; the sender's thread moves it.
        self._limit, self._calm_until = ANY_FINITE, 0.0
        self._ranges = {"loss": ScalarRange(), "gradient_norm": ScalarRange(rise=NORM_RISE)}
        # Of the sender's thread. Layouts list every name that the run has had.
        self._names: dict[str, None] = {}
        self._declarations: dict[tuple[str, ...], RunDeclaration] = {}

    def keep(self, step: int, loss: Scalar | None, scalars: Mapping[str, Scalar | None]) -> None:
        """Keep the numbers of a step that was not sampled.

        Called at nearly every step, with cold caches: each object that the usual case touches
        costs a tenth of a microsecond, and each call of a function several.
        """
        if not self._enabled:
            return
        ended, optimizer = time.perf_counter(), self._optimizer
        try:
            on_host = loss.item() if type(loss) is Tensor and loss.is_cpu else loss
            rate = optimizer.param_groups[0]["lr"] if optimizer is not None else None
            if scalars or type(on_host) is not float or type(rate) is not float:
                self._keep_unusual(ended, step, loss, scalars)
            else:
                if not self._rates.low < rate < self._rates.high:
                    self._follow_rate(rate)
                self._rows.append((ended, step, on_host, rate, NOTHING))
                if not on_host <= self._limit:
                    self._notice(ended)
        except Exception:  # a loss of several numbers, say
            self._keep_unusual(ended, step, loss, scalars)
        if ended > self._due or len(self._rows) >= CAPACITY:
            self._charge(ended)
            self.flush()

    def flush(self) -> None:
        """Hand what is kept to the sender."""
        started = time.perf_counter()
        rows, used = self._rows, self._used
        self._last_rate = rows[-1][3] if rows else self._last_rate
        self._rows, self._used, self._due = [], 0, started + FLUSH_S
        if self._forks != forks.count:  # the parent sends these
            self._forks = forks.count
        elif rows:
            epoch = time.time() - started
            ring = host_copy(self._ring) if used and self._ring is not None else None
            content = partial(self._content, rows, epoch, ring)
            self._offer(Sample(rows[-1][1], epoch + rows[-1][0], content, sampled=False))
            self._account.charge(SCALARS, started)

    def remove(self) -> None:
        """Keep nothing from now on; what is kept can still be flushed."""
        self._enabled, self._optimizer = False, None

    def _charge(self, ended: float) -> None:
        """Charge every row with what the one that is just kept took: clocks take time, too."""
        self._account.add(SCALARS, len(self._rows) * (time.perf_counter() - ended))

    def _notice(self, ended: float) -> None:
        """A loss has left its range: look closer, and let the server hear of it now."""
        if ended > self._calm_until:
            self._calm_until, self._due = ended + CALM_S, 0.0
            self._suspect()

    def _follow_rate(self, rate: float) -> None:
        """Ask for a closer look where the learning rate has changed at once, or warmed up."""
        look = self._rates.follow(rate, self._rows[-1][3] if self._rows else self._last_rate)
        if look is Look.BURST:
            self._suspect()
        elif look is Look.SAMPLE:
            self._sample()

    def _keep_unusual(
        self, ended: float, step: int, loss: Scalar | None, scalars: Mapping[str, Scalar | None]
    ) -> None:
        try:
            numbers = {"loss": loss, **self._reader.learning_rates(), **scalars}
            more = {name: self._taken(x) for name, x in numbers.items() if x is not None}
            rate = more.get("learning_rate")
            if type(rate) is float and not self._rates.low < rate < self._rates.high:
                self._follow_rate(rate)
            self._rows.append((ended, step, None, rate, more))
            on_host = more.get("loss", NOT_GIVEN)
            is_elsewhere = on_host is NOT_GIVEN or type(on_host) is Slot
            if not is_elsewhere and not on_host <= self._limit:
                self._notice(ended)
            if self._used > CAPACITY - SCALAR_SLOTS:
                self.flush()
        except Exception as error:
            self._guard.note(PLACE, error)
            self._enabled = not self._guard.gave_up(PLACE)
            self.flush()

    def _taken(self, value: Scalar) -> float:
        """The number as it is now: a tensor may be written to later."""
        on_device = isinstance(value, Tensor) and not value.is_cpu
        return self._copied(value) if on_device else number(value)

    def _copied(self, value: Any) -> float:
        """A number on another device, copied there."""
        if value.numel() != 1 or self._used >= CAPACITY:
            return NOT_GIVEN
        if self._ring is None:
            with torch.inference_mode(False):
                self._ring = torch.zeros(CAPACITY, dtype=torch.float32, device=value.device)
                self._slots = self._ring.unbind()
        slot = Slot(self._used)
        self._slots[slot].copy_(value.detach().reshape(()), non_blocking=True)
        self._used += 1
        return slot

    def _content(
        self, rows: Sequence[Row], epoch: float, ring: Callable[[], Matrix] | None
    ) -> Content:
        """The declaration and the values of a frame; in the sender's thread."""
        numbers = [more or {"loss": loss, "learning_rate": rate} for *_, loss, rate, more in rows]
        for of_step in numbers:
            self._names.update(dict.fromkeys(of_step))
        names = tuple(self._names) or ("loss",)  # an empty step supersedes what was there, too
        if names not in self._declarations:
            self._declarations[names] = self._declare(steps_layout(names).validate())
        on_device = ring() if ring is not None else np.empty(0)
        columns = [_column(name, numbers, on_device) for name in names]
        self._follow(dict(zip(names, columns, strict=True)))
        times = [epoch + row[0] for row in rows]
        return self._declarations[names], pack_steps(times, np.stack(columns, axis=1))

    def _follow(self, columns: Mapping[str, NDArray[np.float32]]) -> None:
        """Move the ranges, and suspect what left its own unnoticed: it was on another device."""
        for name, scalar_range in self._ranges.items():
            column = columns.get(name, np.empty(0, np.float32))
            if scalar_range.extend(column[~is_absent(column)].tolist()):
                self._suspect()
        self._limit = self._ranges["loss"].limit


def _column(
    name: str, numbers: Sequence[Mapping[str, float]], on_device: Matrix
) -> NDArray[np.float32]:
    values = [of_step.get(name, NOT_GIVEN) for of_step in numbers]
    on_host = [on_device[x] if type(x) is Slot else number(x) for x in values]
    with np.errstate(over="ignore"):  # beyond float32 a loss is infinite
        return np.array(on_host, dtype=np.float64).astype(np.float32)
