"""Specs and predictions through JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dslm
from dslm import SpecError
from tests.dslm.specs import kernel, spec_of, stack, with_input

BLOCK, FIELD = "stacks.decoder.blocks.0", "stacks.decoder.blocks[0]"
DIAGONAL = "stacks.decoder.input_kernel.diagonal"


def same(a: Any, b: Any) -> bool:
    """Equal up to float32 in arrays; NaN equals NaN."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a.astype("f4"), b.astype("f4"), equal_nan=True)
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(
            same(getattr(a, n), getattr(b, n)) for n in a.__dataclass_fields__
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1e30), st.floats(0, 0.99), st.floats(0, 1e300), st.booleans(), st.text())
def test_spec_survives_json(var: float, p: float, std: float, gated: bool, name: str) -> None:
    one = with_input(stack(2, 5, 16, p_drop=p, std=min(std, 1e150), gated=gated), kernel(5, var))
    spec = dslm.ModelSpec(
        name, {"decoder": one}, (dslm.Missing("a", "b", name),), 3, 7, notes=(name,)
    )

    back = dslm.spec_from_json(json.loads(json.dumps(dslm.spec_to_json(spec))))

    assert same(spec, back)


def test_prediction_survives_json_with_nan() -> None:
    one = stack(3)
    half = dslm.Stack(one.d_model, (one.blocks[0], None), one.input_kernel)
    prediction = dslm.predict(spec_of(half))

    text = json.dumps(dslm.prediction_to_json(prediction), allow_nan=False)

    assert same(prediction, dslm.prediction_from_json(json.loads(text)))


def broken(path: str, value: Any) -> dict[str, Any]:
    body = dslm.spec_to_json(spec_of(stack(1, 4, 16)))
    *parents, last = path.split(".")
    inner: Any = body
    for key in parents:
        inner = inner[int(key)] if key.isdigit() else inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return body


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("family", 3, "family"),
        ("batch_size", True, "batch_size"),
        ("batch_size", 0, "batch_size"),
        ("stacks", [], "stacks"),
        ("surprise", 1, "surprise"),
        (f"{BLOCK}.attention", ..., f"{FIELD}.attention"),
        (f"{BLOCK}.placement", "mid", f"{FIELD}.placement"),
        (
            f"{BLOCK}.attention.p_drop",
            "much",
            f"{FIELD}.attention.p_drop",
        ),
        (
            f"{DIAGONAL}.f32",
            "%%",
            f"{DIAGONAL}.f32",
        ),
        (
            f"{DIAGONAL}.shape",
            [5],
            f"{DIAGONAL}.f32",
        ),
        (
            f"{DIAGONAL}.shape",
            [-1],
            f"{DIAGONAL}.shape",
        ),
        (
            f"{DIAGONAL}.shape",
            [2**40],
            f"{DIAGONAL}.shape",
        ),
    ],
)
def test_bad_json_is_refused_by_field(path: str, value: Any, field: str) -> None:
    with pytest.raises(SpecError) as raised:
        dslm.spec_from_json(broken(path, value))
    assert raised.value.field == field


def test_spec_of_an_older_agent_gets_the_defaults_of_newer_fields() -> None:
    body = dslm.spec_to_json(spec_of(stack(1, 4, 16)))
    block = body["stacks"]["decoder"]["blocks"][0]
    del block["attention_out_norm"], block["feed_forward_out_norm"]

    assert same(dslm.spec_from_json(body), spec_of(stack(1, 4, 16)))


def test_anything_but_an_object_is_refused() -> None:
    for value in (None, [], "spec", 3):
        with pytest.raises(SpecError):
            dslm.spec_from_json(value)
