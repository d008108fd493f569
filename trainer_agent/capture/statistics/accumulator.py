"""The device buffer that a sampled step fills, and its one copy to the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trainer_agent.capture.statistics import columns
from trainer_agent.capture.statistics.extra import SAMPLED_TOKENS
from trainer_agent.capture.statistics.moments import MomentRow
from trainer_agent.capture.statistics.precision import SignificandSamples
from trainer_agent.capture.statistics.sums import MAXIMA, Matrix, Sums, unpack
from trainer_agent.capture.statistics.tensor_sums import TensorSums
from trainer_agent.model.plan import Plan, RowsKept
from wire import ABSENT

Scalar = float | Tensor
NOT_GIVEN = float(ABSENT)
SCALAR_SLOTS = 64
SCALE_SLOT = SCALAR_SLOTS - 1  # the loss scale, which is no series of its own here


class Accumulator:
    """One flat buffer on the model's device, and views into it.

    Attributes:
        device: where it lives.
        on_cpu: whether that is the host.
        steps: how many steps it has held and passed on.
        wide: its type, float64 where the device has it.
    """

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.device = device
        self.wide = torch.float32 if device.type == "mps" else torch.float64
        self.on_cpu = device.type == "cpu"
        self.steps = 0
        self._shapes = _shapes(plan)
        size = sum(math.prod(shape) for shape in self._shapes.values())
        self._flat = torch.zeros(size, dtype=self.wide, device=device)
        self._views = views = _views(self._flat, self._shapes)
        self._moments, self._extra = views["moments"], views["extra"]
        self._logits, self._heads = views["logits"], views["heads"]
        self._parameters, self._log_z = views["parameters"], views["log_z"]
        self._grams, self._scalars = views["grams"], views["scalars"]
        self._n_heads = plan.heads
        self._logit_max, self._extra_max, self._head_max = (views[name] for name in MAXIMA)
        for maxima in (self._logit_max, self._head_max):
            maxima.fill_(float("-inf"))
        self._empty = self._flat.clone()
        # On the host numpy copies with a fraction of the code that a call of torch runs through.
        self._arrays = (self._flat.numpy(), self._empty.numpy()) if self.on_cpu else None
        self._host_rows: list[tuple[int, tuple[float, ...]]] = []
        self._significands = SignificandSamples()

    def add(self, row: int | Tensor, sums: MomentRow) -> None:
        """Add a row of `moment_row`; one that is on the host already is added up later.

        Here and below `row` is a number, or a tensor (1,) that holds it.
        """
        if isinstance(sums, tuple):
            assert isinstance(row, int)
            self._host_rows.append((row, sums))
        elif isinstance(row, int):
            self._moments[row].add_(sums.to(self.device, non_blocking=True))
        else:
            self._moments.index_add_(0, row, sums.to(self._flat).unsqueeze(0))

    def add_extra(self, row: int | Tensor, sums: Tensor, largest: Tensor) -> None:
        """Add a row of `extra_sums`, and note the largest value."""
        if isinstance(row, int):
            self._extra[row].add_(sums.to(self._flat))
            maximum = self._extra_max[row]
            torch.maximum(maximum, largest.to(self._flat), out=maximum)
        else:
            self._extra.index_add_(0, row, sums.to(self._flat).unsqueeze(0))
            largest = torch.maximum(self._extra_max[row], largest.to(self._flat))
            self._extra_max.index_copy_(0, row, largest)

    def add_significands(self, row: int, x: Tensor) -> None:
        """Have the bits that a tensor's values use counted with the step's end."""
        self._significands.add(row, x)

    def subtract(self, row: int, sums: TensorSums) -> None:
        """Take back what `add` and `add_extra` have added; a largest value stays."""
        moments = sums.moments
        self.add(row, tuple(-x for x in moments) if isinstance(moments, tuple) else -moments)
        if sums.extra is not None:
            self._extra[row].sub_(sums.extra[0].to(self._flat))

    def set_gram(self, row: int | Tensor, gram: Tensor) -> None:
        """Put a `token_gram` in place of the last one."""
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
            sums: (layers, 5), or (layers * heads, 5) where heads are measured one by one.
            largest: (layers,), or (layers * heads,).
        """
        first, n = rows[0], len(rows)
        per_layer = len(sums) // n
        if list(rows) != list(range(first, first + n)):
            for layer, row in enumerate(rows):
                part = slice(layer * per_layer, (layer + 1) * per_layer)
                self.add_logits([row], sums[part], largest[part])
            return
        # A slice, not an index: an index made on the host would have to wait for the device.
        if per_layer == self._n_heads:
            heads = slice(first * per_layer, (first + n) * per_layer)
            self._heads[heads].add_(sums.to(self._flat))
            maxima = self._head_max[heads]
            torch.maximum(maxima, largest.to(self._flat), out=maxima)
            sums = sums.view(n, per_layer, -1).sum(1)
            largest = largest.view(n, per_layer).amax(1)
        self._logits[first : first + n].add_(sums.to(self._flat))
        maxima = self._logit_max[first : first + n]
        torch.maximum(maxima, largest.to(self._flat), out=maxima)

    def add_log_z(self, sums: Tensor) -> None:
        """Add what `log_z_sums` gives."""
        self._log_z[0].add_(sums.to(self._flat))

    def add_parameters(self, at: int | slice, rows: Tensor, values: Tensor) -> None:
        """Add each of the values, (n,) or (n, columns), to a column or columns of its row."""
        self._parameters[:, at].index_add_(0, rows, values.to(self._flat))

    def scalar(self, slot: int, value: float | Tensor | None) -> float | None:
        """Take a number along without waiting; None where it will lie among `Sums.scalars`."""
        if isinstance(value, Tensor):
            if value.device.type == "cpu":
                return number(value)
            if value.numel() == 1 and slot < SCALAR_SLOTS:
                self._scalars[slot].copy_(value.detach().reshape(()), non_blocking=True)
                return None
        return NOT_GIVEN if value is None else number(value)

    def adopt(self, other: Accumulator, rows: RowsKept) -> None:
        """Take over what another one holds, on the same device, in the rows that it has here."""
        self._host_rows = [
            (rows.moments[row], sums) for row, sums in other._host_rows if row in rows.moments
        ]
        self._significands.adopt(other._significands, rows.moments)
        for names, moved in (
            (("moments", "precision", "extra", "extra_max", "grams"), rows.moments),
            (("logits", "logit_max"), rows.logits),
            (("parameters",), rows.parameters),
        ):
            before, after = list(moved.keys()), list(moved.values())
            for name in names:
                source, target = other._views[name], self._views[name]
                if len(source) and len(target):
                    target[after] = source[before]
        self._scalars.copy_(other._scalars)
        self._log_z.copy_(other._log_z)

    def clear(self) -> None:
        """Start the next step."""
        self._host_rows = []
        self._significands.clear()
        if self._arrays is None:
            self._flat.copy_(self._empty)
        else:
            buffer, empty = self._arrays
            buffer[:] = empty

    def take(self) -> Callable[[], Sums]:
        """Copy the buffer without waiting and clear it; the result waits, in any thread."""
        self._significands.count_into(self._views["precision"])
        copy = host_copy(self._flat) if self._arrays is None else self._arrays[0].copy()
        shapes, host_rows = self._shapes, self._host_rows
        self.steps += 1
        self.clear()
        return lambda: unpack(copy() if callable(copy) else copy, shapes, host_rows)


def number(value: object) -> float:
    """The value as it is now: a tensor may be written to later. Absent where it is no number."""
    try:
        # A value that has a gradient is read without torch's warning.
        return float(value.item() if isinstance(value, Tensor) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return NOT_GIVEN


def _shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    heads, costly = plan.logit_rows * plan.heads, plan.requested.costly
    extra_rows = plan.rows if costly else 0
    gram_rows = extra_rows if costly & set(columns.RANK_COLUMNS) else 0
    return {
        "moments": (plan.rows, columns.COLUMNS),
        "precision": (plan.rows, columns.PRECISION_COLUMNS),
        "logits": (plan.logit_rows, columns.LOGIT_COLUMNS),
        "logit_max": (plan.logit_rows,),
        "scalars": (SCALAR_SLOTS,),
        "extra": (extra_rows, columns.EXTRA_COLUMNS),
        "extra_max": (extra_rows,),
        "heads": (heads, columns.LOGIT_COLUMNS),
        "head_max": (heads,),
        "parameters": (plan.parameter_rows, columns.PARAMETER_COLUMNS),
        "log_z": (len(plan.log_z_places), columns.LOG_Z_COLUMNS),
        "grams": (gram_rows, SAMPLED_TOKENS, SAMPLED_TOKENS),
    }


def _views(flat: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    parts = torch.split(flat, [math.prod(shape) for shape in shapes.values()])
    return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def host_copy(flat: Tensor) -> Callable[[], Matrix]:
    """A copy on its way to the host; what is returned waits for it."""
    if flat.device.type != "cuda":
        host = flat.to("cpu", copy=True)
        return lambda: host.double().numpy()
    # Pinned, or the copy would not be asynchronous. The stream keeps it from the step that comes.
    host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
    host.copy_(flat, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(flat.device))

    def wait() -> Matrix:
        copied.synchronize()
        return host.double().numpy()

    return wait
