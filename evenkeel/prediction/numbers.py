"""Cases as JSON: the schema of docs/predict.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

import dslm
from dslm.diagnosis import GrowthBelowTop
from evenkeel.prediction.cases import Case

VERSION = 1


def document(
    source: Mapping[str, str], diagnosed: list[tuple[Case, dslm.Diagnosis]]
) -> dict[str, Any]:
    """Return the document that `evenkeel predict --json` prints."""
    cases = [case_numbers(case, diagnosis) for case, diagnosis in diagnosed]
    return {"version": VERSION, "source": dict(source), "cases": cases}


def case_numbers(case: Case, diagnosis: dslm.Diagnosis) -> dict[str, Any]:
    """Return one case: its description, and its stacks' curves and diagnoses."""
    return {
        "name": case.name,
        "weights": case.weights,
        "step": case.step,
        "what_if": list(case.what_if),
        "notes": list(case.notes),
        "measured": plain(case.measured),
        "attribution": plain(case.attribution),
        "family": case.spec.family,
        "n_params": case.spec.n_params,
        "batch_size": case.spec.batch_size,
        "stacks": {
            name: stack_numbers(stack, diagnosis.prediction.stacks[name])
            for name, stack in diagnosis.stacks.items()
        },
        "missing": plain(diagnosis.missing),
    }


def stack_numbers(stack: dslm.StackDiagnosis, curves: dslm.StackPrediction) -> dict[str, Any]:
    """Return one stack: sizes, curves, diagnosis."""
    sizes = {name: getattr(stack, name) for name in SIZES}
    return sizes | {
        "stream": plain(curves.forward),
        "stream_gradient": plain(curves.backward),
        "score_variance": plain(curves.score_variance),
        "diagnosis": {
            name: _with_properties(getattr(stack, name))
            for name in stack.__dataclass_fields__
            if name not in SIZES
        },
    }


SIZES = ("placement", "n_layers", "d_model", "seq_len")
PROPERTIES = ("fits", "factor", "meaning", "needed")  # readers need not compute them again


def _with_properties(value: object) -> Any:
    """Return a part's fields and its computed properties."""
    written = plain(value)
    if isinstance(value, GrowthBelowTop):
        return written | {"growth": _with_properties(value.growth)}
    if isinstance(written, dict):
        for name in PROPERTIES:
            if hasattr(value, name):
                written[name] = plain(getattr(value, name))
    return written


def plain(value: object) -> Any:
    """Return `value` in JSON's types; None for a number that is not finite, which JSON lacks."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
