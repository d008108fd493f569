"""Rows of named cells, from any program: which hold the step, the time and the numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer_agent.importing.column_map import NOTHING, STEP, TIME, ColumnMap
from trainer_agent.importing.points import Point, recording_of
from trainer_agent.importing.recording import Recording, RecordingError

# What programs call the number of the optimizer step, first choice first. W&B counts calls of its
# own in "_step", so that a program's own count comes first.
STEP_NAMES = (
    "train/global_step",
    "trainer/global_step",
    "global_step",
    "step",
    "_step",
    "steps",
    "iteration",
    "iterations",
    "iter",
    "num_updates",
)
TIME_NAMES = ("_timestamp", "timestamp", "wall_time", "wall time", "datetime", "date", "time")
# W&B's own columns, which are no numbers of the training.
BOOKKEEPING = frozenset({"_step", "_runtime", "_timestamp"})
ABSENT = frozenset({"", "-", "none", "null", "na", "n/a"})
# A smaller number in a column called "time" is a duration and no date.
FIRST_DATE_S = 1e8
MAX_STEP = 2**53  # the last integer before which none is missing in a float64, as JSON has it
MAX_LIST = 4096  # a longer list is a picture or a sample, and no value a layer

Row = Mapping[str, Any]


@dataclass(slots=True)
class Table:
    """The rows of one file.

    Attributes:
        path: the file.
        rows: cells by column, each with the number of the line or record that held them.
        remarks: what the reader left out.
    """

    path: Path
    rows: list[tuple[int, Row]]
    remarks: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The columns, in the order in which they first appear."""
        return list(dict.fromkeys(name for _, row in self.rows for name in row))


def recording_of_table(table: Table, columns: ColumnMap, **details: Any) -> Recording:
    """A table as a recording.

    Args:
        table: its cells are numbers, texts, lists of numbers (a value a layer) or None.
        columns: says which series its columns belong to, and which of them is the step.
        details: further fields of the `Recording`.

    Raises:
        RecordingError: saying what is wrong with the table, and how to mend it.
    """
    if not table.rows:
        raise RecordingError(f"{table.path} holds no entries; import it once its program logs some")
    names = table.names
    step_name = _step_name(table, columns)
    time_name = _time_name(table, columns)
    remarks = [*table.remarks, *(f"no name fits {rule!r}" for rule in columns.unused(names))]
    without_step = sum(_is_absent(row.get(step_name)) for _, row in table.rows)
    if without_step:
        remarks.append(f"left out {without_step} entries without {step_name!r}")
    texts: Counter[str] = Counter()
    points = list(_points(table, step_name, time_name, columns, texts))
    _require_numbers(table, points, texts)
    if texts:
        remarks.append(f"left out as no numbers: {', '.join(sorted(texts))}")
    return recording_of(table.path, points, columns, remarks=tuple(remarks), **details)


def _step_name(table: Table, columns: ColumnMap) -> str:
    names = table.names
    mapped = columns.named(STEP, names)
    if len(mapped) > 1:
        raise RecordingError(f"{mapped[0]!r} and {mapped[1]!r} are both mapped to the step")
    # A name that a rule maps elsewhere is no step, whatever it is called.
    by_lower = {name.lower(): name for name in names if columns.target(name) is None}
    candidates = mapped or [by_lower[name] for name in STEP_NAMES if name in by_lower]
    if not candidates:
        shown = ", ".join(map(repr, names[:8])) + (", …" if len(names) > 8 else "")
        raise RecordingError(
            f"{table.path} names no step; {_step_hint(table)} (it has {shown or 'none'})"
        )
    return candidates[0]


def _step_hint(table: Table) -> str:
    """The first column whose cells could be steps, as a rule; without one, what is missing."""
    for name in table.names:
        cells = [_value(row[name]) for _, row in table.rows if not _is_absent(row.get(name))]
        numbers = [cell for cell in cells if isinstance(cell, float) and cell.is_integer()]
        rise = numbers == sorted(set(numbers))
        if numbers and len(numbers) == len(cells) and numbers[0] >= 0 and rise:
            return f"say which of its names is the step, as in --map '{name}=step'"
    return "none of its columns holds whole numbers that rise from row to row"


def _time_name(table: Table, columns: ColumnMap) -> str | None:
    """The column of dates; one that is called so and holds other numbers is an ordinary one."""
    mapped = columns.named(TIME, table.names)
    by_lower = {name.lower(): name for name in table.names if columns.target(name) is None}
    for name in mapped or [by_lower[name] for name in TIME_NAMES if name in by_lower]:
        cells = [(line, row[name]) for line, row in table.rows if not _is_absent(row.get(name))]
        bad = next(((line, cell) for line, cell in cells if math.isnan(_date_s(cell))), None)
        if bad is None:
            return name
        if mapped:
            raise RecordingError(
                f"{table.path}, line {bad[0]}: {bad[1]!r} in {name!r} is no time; give seconds "
                "since 1970 or a date as 2025-01-31T12:00:00"
            )
    return None


def _points(
    table: Table, step_name: str, time_name: str | None, columns: ColumnMap, texts: Counter[str]
) -> Iterator[Point]:
    """The numbers of a table; counts in `texts` the cells that are none, by column."""
    measured = [name for name in table.names if _is_measured(name, columns)]
    measured = [name for name in measured if name not in (step_name, time_name)]
    for line, row in table.rows:
        if _is_absent(row.get(step_name)):
            continue  # a summary at the end of a log has none
        step = _step(table.path, line, step_name, row[step_name])
        time = math.nan if time_name is None else _date_s(row.get(time_name))
        for name in measured:
            value = _value(row.get(name))
            if value is not None:
                yield Point(name, step, time, value)
            elif not _is_absent(row.get(name)):
                texts[name] += 1


def _is_measured(name: str, columns: ColumnMap) -> bool:
    target = columns.target(name)
    return name not in BOOKKEEPING if target is None else target not in (STEP, TIME, NOTHING)


def _require_numbers(table: Table, points: Iterable[Point], texts: Mapping[str, int]) -> None:
    """Raise where a column has numbers and texts: then a text is a mistake, or a number is."""
    mixed = texts.keys() & {point.name for point in points}
    for line, row in table.rows if mixed else ():
        for name in mixed & row.keys():
            if not _is_absent(row[name]) and _value(row[name]) is None:
                raise RecordingError(
                    f"{table.path}, line {line}: {row[name]!r} in {name!r} is no number; "
                    f"mend it, or leave the column out with --map '{name}=-'"
                )


def _is_absent(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in ABSENT)


def _step(path: Path, line: int, name: str, cell: Any) -> int:
    value = _value(cell)
    if not (isinstance(value, float) and value.is_integer() and abs(value) <= MAX_STEP):
        raise RecordingError(
            f"{path}, line {line}: {cell!r} in {name!r} is no step; steps are whole numbers"
        )
    return int(value)


def _value(cell: Any) -> float | list[float] | None:
    """A number, the numbers of a list, or None."""
    if isinstance(cell, list):
        values = [_value(item) for item in cell[: MAX_LIST + 1]]
        numbers = [value for value in values if isinstance(value, float)]
        return numbers if 0 < len(numbers) == len(cell) <= MAX_LIST else None
    if not isinstance(cell, str | int | float):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


def _date_s(cell: Any) -> float:
    """Seconds since the epoch, NaN where the cell is no date."""
    value = _value(cell)
    if isinstance(value, float):
        seconds = value / 1000 if value > FIRST_DATE_S * 1000 else value
        return seconds if FIRST_DATE_S <= seconds <= FIRST_DATE_S * 1000 else math.nan
    try:
        date = datetime.fromisoformat(str(cell).strip())
    except ValueError:
        return math.nan
    # Without a time zone it may be any: UTC keeps the distances between the steps right.
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
