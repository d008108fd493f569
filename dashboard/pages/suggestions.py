"""Comparisons worth one click: runs alike in project and depth that differ in norm placement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_RUNS = 4
MAX_SUGGESTIONS = 2
SCALES = ", λ "  # opens the residual scales at the end of an architecture


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Runs to lay side by side: Pre-LN, plain Post-LN, then Post-LN with scaled residuals."""

    run_ids: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def href(self) -> str:
        """Address of the comparison."""
        return f"/compare?runs={','.join(self.run_ids)}"


def suggested_comparisons(runs: Sequence[Mapping[str, Any]]) -> list[Suggestion]:
    """The newest Pre-LN run beside the newest Post-LN runs, for each project and model size.

    `runs` are newest first; of runs that share a name only the newest counts.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["project"], _size(run)), []).append(run)
    found = [one for group in groups.values() if (one := _suggest(group)) is not None]
    return found[:MAX_SUGGESTIONS]


def _size(run: Mapping[str, Any]) -> str:
    """Stacks and their sizes, without placement and residual scales."""
    return str(run["architecture"] or "").partition("-LN ")[2].partition(SCALES)[0]


def _is_scaled(run: Mapping[str, Any]) -> bool:
    return SCALES in run["architecture"]


def _suggest(group: Sequence[Mapping[str, Any]]) -> Suggestion | None:
    newest: dict[str, Mapping[str, Any]] = {}
    for run in group:
        newest.setdefault(run["name"], run)
    pre = [run for run in newest.values() if run["placement"] == "pre"][:1]
    post = [run for run in newest.values() if run["placement"] == "post"]
    if not pre or not post:
        return None
    chosen = [*pre, *sorted(post, key=_is_scaled)][:MAX_RUNS]
    return Suggestion(tuple(r["id"] for r in chosen), tuple(r["name"] for r in chosen))
