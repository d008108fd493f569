"""Which kind of recording a path is, and its reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer_agent.importing.column_map import ColumnMap, column_map
from trainer_agent.importing.csv_files import read_csv
from trainer_agent.importing.event_files import event_files, read_event_files
from trainer_agent.importing.exports import read_parquet
from trainer_agent.importing.file_checks import require_content
from trainer_agent.importing.json_files import (
    TRAINER_STATE,
    holds_json_lines,
    read_json,
    read_jsonl,
)
from trainer_agent.importing.recording import Recording, RecordingError
from trainer_agent.importing.wandb_files import read_wandb, wandb_log

KNOWN_FORMATS = (
    "a TensorBoard event file (…tfevents…), a trainer_state.json, a W&B offline run (run-….wandb), "
    "a .csv, .tsv, .jsonl or .json log, a .txt of JSON lines, a .parquet export, or a folder of "
    "one of the first three"
)


def read_recording(
    path: Path,
    mappings: Sequence[str] = (),
    map_file: Path | None = None,
    *,
    partial: bool = False,
) -> Recording:
    """Read a file, or a folder of event files, of a W&B run or of a Trainer.

    Args:
        path: the file or folder.
        mappings: rules of names, see `column_map.parse_rule`.
        map_file: a file of more of them, one a line.
        partial: whether a file that is cut off, as by a killed job, is read as far as it goes.

    Raises:
        RecordingError: saying what is wrong with it and how to mend it.
    """
    columns = column_map(mappings, map_file)
    files = _files_in(path) if path.is_dir() else [path]
    for file in files:
        require_content(file)
    try:
        return _read(files, columns, partial=partial)
    except RecursionError as error:
        raise RecordingError(f"{files[0]} nests its values too deeply for a log") from error


def _read(files: Sequence[Path], columns: ColumnMap, *, partial: bool) -> Recording:
    path = files[0]
    if "tfevents" in path.name:
        return read_event_files(files, columns, partial=partial)
    suffix = path.suffix.lower()
    if suffix in {".txt", ".log"} and holds_json_lines(path):
        suffix = ".jsonl"
    match suffix:
        case ".wandb":
            return read_wandb(path, columns, partial=partial)
        case ".csv" | ".tsv":
            return read_csv(path, columns, partial=partial)
        case ".jsonl" | ".ndjson":
            return read_jsonl(path, columns, partial=partial)
        case ".json":
            return read_json(path, columns)
        case ".parquet":
            return read_parquet(path)
    raise RecordingError(f"{path} is none of what can be imported: {KNOWN_FORMATS}")


def _files_in(folder: Path) -> list[Path]:
    """The files of the one run that a folder holds."""
    logs = event_files(folder)
    wandb = wandb_log(folder)
    state = _trainer_state_in(folder)
    candidates = [*logs[:1], *filter(None, (wandb, state))]
    if len(candidates) > 1:
        names = " and ".join(str(path.relative_to(folder)) for path in candidates)
        raise RecordingError(f"{folder} holds {names}; name the file to import")
    if candidates:
        return logs or candidates
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir() and _has_run(path))
    hint = f"; import one of its folders: {', '.join(inner[:8])}" if inner else ""
    raise RecordingError(f"{folder} holds none of what can be imported from a folder{hint}")


def _has_run(folder: Path) -> bool:
    return bool(event_files(folder) or wandb_log(folder) or _trainer_state_in(folder))


def _trainer_state_in(folder: Path) -> Path | None:
    """The state in a folder of transformers' Trainer: the newest checkpoint's knows all before."""
    state = folder / TRAINER_STATE
    if state.is_file():
        return state
    states = folder.glob(f"checkpoint-*/{TRAINER_STATE}")
    return max(states, key=_checkpoint_step, default=None)


def _checkpoint_step(state: Path) -> int:
    number = state.parent.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1
