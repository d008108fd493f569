"""The command: gather the cases, diagnose them, print and draw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dslm
from evenkeel.prediction.cases import Case, WhatIf, changed, parse_what_if
from evenkeel.prediction.config import case_of_config
from evenkeel.prediction.numbers import document
from evenkeel.prediction.panels import lines_of
from evenkeel.prediction.plot import require_writable, write_plot
from evenkeel.prediction.run import Which, cases_of_run
from evenkeel.prediction.table import lines
from server.errors import StartError


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for; exactly one of `config` and `run` is given."""

    config: Path | None
    run: str | None
    server: str
    key: str | None
    context: int | None = None
    weights: Which | None = None
    what_if: Sequence[str] = ()
    top_gradient: float | None = None
    as_json: bool = False
    plot: Path | None = None


def predict(asked: Asked) -> None:
    """Print the diagnosis, and draw it where a plot is asked for.

    Raises:
        StartError: naming the option that is wrong and what to give instead.
    """
    _check(asked)
    what_if = parse_what_if(asked.what_if)
    cases = _cases(asked, what_if)
    found = [(case, _diagnosed(case, asked.top_gradient)) for case in cases]
    if asked.as_json:
        print(json.dumps(document(_source(asked), found)))
    else:
        print("\n".join(lines(found)))
    if asked.plot is not None:
        write_plot(list(lines_of(found)), asked.plot)


def _check(asked: Asked) -> None:
    if (asked.config is None) == (asked.run is None):
        raise StartError("predict: give either a config.json or --run RUN_ID")
    if asked.run is not None and asked.context is not None:
        raise StartError("--context is for a config; a run's model was described on its own batch")
    if asked.config is not None and asked.weights is not None:
        raise StartError("--weights is for --run; a config has its initial weights only")
    if asked.top_gradient is not None and not 0 < asked.top_gradient < float("inf"):
        raise StartError(f"--top-gradient {asked.top_gradient}: give a positive number")
    if asked.plot is not None:
        require_writable(asked.plot)


def _cases(asked: Asked, what_if: WhatIf) -> list[Case]:
    """The models as they are, then each as it would be after the changes."""
    if asked.config is not None:
        own = [case_of_config(asked.config, asked.context)]
    else:
        which = asked.weights or ("init" if what_if.typed else "both")
        own = cases_of_run(asked.server, asked.key, asked.run or "", which)
    if not what_if.typed:
        return own
    return own + [_otherwise(asked, case, what_if) for case in own]


def _otherwise(asked: Asked, case: Case, what_if: WhatIf) -> Case:
    """The case after the changes; a config's depth is changed in the config itself."""
    if asked.config is None or what_if.layers is None:
        return changed(case, what_if)
    deeper = case_of_config(asked.config, asked.context, what_if.layers)
    return changed(replace(deeper, name=case.name), what_if)


def _diagnosed(case: Case, top_gradient: float | None) -> dslm.Diagnosis:
    try:
        return dslm.diagnose(case.spec, top_gradient_std=top_gradient)
    except dslm.SpecError as error:
        raise StartError(f"{case.name}: {error}") from error


def _source(asked: Asked) -> dict[str, str]:
    if asked.config is not None:
        return {"config": str(asked.config)}
    return {"run": asked.run or "", "server": asked.server}
