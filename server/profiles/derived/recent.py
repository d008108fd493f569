"""One block ahead of a run's last samples, computed for those alone that have come since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from dslm.ahead import QUANTITIES, Ahead, predict_ahead
from server.profiles.derived.compute import touched_blocks
from server.profiles.derived.model_facts import ModelFacts
from server.profiles.derived.names import raw_key
from server.storage.downsample import Steps
from server.storage.measurements import Measured
from wire import is_absent

CACHED = 32  # runs
AheadByStack = dict[str, dict[str, Ahead]]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Computed:
    """What was computed of a run: its samples, the rows of them, and the answer for those rows."""

    measured: Measured
    rows: Rows
    facts: ModelFacts
    ahead: AheadByStack


_cache: OrderedDict[str, _Computed] = OrderedDict()
_lock = Lock()


def recent_ahead(
    run_id: str, stacks: Sequence[str], measured: Measured, rows: Rows, facts: ModelFacts
) -> AheadByStack:
    """Every quantity of every stack at `rows` of what was measured; may run in any thread.

    A row depends on the samples before it and on the next one, so that those of an earlier answer
    hold, but for the last, as long as its samples are the same.
    """
    with _lock:
        before = _cache.get(run_id)
    n_reused = 0 if before is None else _still_hold(before, measured, rows, facts)
    ahead = {stack: _ahead(stack, measured, rows[n_reused:], facts) for stack in stacks}
    if before is not None and n_reused:
        first = int(np.searchsorted(_steps(before), measured.steps[rows[0]]))
        ahead = {
            stack: {
                name: _joined(before.ahead[stack][name], first, n_reused, after)
                for name, after in of_stack.items()
            }
            for stack, of_stack in ahead.items()
        }
    if before is not None and measured.steps[-1] < before.measured.steps[-1]:
        return ahead  # somebody looks at the past: the newest samples are asked for again and again
    with _lock:
        _cache[run_id] = _Computed(measured, rows, facts, ahead)
        _cache.move_to_end(run_id)
        while len(_cache) > CACHED:
            _cache.popitem(last=False)
    return ahead


def _ahead(stack: str, measured: Measured, rows: Rows, facts: ModelFacts) -> dict[str, Ahead]:
    ahead = {}
    for name, quantity in QUANTITIES.items():
        key = raw_key(stack, quantity)
        if key in measured.series:
            values = measured.series[key].astype(np.float64)
            of_run = predict_ahead(name, values, rows, theory=facts.curve(key, values))
            # A layer that a step did not measure is no layer that is not finite.
            absent = touched_blocks(is_absent(measured.series[key][rows]), of_run.samples.shape[1])
            ahead[name] = replace(of_run, lasting=of_run.lasting & ~absent)
    return ahead


def _steps(computed: _Computed) -> Steps:
    return computed.measured.steps[computed.rows]


def _still_hold(before: _Computed, measured: Measured, rows: Rows, facts: ModelFacts) -> int:
    """How many of the first rows have been computed from the same samples."""
    old, new = before.measured, measured
    # Samples that both have: the later ones of the old, the first of the new.
    start = int(np.searchsorted(old.steps, new.steps[0]))
    n = len(old.steps) - start
    if facts is not before.facts or n < 1 or n > len(new.steps):
        return 0
    alike = np.array_equal(old.steps[start:], new.steps[:n])
    if not alike or old.series.keys() != new.series.keys() or rows[0] < before.rows[0] - start:
        return 0
    if not all(_equal(old.series[key][start:], new.series[key][:n]) for key in old.series):
        return 0
    # The last one's departure waited for the next sample.
    return max(int(np.count_nonzero(rows < n)) - 1, 0)


def _equal(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _joined(before: Ahead, first: int, n_reused: int, after: Ahead) -> Ahead:
    parts: Mapping[str, NDArray[np.float64]] = {
        each.name: np.concatenate(
            [getattr(before, each.name)[first : first + n_reused], getattr(after, each.name)]
        )
        for each in fields(Ahead)
    }
    return Ahead(**parts)  # type: ignore[arg-type]
