"""Suggested comparisons: runs of one project and size that differ in norm placement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard import theme
from dashboard.api_types import RunSummary

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


def suggested_comparisons(runs: Sequence[RunSummary]) -> list[Suggestion]:
    """The newest Pre-LN run beside the newest Post-LN runs, for each project and model size.

    `runs` are newest first; of runs that share a name only the newest counts.
    """
    groups: dict[tuple[str, str], list[RunSummary]] = {}
    for run in runs:
        groups.setdefault((run.project, _size(run)), []).append(run)
    suggestions = [_suggest(group) for group in groups.values()]
    return [suggestion for suggestion in suggestions if suggestion is not None][:MAX_SUGGESTIONS]


def _size(run: RunSummary) -> str:
    """Stacks and their sizes, without placement and residual scales."""
    return run.architecture.partition("-LN ")[2].partition(SCALES)[0]


def _is_scaled(run: RunSummary) -> bool:
    return SCALES in run.architecture


def _suggest(group: Sequence[RunSummary]) -> Suggestion | None:
    newest: dict[str, RunSummary] = {}
    for run in group:
        newest.setdefault(run.name, run)  # runs come newest first
    pre = [run for run in newest.values() if run.placement == "pre"][:1]
    post = [run for run in newest.values() if run.placement == "post"]
    if not pre or not post:
        return None
    chosen = [*pre, *sorted(post, key=_is_scaled)][: theme.MAX_COMPARED]
    return Suggestion(tuple(run.id for run in chosen), tuple(run.name for run in chosen))
