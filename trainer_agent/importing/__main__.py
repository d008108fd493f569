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
from trainer_agent.importing.formats import KNOWN_FORMATS, read_recording
from trainer_agent.importing.recording import Recording, RecordingError
from trainer_agent.importing.sending import send_recording
from trainer_agent.options import DEFAULT_SERVER, require_url

DEFAULT_PROJECT = "replay"
EPILOG = """\
names:
  loss, lr, grad_norm and their like become the run's loss, learning rate and gradient norm; other
  names stay numbers of their own. --map and the lines of a --map-file say otherwise:
    train/nll = loss                                        a number of the whole run
    act/block_{layer}/var = decoder/stream/variance         a series over depth
    grad_var = decoder/stream_gradient/variance             likewise, of lists in JSON
    my_counter = step                                       which name is the step
    when = time                                             seconds since 1970, or dates
    debug/scratch = -                                       left out
  In a map file, empty lines and those that begin with # are comments.

examples:
  python -m trainer_agent.importing out/checkpoint-500/trainer_state.json --project old
  python -m trainer_agent.importing wandb/offline-run-20250131_120000-ab12cd34
  python -m trainer_agent.importing log.csv --map iteration=step --map-file names.map --dry-run
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Import one recording; returns the exit code, 2 for what the user has to mend."""
    options = _parser().parse_args(arguments)
    try:
        recording = read_recording(
            options.path, options.map, options.map_file, partial=options.partial
        )
        for remark in recording.remarks:  # not on stdout, which a script may read
            print(f"evenkeel: {remark}", file=sys.stderr)
        print(_listed(recording) if options.dry_run else f"evenkeel: {_send(recording, options)}")
    except (RecordingError, WatchError, OSError) as error:
        print(f"evenkeel: {error}", file=sys.stderr)
        return 2
    return 0


def _send(recording: Recording, options: argparse.Namespace) -> str:
    """Send a recording as the command line says; returns what was done."""
    server = require_url(options.server)
    transport = HttpTransport(server, options.key)
    with closing(transport):
        page = send_recording(
            recording,
            transport,
            run_id=options.run_id,
            project=options.project or recording.project or DEFAULT_PROJECT,
            run=options.run or recording.name or options.path.resolve().stem,
            config={**recording.config, "replayed from": str(options.path)},
        )
    return f"{len(recording.steps)} steps of {len(recording.series)} series at {server}{page}"


def _listed(recording: Recording) -> str:
    """The series of a recording, for who writes a map."""
    steps = f"{len(recording.steps)} steps, {recording.steps[0]} to {recording.steps[-1]}"
    return "\n".join([steps, *(f"{key.key} ({key.n})" for key in recording.series)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer_agent.importing",
        description="Send a recording to a server, as a run that has finished.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("path", type=Path, help=KNOWN_FORMATS)
    server = os.environ.get("EVENKEEL_URL") or DEFAULT_SERVER
    add("--server", default=server, help="default: EVENKEEL_URL, else %(default)s")
    add("--key", default=os.environ.get("EVENKEEL_KEY"), help="default: EVENKEEL_KEY")
    add("--project", help=f"the run's project; default: the file's, else {DEFAULT_PROJECT}")
    add("--run", help="the run's name; default: what the file says, else its own name")
    add("--run-id", default=uuid.uuid4().hex, help="the run to fill; default: a new one")
    add(
        "--map",
        action="append",
        default=[],
        metavar="NAME=TARGET",
        help="where a name belongs, see below; repeatable, and goes before the map file",
    )
    add("--map-file", type=Path, metavar="FILE", help="a file of such mappings, one a line")
    add("--partial", action="store_true", help="read a file that is cut off as far as it goes")
    add("--dry-run", action="store_true", help="list the series, and send nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
