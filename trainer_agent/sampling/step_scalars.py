"""Scalars of the steps that are not sampled: kept at every step, sent together once a second."""

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
from wire import Layout, RunDeclaration, pack_steps, steps_layout

FLUSH_S = 1.0
CAPACITY = 1024  # steps, and as many numbers on the device
PLACE = "scalars"


class Slot(int):
    """The position in the device's ring of a number that the host does not have yet."""


# When a step ended, by `time.perf_counter`; its loss, its learning rate, and what else there is.
Row = tuple[float, float | None, float | None, Mapping[str, float]]


class StepScalars:
    """Keeps what `agent.step` is given where the step is not sampled, and the learning rates.

    A number on another device is copied into a ring there, which is copied to the host with the
    steps it belongs to: nothing waits. Steps that do not follow one another lie in frames of their
    own. All methods belong to the training thread.
    """

    def __init__(
        self,
        optimizer: OptimizerReader,
        declare: Callable[[Layout], RunDeclaration],
        offer: Callable[[Message], None],
        *,
        guard: Guard,
        account: OverheadAccount,
        enabled: bool,
    ) -> None:
        self._optimizer, self._declare, self._offer = optimizer, declare, offer
        self._guard, self._account, self._enabled = guard, account, enabled
        self._rows: list[Row] = []
        self._next_step, self._flushed, self._spent_s = 0, time.perf_counter(), 0.0
        self._ring: Tensor | None = None
        self._slots: Sequence[Tensor] = ()
        self._used, self._is_full, self._forks = 0, False, forks.count
        # Of the sender's thread. Layouts list every name that the run has had.
        self._names: dict[str, None] = {}
        self._declarations: dict[tuple[str, ...], RunDeclaration] = {}

    def keep(self, step: int, loss: Scalar | None, scalars: Mapping[str, Scalar | None]) -> None:
        """Keep the numbers of a step that was not sampled.

        Called at nearly every step, with cold caches: the less code it runs through, the better.
        """
        if not self._enabled:
            return
        ended = time.perf_counter()
        try:
            if step != self._next_step:
                self.flush()
            optimizers = self._optimizer.optimizers
            rate = optimizers[0].param_groups[0].get("lr") if optimizers else None
            if loss is not None and type(loss) is not float:
                on_device = isinstance(loss, Tensor) and not loss.is_cpu
                loss = self._copied(loss) if on_device else number(loss)
            if rate is not None and type(rate) is not float:
                rate = self._taken(rate)
            more = self._more(scalars) if scalars or rate is None or len(optimizers) > 1 else {}
            if loss is None and rate is None and not more:
                return
            self._next_step = step + 1
            self._rows.append((ended, loss, rate, more))
            self._spent_s += time.perf_counter() - ended
            if ended - self._flushed > FLUSH_S or len(self._rows) >= CAPACITY or self._is_full:
                self.flush()
        except Exception as error:
            self._guard.note(PLACE, error)
            self._enabled = not self._guard.gave_up(PLACE)

    def flush(self) -> None:
        """Hand what is kept to the sender."""
        started = time.perf_counter()
        rows, used = self._rows, self._used
        self._rows, self._used, self._is_full, self._flushed = [], 0, False, started
        if self._forks != forks.count:  # the parent sends these
            self._forks = forks.count
        elif rows:
            epoch = time.time() - started
            ring = host_copy(self._ring) if used and self._ring is not None else None
            content = partial(self._content, rows, epoch, ring)
            self._offer(Sample(self._next_step - 1, epoch + rows[-1][0], content))
        spent_s, self._spent_s = self._spent_s, 0.0
        self._account.add(SCALARS, spent_s + time.perf_counter() - started)

    def _more(self, scalars: Mapping[str, Scalar | None]) -> dict[str, float]:
        """What is given besides the loss, and the learning rates of several optimizers."""
        numbers = {**self._optimizer.learning_rates(), **scalars}
        return {name: self._taken(value) for name, value in numbers.items() if value is not None}

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
        self._is_full = self._used > CAPACITY - SCALAR_SLOTS
        return slot

    def _content(
        self, rows: Sequence[Row], epoch: float, ring: Callable[[], Matrix] | None
    ) -> Content:
        """The declaration and the values of a frame; in the sender's thread."""
        numbers = [
            _given({"loss": loss, "learning_rate": rate, **more}) for _, loss, rate, more in rows
        ]
        for of_step in numbers:
            self._names.update(dict.fromkeys(of_step))
        names = tuple(self._names)
        if names not in self._declarations:
            self._declarations[names] = self._declare(steps_layout(names).validate())
        on_device = ring() if ring is not None else np.empty(0)
        columns = [_column(name, numbers, on_device) for name in names]
        times = [epoch + ended for ended, *_ in rows]
        return self._declarations[names], pack_steps(times, np.stack(columns, axis=1))


def _given(numbers: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if value is not None}


def _column(
    name: str, numbers: Sequence[Mapping[str, float]], on_device: Matrix
) -> NDArray[np.float32]:
    values = [of_step.get(name, NOT_GIVEN) for of_step in numbers]
    on_host = [on_device[value] if type(value) is Slot else value for value in values]
    with np.errstate(over="ignore"):  # beyond float32 a loss is infinite
        return np.array(on_host, dtype=np.float64).astype(np.float32)
