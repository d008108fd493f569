"""The command: collect the cases, diagnose them, print and draw."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dslm
from evenkeel.prediction.cases import Case, WhatIf, changed, parse_what_if
from evenkeel.prediction.config import case_of_config
from evenkeel.prediction.departures import Ahead, ahead_of_run, departure_lines
from evenkeel.prediction.numbers import document
from evenkeel.prediction.panels import lines_of
from evenkeel.prediction.plot import require_writable, write_plot
from evenkeel.prediction.progress import progress, report
from evenkeel.prediction.run import WeightsChoice, cases_of_run
from evenkeel.prediction.table import lines
from server.errors import StartError

Diagnosed = list[tuple[Case, dslm.Diagnosis]]
Numbers = dict[str, Any]
DEEPEST = 384  # layers that are searched: each costs the time of one


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """The command's options; exactly one of `config` and `run` must be set.

    Attributes:
        config: path of a transformers config.
        run: id of a run on the server.
        server, key: URL of the server, and a key with the read scope.
        context: tokens of a sequence, for a config.
        weights: which of a run's models.
        what_if: changes, as typed.
        top_gradient: standard deviation of the gradient at the last block.
        as_json: whether to print JSON in place of a table.
        plot: file to draw to.
    """

    config: Path | None
    run: str | None
    server: str
    key: str | None
    context: int | None = None
    weights: WeightsChoice | None = None
    what_if: Sequence[str] = ()
    top_gradient: float | None = None
    as_json: bool = False
    plot: Path | None = None


def predict(options: PredictOptions) -> None:
    """Print the diagnosis, and draw it if `options.plot` is set.

    Raises:
        StartError: naming the option that is wrong and what to give instead.
    """
    diagnosed, ahead = diagnosed_cases(options)
    if options.plot is not None:  # first: a pager that closes early must not cost the plot
        write_plot(list(lines_of(diagnosed)), options.plot)
    if options.as_json:
        print(json.dumps(numbers_of(options, diagnosed, ahead)))
    else:
        print("\n".join(words_of(diagnosed, ahead)))


def diagnosed_cases(options: PredictOptions) -> tuple[Diagnosed, Ahead | None]:
    """Return each case with its diagnosis, and what the server says of a run's newest steps.

    Raises:
        StartError: naming the option that is wrong and what to give instead.
    """
    _check(options)
    what_if = parse_what_if(options.what_if)
    with progress("reading the model"), _collections_paused():
        cases = _cases(options, what_if)
        ahead = ahead_of_run(options.server, options.key, options.run) if options.run else None
        report("computing the curves, and those of deeper stacks")
        return [
            (case, _diagnosed(case, options.top_gradient or case.top_gradient)) for case in cases
        ], ahead


def words_of(diagnosed: Diagnosed, ahead: Ahead | None) -> list[str]:
    """Return the answer as lines of text."""
    return [*lines(diagnosed), *departure_lines(ahead)]


def numbers_of(options: PredictOptions, diagnosed: Diagnosed, ahead: Ahead | None) -> Numbers:
    """Return the answer as what ``--json`` prints."""
    numbers = document(_source(options), diagnosed)
    return numbers if options.run is None else numbers | {"ahead": ahead}


@contextmanager
def _collections_paused() -> Iterator[None]:
    """Leave garbage of reference cycles until later: looking for it takes a fifth of the time.

    Torch and transformers make a million objects when they are imported, which all stay.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check(options: PredictOptions) -> None:
    if (options.config is None) == (options.run is None):
        raise StartError("predict: give either a config.json or --run RUN_ID")
    if options.run is not None and options.context is not None:
        raise StartError("--context is for a config; a run's model was described on its own batch")
    if options.config is not None and options.weights is not None:
        raise StartError("--weights is for --run; a config has its initial weights only")
    if options.top_gradient is not None and not 0 < options.top_gradient < float("inf"):
        raise StartError(f"--top-gradient {options.top_gradient}: give a positive number")
    if options.plot is not None:
        require_writable(options.plot)


def _cases(options: PredictOptions, what_if: WhatIf) -> list[Case]:
    """Return the unchanged cases, followed by each after the changes."""
    if options.config is not None:
        cases = [case_of_config(options.config, options.context)]
    else:
        # a what-if is about initialisation, unless it is asked of other weights
        which = options.weights or ("init" if what_if.typed else "both")
        cases = cases_of_run(options.server, options.key, options.run or "", which)
    if not what_if.typed:
        return cases
    return cases + [_otherwise(options, case, what_if) for case in cases]


def _otherwise(options: PredictOptions, case: Case, what_if: WhatIf) -> Case:
    """Return the case after the changes.

    A config's depth is changed in the config, so that its initialisation follows the depth.
    """
    if options.config is None or what_if.layers is None:
        return changed(case, what_if)
    deeper = case_of_config(options.config, options.context, what_if.layers)
    return changed(replace(deeper, name=case.name), what_if)


def _diagnosed(case: Case, top_gradient: float | Mapping[str, float]) -> dslm.Diagnosis:
    n_layers = max((len(stack.blocks) for stack in case.spec.stacks.values()), default=0)
    deepest = None if 4 * n_layers <= DEEPEST else max(n_layers, DEEPEST)
    try:
        return dslm.diagnose(case.spec, top_gradient_std=top_gradient, search_depth=deepest)
    except dslm.SpecError as error:
        raise StartError(f"{case.name}: {error}") from error


def _source(options: PredictOptions) -> dict[str, str]:
    if options.config is not None:
        return {"config": str(options.config)}
    return {"run": options.run or "", "server": options.server}
