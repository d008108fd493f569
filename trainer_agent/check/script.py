"""Runs a training script as ``python`` would, in this process."""

from __future__ import annotations

import runpy
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

OURS = Path(__file__).resolve().parents[1]


class EnoughSteps(SystemExit):
    """Ends the script: its two steps are over. Frameworks let a `SystemExit` pass."""


@dataclass(frozen=True, slots=True)
class Script:
    """A file, or a module by its dotted name, and its arguments."""

    name: str
    arguments: Sequence[str] = ()
    is_module: bool = False

    def run(self) -> BaseException | None:
        """Run it to its end; returns what it raised, or None."""
        try:
            with self._as_main():
                if self.is_module:
                    runpy.run_module(self.name, run_name="__main__", alter_sys=True)
                else:
                    runpy.run_path(self.name, run_name="__main__")
        except BaseException as error:
            return error
        return None

    @contextmanager
    def _as_main(self) -> Iterator[None]:
        argv, path = sys.argv, list(sys.path)
        sys.argv = [self.name, *self.arguments]
        # Where Python looks first: beside a file, or where a module is run from.
        sys.path[0] = str(Path.cwd() if self.is_module else Path(self.name).resolve().parent)
        try:
            yield
        finally:
            sys.argv, sys.path[:] = argv, path


def is_users(filename: str) -> bool:
    """Whether a file of code is neither installed nor Python's own."""
    path = Path(filename)
    is_installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    others = OURS, Path(sysconfig.get_path("stdlib"))
    return path.is_file() and not is_installed and not any(map(path.is_relative_to, others))


def print_error(error: BaseException) -> None:
    """Print a script's error as Python would have, without the frames of this package."""
    for each in _chain(error):
        each.__traceback__ = _below_runpy(each.__traceback__)
    traceback.print_exception(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _below_runpy(trace: TracebackType | None) -> TracebackType | None:
    machinery = (str(OURS), runpy.__file__, "<frozen runpy>")
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(machinery):
        trace = trace.tb_next
    return trace
