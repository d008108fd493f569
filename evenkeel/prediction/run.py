"""The models of a server's run: at initialisation, and from today's weights."""

from __future__ import annotations

import base64
import math
from typing import Any, Literal

import httpx
import numpy as np
from numpy.typing import NDArray

import dslm
from evenkeel.api import client_of, read, require_success, unreachable
from evenkeel.prediction.cases import Case, Measured
from server.errors import StartError

GRADIENT = "stream_gradient/variance_f32"
CORRELATION = "stream/correlation_f32"
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
    measured = _measured(client, run, step)
    return Case(
        name,
        spec,
        "initialisation" if initial else "today",
        step,
        measured=measured,
        top_gradient={
            name: stack.top_gradient_std
            for name, stack in measured.items()
            if 0 < stack.top_gradient_std < math.inf
        },
        attribution=None if initial else _attribution(client, run, step),
    )


def _attribution(client: httpx.Client, run: dict[str, Any], step: int) -> dict[str, Any] | None:
    """Return why this revision differs from the first; None where the server cannot tell."""
    try:
        answer = client.get(f"/runs/{run['id']}/attribution", params={"step": step})
    except httpx.HTTPError as error:
        raise unreachable(client, error) from error
    if answer.status_code == httpx.codes.NOT_FOUND:  # an older server, or an older agent
        return None
    require_success(answer)
    body: dict[str, Any] = answer.json()
    return body if body["step"] == step else None


def _measured(client: httpx.Client, run: dict[str, Any], step: int) -> dict[str, Measured]:
    """Return the measurements of the last sampled step up to `step`, by stack, if there are any."""
    if run["first_step"] is None or run["first_step"] > step:
        return {}
    profile = read(client, f"/runs/{run['id']}/profile", step=step)
    measured = {}
    for name, stack in profile["stacks"].items():
        series = stack["series"]
        if GRADIENT in series and CORRELATION in series:
            gradient, correlation = _values(series[GRADIENT]), _values(series[CORRELATION])
            with np.errstate(all="ignore"):
                ratio = float(np.sqrt(gradient[min(1, len(gradient) - 1)] / gradient[-1]))
                top = float(np.sqrt(gradient[-1]))
            measured[name] = Measured(profile["step"], top, ratio, float(correlation[-1]))
    return measured


def _values(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float64)
