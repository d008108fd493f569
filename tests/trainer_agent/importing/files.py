"""Files as other programs write them, and what is read from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer_agent.importing import Recording
from wire import is_absent

Scalars = Mapping[str, Mapping[int, float]]


def event_file(folder: Path, scalars: Scalars, *, began: float = 1000.0) -> Path:
    """An event file that TensorBoard wrote, with these scalars: tag -> step -> value."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    for tag, values in scalars.items():
        for step, value in values.items():
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(step=step, wall_time=began + step, summary=summary))
    writer.close()
    (path,) = folder.glob("*tfevents*")
    return path


def jsonl(path: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    """A file of one JSON object a line."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def trainer_state(path: Path, log_history: Sequence[Mapping[str, Any]]) -> Path:
    """A state as transformers' Trainer saves it in a checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"epoch": 1.0, "global_step": 20, "log_history": log_history, "max_steps": 20}
    path.write_text(json.dumps(state, indent=2))
    return path


def series(recording: Recording) -> dict[str, list[list[float]]]:
    """The values of a recording, by key."""
    return {key.key: values.tolist() for key, values in recording.series.items()}


def absent(recording: Recording) -> dict[str, list[list[bool]]]:
    """Which values of a recording its steps do not have, by key."""
    return {key.key: is_absent(values).tolist() for key, values in recording.series.items()}
