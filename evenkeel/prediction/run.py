"""The models of a server's run: at initialisation, and from today's weights."""

from __future__ import annotations

from typing import Any, Literal

import httpx

import dslm
from evenkeel.api import client_of, read
from evenkeel.prediction.cases import Case
from server.errors import StartError

WeightsChoice = Literal["init", "today", "both"]


def cases_of_run(server: str, key: str | None, run_id: str, which: WeightsChoice) -> list[Case]:
    """Return the run's first model, its newest one, or both.

    Raises:
        StartError: if the server does not answer, refuses, or has no such model.
    """
    with client_of(server, key) as client:
        run = read(client, f"/runs/{run_id}")
        steps = run["revision_steps"]
        if not steps:
            raise StartError(
                f"--run {run_id}: its agent has not described the model yet; wait for its first "
                "steps"
            )
        return [_case(client, run, step) for step in _chosen_steps(steps, which, run_id)]


def _chosen_steps(steps: list[int], which: WeightsChoice, run_id: str) -> list[int]:
    if which == "init":
        return steps[:1]
    if len(steps) > 1:
        return steps[-1:] if which == "today" else [steps[0], steps[-1]]
    if which == "today":
        raise StartError(
            f"--weights today: run {run_id} has only the model of step {steps[0]}; "
            f"ask for another with POST /api/v1/runs/{run_id}/describe, or use --weights init"
        )
    return steps


def _case(client: httpx.Client, run: dict[str, Any], step: int) -> Case:
    revision = read(client, f"/runs/{run['id']}/spec", step=step)
    try:
        spec = dslm.spec_from_json(revision["spec"])
    except dslm.SpecError as error:
        raise StartError(
            f"--run {run['id']}: its model of step {step} is no spec: {error}"
        ) from error
    initial = revision["label"] == "at initialisation"
    name = f"{run['name']} {revision['label']} (step {step})"
    return Case(name, spec, "initialisation" if initial else "today", step)
