"""What a check has to say once the script is over, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import dslm
from trainer_agent.check import table
from trainer_agent.check.advice import lines_to_add
from trainer_agent.check.delivery import WatchedModel
from trainer_agent.check.script import EnoughSteps, Script, print_error
from trainer_agent.check.steps import StepWatcher

OK, FAILED = 0, 2


def report(
    script: Script,
    watcher: StepWatcher,
    models: list[WatchedModel],
    error: BaseException | None,
    *,
    compiles: bool,
) -> int:
    """Print what the script's steps have shown; returns the exit code."""
    sys.stdout.flush()
    described = {m: spec for m in models if (spec := _spec_of(m)) is not None and spec.stacks}
    by_script = any(m.by_script for m in models)
    if not (watcher.total or (by_script and described)) or not described:
        return _explain(script, watcher, models, error)
    if error is not None and not isinstance(error, SystemExit):
        print_error(error)
    steps = f"{watcher.total} optimizer step{'s' if watcher.total != 1 else ''}"
    print(f"\nevenkeel: {_title(script)}, {steps} on the CPU; nothing was sent or kept\n")
    for model, spec in described.items():
        print("\n".join(table.lines(model, spec)))
    print("\n".join(_remarks(watcher, models, described, compiles=compiles)))
    if not by_script:
        print("\n".join(lines_to_add(watcher.place, Path(script.name).stem)))
    sys.stdout.flush()
    return OK


def _spec_of(model: WatchedModel) -> dslm.ModelSpec | None:
    spec = model.transport.spec
    return None if spec is None else dslm.spec_from_json(spec)


def _title(script: Script) -> str:
    return f"-m {script.name}" if script.is_module else Path(script.name).name


def _explain(
    script: Script,
    watcher: StepWatcher,
    models: list[WatchedModel],
    error: BaseException | None,
) -> int:
    """Say in one sentence why there is nothing to show."""
    if error is not None and not isinstance(error, SystemExit):
        print_error(error)
    if not watcher.total and error is not None and not isinstance(error, EnoughSteps):
        ended = "ended" if isinstance(error, SystemExit) else "raised"
        what = f"the script {ended} before an optimizer made a step"
    elif not watcher.total:
        what = "no torch optimizer made a step"
    elif not models:
        what = (
            "no module whose forward pass the script calls holds the optimizer's parameters "
            "(a model's forward has to be called as model(…))"
        )
    else:
        what = f"no transformer was found in {', '.join(m.model_type for m in models)}"
        what += next((f" ({reason})" for reason in _reasons(models)), "")
        what += "; a Hint says where its blocks are"
    print(f"evenkeel: {_title(script)}: {what}", file=sys.stderr)
    return FAILED


def _reasons(models: list[WatchedModel]) -> Iterator[str]:
    for model in models:
        spec = _spec_of(model)
        yield from (f"{m.where}: {m.why}" for m in (spec.missing if spec else ()))


def _remarks(
    watcher: StepWatcher,
    models: list[WatchedModel],
    described: dict[WatchedModel, dslm.ModelSpec],
    *,
    compiles: bool,
) -> Iterator[str]:
    if compiles:
        yield "\nThe script compiles, and this check did not. Inside compiled code only streams and"
        yield "their gradients are measured, and nothing is predicted, unless watch has a batch."
    others = [model.model_type for model in models if model not in described]
    if others:
        yield f"\nno transformer: {', '.join(dict.fromkeys(others))}"
    if watcher.apart:
        names = ", ".join(watcher.apart)
        yield f"\nThe loop calls these apart, and a watch sees only the model it is given: {names}"
