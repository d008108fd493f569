"""The command ``python -m trainer_agent.importing``."""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from trainer_agent.delivery.http_transport import HttpTransport
from trainer_agent.errors import WatchError
from trainer_agent.importing.reading import read_recording
from trainer_agent.importing.recording import ReplayError
from trainer_agent.importing.sending import replay
from trainer_agent.options import DEFAULT_SERVER, require_url


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay one recording; returns the exit code, 2 for what the user has to mend."""
    given = _parser().parse_args(arguments)
    try:
        print(f"evenkeel: {_replay(given)}")
    except (ReplayError, WatchError, OSError) as error:
        print(f"evenkeel: {error}", file=sys.stderr)
        return 2
    return 0


def _replay(given: argparse.Namespace) -> str:
    """Replay what the command line names; returns what was done."""
    server = require_url(given.server)
    recording = read_recording(given.path, given.map)
    transport = HttpTransport(server, given.key)
    with closing(transport):
        page = replay(
            recording,
            transport,
            run_id=given.run_id,
            project=given.project,
            run=given.run or given.path.resolve().stem,
            config={"replayed from": str(given.path)},
        )
    return f"{len(recording.steps)} steps of {len(recording.series)} series at {server}{page}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer_agent.importing",
        description="Send a recording to a server, as a run.",
    )
    add = parser.add_argument
    add("path", type=Path, help="TensorBoard event file or folder, or a .parquet or .csv export")
    server = os.environ.get("EVENKEEL_URL") or DEFAULT_SERVER
    add("--server", default=server, help="default: EVENKEEL_URL, else %(default)s")
    add("--key", default=os.environ.get("EVENKEEL_KEY"), help="default: EVENKEEL_KEY")
    add("--project", default="replay", help="the run's project; default: %(default)s")
    add("--run", help="the run's name; default: the file's")
    add("--run-id", default=uuid.uuid4().hex, help="the run to fill; default: a new one")
    add(
        "--map",
        action="append",
        default=[],
        metavar="TAG=SERIES",
        help="where a tag belongs: 'act/block_{layer}/var=decoder/stream/variance'; repeatable",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
