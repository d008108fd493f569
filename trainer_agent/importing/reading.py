"""Which kind of recording a path is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer_agent.importing.event_files import read_event_files
from trainer_agent.importing.exports import read_csv, read_parquet
from trainer_agent.importing.naming import rule
from trainer_agent.importing.recording import Recording, ReplayError


def read_recording(path: Path, mappings: Sequence[str] = ()) -> Recording:
    """Read a file, or a folder of event files.

    Args:
        path: an event file, a folder of them, or a Parquet or CSV export.
        mappings: see `naming.rule`; for event files.

    Raises:
        ReplayError: saying what is wrong with it.
    """
    rules = [rule(one) for one in mappings]
    if not path.exists():
        raise ReplayError(f"there is no {path}")
    if path.suffix in (".parquet", ".csv"):
        if rules:
            raise ReplayError("--map is for event files; an export has its series' names")
        return read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
    found = sorted(path.glob("*tfevents*")) if path.is_dir() else [path]
    if not found or not all("tfevents" in one.name for one in found):
        raise ReplayError(
            f"{path} is neither an event file (…tfevents…), a folder of them, "
            "nor a .parquet or .csv export"
        )
    return read_event_files(found, rules)
