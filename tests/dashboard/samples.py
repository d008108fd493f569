"""Answers of the API as the pages receive them, small and complete."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from plotly.utils import PlotlyJSONEncoder

from dashboard.api_types import Alert, Incident, Revision, RunDetail, RunSummary

RUN = {
    "id": "a" * 32,
    "project": "demo",
    "name": "run",
    "status": "running",
    "tags": [],
    "created_at": 1.0,
    "last_seen": 1.0,
    "last_step": None,
    "last_loss": None,
    "sparkline": [1.0],
    "architecture": "",
    "placement": None,
    "family": "custom",
    "n_params": 0,
    "alerts": {},
    "frames": 10,
}
DETAIL = RUN | {
    "config": {},
    "layout": [],
    "stacks": {},
    "missing": [],
    "notes": [],
    "health": {},
    "agent_version": "0",
    "revision_steps": [],
    "superseded": [],
}
ALERT = {
    "id": "7",
    "run_id": "a" * 32,
    "run_name": "post-ln",
    "severity": "critical",
    "title": "Rank collapse",
    "message": "Tokens collapse.",
    "stack": "decoder",
    "site": "stream",
    "quantity": "correlation",
    "first_layer": 3,
    "last_layer": 9,
    "step": 21,
    "measured": 0.99,
    "predicted": "NaN",
    "unit": "",
    "status": "open",
    "opened_at": 1.0,
    "advice": {
        "text": "Use DeepScaleLM.",
        "scaling": {"lam": 0.9789, "beta": 0.2041, "n_layers": 24, "snippet": "deepscale(model)"},
    },
}

LINE = {"at": 1.0, "step": 21, "kind": "opened", "alert": "7", "text": ""}
OF_ROOT = ("run_id", "run_name", "severity", "title", "message", "advice", "status", "opened_at")
INCIDENT = {name: ALERT[name] for name in OF_ROOT} | {
    "id": "i7",
    "cause": "stream",
    "first_step": 17,
    "last_step": 40,
    "note": "",
    "alerts": [ALERT],
    "timeline": [LINE],
}


def run_summary(**changes: Any) -> RunSummary:
    """A row of the run list."""
    return msgspec.convert(RUN | changes, RunSummary, strict=False)


def run_detail(**changes: Any) -> RunDetail:
    """A run in detail."""
    return msgspec.convert(DETAIL | changes, RunDetail, strict=False)


def alert(**changes: Any) -> Alert:
    """An alert that a rule raised."""
    return msgspec.convert(ALERT | changes, Alert, strict=False)


def incident(**changes: Any) -> Incident:
    """An incident with one alert."""
    return msgspec.convert(INCIDENT | changes, Incident, strict=False)


def revision(**fields: Any) -> Revision:
    """A prediction revision without curves."""
    return msgspec.convert(fields, Revision)


def text_of(component: object) -> str:
    """A component as the browser is sent it."""
    return json.dumps(json.loads(json.dumps(component, cls=PlotlyJSONEncoder)), ensure_ascii=False)
