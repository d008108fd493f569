"""W&B's offline runs: what a program logged, and how it named and configured the run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer_agent.importing.column_map import ColumnMap
from trainer_agent.importing.json_files import flattened
from trainer_agent.importing.recording import Recording, RecordingError
from trainer_agent.importing.tables import Row, Table, recording_of_table
from trainer_agent.importing.wandb_records import fields, read_records

# Numbers of fields in W&B's messages (wandb_internal.proto): Record, ...
HISTORY, CONFIG, RUN = 2, 5, 17
# ... HistoryRecord and ConfigRecord, whose items are alike, ...
ITEM = 1
ITEM_KEY, ITEM_NESTED_KEY, ITEM_JSON = 1, 2, 16
HISTORY_STEP, STEP_NUMBER = 2, 1
# ... and RunRecord.
RUN_ID, RUN_PROJECT, RUN_CONFIG, RUN_NAME = 1, 3, 4, 8
# W&B's own count of calls: the step where the program has logged none.
CALL_STEP = "_step"
INTERNAL_CONFIG = "_wandb"


@dataclass(slots=True)
class _Run:
    """What the records tell of a run."""

    project: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[int, Row]] = field(default_factory=list)


def wandb_log(folder: Path) -> Path | None:
    """The log in a run's folder, ``offline-run-*`` or ``run-*``; None where it has none."""
    return next(iter(sorted(folder.glob("run-*.wandb"))), None)


def read_wandb(path: Path, columns: ColumnMap, *, partial: bool = False) -> Recording:
    """The history of a ``run-*.wandb`` file.

    The step is the program's own count where it logs one, such as ``train/global_step``, and
    W&B's count of calls elsewhere. Images, histograms and texts are left out.

    Args:
        path: the file.
        columns: says which series its names belong to.
        partial: whether a last record that is not whole is left out.

    Raises:
        RecordingError: if the file is no W&B log, is damaged or cut off, or holds no history.
    """
    run = _Run()
    for number, record in enumerate(read_records(path, partial=partial), 1):
        try:
            _read_record(record, number, run)
        except ValueError as error:
            raise RecordingError(f"{path}, record {number} is no record of W&B: {error}") from error
    if not run.rows:
        raise RecordingError(f"{path} holds no history: its program logged no numbers")
    return recording_of_table(
        Table(path, run.rows), columns, project=run.project, name=run.name, config=run.config
    )


def _read_record(record: bytes, number: int, run: _Run) -> None:
    for kind, body in fields(record):
        if not isinstance(body, bytes):
            continue
        if kind == HISTORY:
            run.rows.append((number, _history_row(body)))
        elif kind == CONFIG:
            run.config |= _config(body)
        elif kind == RUN:
            _read_run(body, run)


def _read_run(body: bytes, run: _Run) -> None:
    texts: dict[int, str] = {}
    for kind, value in fields(body):
        if kind == RUN_CONFIG and isinstance(value, bytes):
            run.config |= _config(value)
        elif kind in (RUN_ID, RUN_PROJECT, RUN_NAME) and isinstance(value, bytes):
            texts[kind] = value.decode()
    run.project = texts.get(RUN_PROJECT, "")
    run.name = texts.get(RUN_NAME) or texts.get(RUN_ID, "")


def _history_row(body: bytes) -> Row:
    row = _nested(body)
    for kind, value in fields(body):
        if kind == HISTORY_STEP and isinstance(value, bytes):
            row.setdefault(CALL_STEP, dict(fields(value)).get(STEP_NUMBER, 0))
    return dict(flattened(row))


def _config(body: bytes) -> dict[str, Any]:
    return {name: value for name, value in _nested(body).items() if name != INTERNAL_CONFIG}


def _nested(body: bytes) -> dict[str, Any]:
    """The items of a history or a config, as nested objects."""
    entries: dict[str, Any] = {}
    for kind, item in fields(body):
        if kind == ITEM and isinstance(item, bytes):
            path, value = _item(item)
            target = entries
            for key in path[:-1]:
                inner = target.get(key)
                target[key] = target = inner if isinstance(inner, dict) else {}
            if path:
                target[path[-1]] = value
    return entries


def _item(body: bytes) -> tuple[list[str], Any]:
    """Its keys, one a level, and its value."""
    path, value = [], None
    for kind, content in fields(body):
        if isinstance(content, bytes) and kind in (ITEM_KEY, ITEM_NESTED_KEY):
            path.append(content.decode())
        elif isinstance(content, bytes) and kind == ITEM_JSON:
            value = json.loads(content)
    return path, value
