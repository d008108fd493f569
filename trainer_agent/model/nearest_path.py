"""The module path that somebody may have meant who wrote another."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher


def nearest_path(pattern: str, paths: Iterable[str]) -> str:
    """The path most like `pattern`, or "" of none; numbers as ``*`` where the pattern has one."""
    written = (re.sub(r"(?<![^.])\d+(?![^.])", "*", p) if "*" in pattern else p for p in paths)
    candidates = filter(None, dict.fromkeys(written))
    return max(candidates, key=lambda path: _likeness(pattern, path), default="")


def did_you_mean(pattern: str, paths: Iterable[str]) -> str:
    """The end of a message about a pattern that fits none of `paths`."""
    path = nearest_path(pattern, paths)
    return f"; the nearest is {path!r}" if path else ""


def _likeness(pattern: str, path: str) -> tuple[float, float]:
    """Equal parts at the end, as of a path written without its beginning; then equal letters."""
    parts, others = pattern.split("."), path.split(".")
    ends = zip(reversed(parts), reversed(others), strict=False)
    n_equal = 0
    for a, b in ends:
        if a != b:
            break
        n_equal += a != "*"
    pairs = ((pattern, path), (parts[-1], others[-1]))
    return n_equal, sum(SequenceMatcher(None, *pair).ratio() for pair in pairs)
