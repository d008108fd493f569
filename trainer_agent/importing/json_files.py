"""JSON and JSONL files: logs of any program, and the ``trainer_state.json`` of transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer_agent.importing.column_map import ColumnMap
from trainer_agent.importing.file_checks import cut_off
from trainer_agent.importing.recording import Recording, RecordingError
from trainer_agent.importing.tables import Row, Table, recording_of_table

# The Trainer's summary of a whole training, in its last entry: none is a number of that step.
SUMMARY = re.compile(
    r"train_(loss|runtime|samples_per_second|steps_per_second|tokens.*)|total_flos"
)
TRAINER_STATE = "trainer_state.json"


def read_jsonl(path: Path, columns: ColumnMap, *, partial: bool = False) -> Recording:
    """A file of one JSON object a line.

    Args:
        path: the file.
        columns: says which series its names belong to; those of nested objects are joined by "/".
        partial: whether a last line that is no whole object is left out.

    Raises:
        RecordingError: if a line is no object, the file is cut off, or it holds no steps.
    """
    # Split at "\n" alone: JSON texts may hold the other ends of lines that splitlines knows.
    lines = [(n, line) for n, line in enumerate(_text(path).split("\n"), 1) if line.strip()]
    rows: list[tuple[int, Row]] = []
    for number, line in lines:
        try:
            entry = json.loads(line)
        except ValueError as error:
            if number != lines[-1][0]:
                raise RecordingError(
                    f"{path}, line {number} is no JSON: {error}; mend that line"
                ) from error
            if not partial:
                raise cut_off(path, f"in line {number}, or it is no JSONL") from error
            continue
        if not isinstance(entry, dict):
            raise RecordingError(f"{path}, line {number} is no JSON object of names and numbers")
        rows.append((number, dict(flattened(entry))))
    return recording_of_table(Table(path, rows), columns)


def holds_json_lines(path: Path) -> bool:
    """Whether the first line of a text file is a JSON object: the log.txt of many a vision code."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return isinstance(json.loads(file.readline()), dict)
    except (ValueError, RecursionError):  # no UTF-8, or no JSON
        return False


def read_json(path: Path, columns: ColumnMap) -> Recording:
    """A ``trainer_state.json``, or a JSON array of objects.

    Raises:
        RecordingError: if it is neither, is cut off, or holds no steps.
    """
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise RecordingError(f"{path} is no whole JSON: {error}; copy it again") from error
    if isinstance(content, dict) and isinstance(content.get("log_history"), list):
        return _trainer_state(path, content["log_history"], columns)
    if not isinstance(content, list):
        raise RecordingError(
            f"{path} is neither a trainer_state.json of transformers, with a log_history, nor a "
            "JSON array of objects; write other logs as one JSON object a line, in a .jsonl file"
        )
    return recording_of_table(_table(path, content), columns)


def _trainer_state(path: Path, entries: list[Any], columns: ColumnMap) -> Recording:
    table = _table(path, entries)
    table.rows = [
        (number, {name: cell for name, cell in row.items() if not SUMMARY.fullmatch(name)})
        for number, row in table.rows
    ]
    if not table.rows:
        raise RecordingError(
            f"{path} has an empty log_history: the Trainer had logged nothing by then; "
            "take the file of a later checkpoint"
        )
    # Of a checkpoint the run is the folder that holds it.
    folder = path.resolve().parent
    name = folder.parent.name if folder.name.startswith("checkpoint-") else folder.name
    return recording_of_table(table, columns, name=name)


def _table(path: Path, entries: list[Any]) -> Table:
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise RecordingError(f"{path}, entry {number} is no JSON object of names and numbers")
    return Table(
        path, [(number, dict(flattened(entry))) for number, entry in enumerate(entries, 1)]
    )


def flattened(entry: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested objects, their names joined by "/"; less W&B's histograms and media."""
    for name, value in entry.items():
        if not isinstance(value, dict):
            yield prefix + name, value
        elif "_type" not in value:
            yield from flattened(value, f"{prefix}{name}/")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordingError(f"{path} is no text in UTF-8: {error}") from error
