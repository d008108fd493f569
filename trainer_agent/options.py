"""What `watch` was asked to do, checked before anything is touched."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer_agent.errors import WatchError
from trainer_agent.model.sites import GROUPS, QUANTITIES, SITES

DEFAULT_SERVER = "http://127.0.0.1:8321"
DEFAULT_OVERHEAD = 0.01
_YES, _NO = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}
SPOOL_LIMIT_BYTES = 64 * 1024 * 1024
# Numbers of the stages in this process, and how many there are; as a caller passes it, and checked.
PipelineArgument = tuple[int | Sequence[int], int]
Pipeline = tuple[tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class Options:
    """The checked arguments of `watch`.

    Attributes:
        every: fixed sampling interval in optimizer steps, or None where a budget decides.
        overhead: share of the job's time the agent may take.
        spool_limit_bytes: bound of what waits on disk while the server is away.
        run_id: the run to go on with, or None for a new one.
        pipeline: which stages of how many the model's chunks are, or None where it is whole.
        sites, quantities: measured beyond the default.
        on_alert: what to do about alerts, checked by `read_actions`.
        token_axis: axis of the streams that counts a sequence's tokens, None to find out.
        take_over: whether to send though another process holds this rank of the run.
    """

    project: str
    run: str
    server: str
    key: str | None
    every: int | None
    overhead: float
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    spool_dir: Path
    spool_limit_bytes: int
    rank: int
    run_id: str | None = None
    pipeline: Pipeline | None = None
    sites: tuple[str, ...] = ()
    quantities: tuple[str, ...] = ()
    on_alert: tuple[Any, ...] = ()
    token_axis: int | None = None
    take_over: bool = False


def read_options(
    *,
    project: str,
    run: str,
    server: str | None,
    key: str | None,
    every: int | None,
    tags: Sequence[str],
    config: Mapping[str, Any] | None,
    spool_dir: str | os.PathLike[str] | None,
    spool_limit_bytes: int,
    rank: int,
    resume: str | None = None,
    overhead: float | None = None,
    pipeline: PipelineArgument | None = None,
    sites: Sequence[str] | str = (),
    quantities: Sequence[str] | str = (),
    token_axis: int | None = None,
    take_over: bool | None = None,
) -> Options:
    """Check every argument.

    What is absent is read from ``EVENKEEL_URL``, ``EVENKEEL_KEY``, ``EVENKEEL_RUN_ID`` and
    ``EVENKEEL_TAKE_OVER``.

    Raises:
        WatchError: naming the argument and the fix.
    """
    return Options(
        project=_require_name("project", project),
        run=_require_name("run", run),
        server=require_url(server or os.environ.get("EVENKEEL_URL") or DEFAULT_SERVER),
        key=key or os.environ.get("EVENKEEL_KEY") or None,
        every=None if every is None else _require_at_least("every", every, 1),
        overhead=_require_share(overhead, every),
        tags=_require_tags(tags),
        config=_require_json(config or {}),
        spool_dir=_require_folder(spool_dir),
        spool_limit_bytes=_require_at_least("spool_limit_bytes", spool_limit_bytes, 65_536),
        rank=_require_at_least("rank", rank, 0),
        run_id=_run_id(resume, project, run),
        pipeline=_require_pipeline(pipeline),
        sites=_require_choice("sites", sites, SITES, {"all": SITES}),
        quantities=_require_choice("quantities", quantities, QUANTITIES, GROUPS),
        token_axis=_require_axis(token_axis),
        take_over=_takes_over(take_over),
    )


def _require_name(argument: str, value: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 200:
        raise WatchError(argument, f"{value!r} is no name", fix="give 1 to 200 characters of text")
    return value


def require_url(url: str) -> str:
    """The address without a slash at its end; raises `WatchError` for what is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WatchError(
            "server", f"{url!r} is no server", fix=f"give an address such as {DEFAULT_SERVER}"
        )
    return url.rstrip("/")


def _require_at_least(argument: str, value: int, lowest: int) -> int:
    # True is an int to Python, and a mistake here.
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise WatchError(
            argument, f"{value!r} is not usable", fix=f"give a whole number from {lowest}"
        )
    return value


def _takes_over(take_over: bool | None) -> bool:
    named = os.environ.get("EVENKEEL_TAKE_OVER", "") if take_over is None else ""
    if take_over not in (None, True, False) or named.lower() not in _YES | _NO:
        raise WatchError(
            "take_over",
            f"{named or take_over!r} is neither yes nor no",
            fix="give True or False, or set EVENKEEL_TAKE_OVER to 1 or 0",
        )
    return named.lower() in _YES if take_over is None else take_over


def _require_axis(axis: int | None) -> int | None:
    if isinstance(axis, bool) or axis not in (None, 0, 1):
        raise WatchError(
            "token_axis",
            f"{axis!r} is no axis of tokens",
            fix="give 1 for (batch, seq, features), 0 for (seq, batch, features), or leave it out",
        )
    return axis


def _require_pipeline(pipeline: PipelineArgument | None) -> Pipeline | None:
    if pipeline is None:
        return None
    try:
        argument, stages = pipeline
        local = (argument,) if isinstance(argument, int) else tuple(argument)
        usable = all(0 <= int(stage) == stage < int(stages) == stages for stage in local)
        usable = usable and 0 < len(local) == len(set(local)) and not isinstance(argument, str)
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise WatchError(
            "pipeline",
            f"{pipeline!r} is no stage",
            fix="give (stage, stages), such as (0, 4), or ([0, 2], 4) for a ModuleList of chunks",
        )
    return tuple(int(stage) for stage in local), int(stages)


def _require_share(overhead: float | None, every: int | None) -> float:
    if overhead is None:
        return DEFAULT_OVERHEAD
    if every is not None:
        raise WatchError("overhead", f"every={every} is given as well", fix="give one of the two")
    number = isinstance(overhead, (int, float)) and not isinstance(overhead, bool)
    if not number or not 0 < overhead <= 1:
        raise WatchError(
            "overhead",
            f"{overhead!r} is no share",
            fix="give a number above 0 up to 1, such as 0.01",
        )
    return float(overhead)


def _require_choice(
    argument: str,
    value: Sequence[str] | str,
    choices: tuple[str, ...],
    groups: Mapping[str, tuple[str, ...]],
) -> tuple[str, ...]:
    """Names with groups written out, in the order of `choices`."""
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        if name not in choices and name not in groups:
            raise WatchError(
                argument,
                f"{name!r} is not measured",
                fix=f"choose among {', '.join((*groups, *choices))}",
            )
    chosen = {member for name in names for member in groups.get(name, (name,))}
    return tuple(choice for choice in choices if choice in chosen)


def _require_tags(tags: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tags, str) or not all(isinstance(tag, str) and tag for tag in tags):
        raise WatchError(
            "tags", f"{tags!r} is no list of words", fix='give ["baseline", "lr-3e-4"]'
        )
    return tuple(tags)


def _require_json(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        # There and back: what the server would store, before the job changes its own objects.
        plain = json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise WatchError(
            "config", f"it cannot be written as JSON ({error})", fix="give plain numbers and text"
        ) from error
    return dict(plain)


def _run_id(resume: str | None, project: str, run: str) -> str | None:
    """The id of the run to go on with: itself, or the hash of a name that a restart repeats."""
    if resume is not None and (not isinstance(resume, str) or not resume.strip()):
        raise WatchError(
            "resume", f"{resume!r} names no run", fix='give "auto", a run\'s id, or a name for it'
        )
    named = resume or os.environ.get("EVENKEEL_RUN_ID") or None
    if named is None or re.fullmatch("[0-9a-f]{32}", named):
        return named
    # Apart from each other, or a scheduler's job called like a run would be that run.
    of_job = f"run {run}" if named == "auto" else f"job {named}"
    return hashlib.blake2b(f"{project}\n{of_job}".encode(), digest_size=16).hexdigest()


def _require_folder(spool_dir: str | os.PathLike[str] | None) -> Path:
    folder = Path(spool_dir) if spool_dir is not None else default_spool_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Written to now: a full or read-only disk should not come up after hours of training.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WatchError(
            "spool_dir", f"cannot write to {folder} ({error})", fix="give a writable folder"
        ) from error
    return folder


def default_spool_dir() -> Path:
    """Where frames wait for the server: ``EVENKEEL_SPOOL_DIR`` or the user's state folder."""
    named = os.environ.get("EVENKEEL_SPOOL_DIR")
    if named:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state else Path.home() / ".local" / "state"
    return base / "evenkeel" / "spool"


@cache
def package_version() -> str:
    """The installed version, or "unknown" where the package runs uninstalled."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("evenkeel-agent")
    except PackageNotFoundError:
        return "unknown"
