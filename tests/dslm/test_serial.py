"""Specs and predictions through JSON."""

from __future__ import annotations

import base64
import json
import math
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dslm
from dslm import SpecError
from tests.dslm.serial_cases import SPECS
from tests.dslm.specs import kernel, spec_of, stack, with_input

# What the first release wrote, of the specs in `serial_cases`.
RECORDED = json.loads((Path(__file__).parent / "serial_recorded.json").read_text())
PREDICTIONS = [name for name, record in RECORDED.items() if "prediction" in record]
BLOCK, FIELD = "stacks.decoder.blocks.0", "stacks.decoder.blocks[0]"
DIAGONAL = "stacks.decoder.input_kernel.diagonal"
FLOAT32 = base64.b64encode(zlib.compress(np.ones(3, "<f4").tobytes())).decode()


def same(a: Any, b: Any) -> bool:
    """Equal up to float32 in arrays; NaN equals NaN."""
    if isinstance(a, np.ndarray):
        with np.errstate(over="ignore"):
            x, y = a.astype("f4"), b.astype("f4")
        return a.dtype == b.dtype and np.array_equal(x, y, equal_nan=True)
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(
            same(getattr(a, n), getattr(b, n)) for n in a.__dataclass_fields__
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def text_of(body: Any) -> str:
    """JSON text with arrays inflated: zlib's bytes differ between its builds, their values not."""

    def inflated(value: dict[str, Any]) -> dict[str, Any]:
        if "f32" in value:
            value["f32"] = zlib.decompress(base64.b64decode(value["f32"])).hex()
        return value

    return json.dumps(json.loads(json.dumps(body, allow_nan=False), object_hook=inflated))


@pytest.mark.parametrize("name", SPECS)
def test_specs_are_written_as_they_were_recorded(name: str) -> None:
    assert text_of(dslm.spec_to_json(SPECS[name])) == text_of(RECORDED[name]["spec"])


@pytest.mark.parametrize("name", SPECS)
def test_recorded_specs_are_read_as_they_were_written(name: str) -> None:
    assert same(dslm.spec_from_json(RECORDED[name]["spec"]), SPECS[name])


def test_a_spec_written_before_experts_and_sinks_were_known_is_read() -> None:
    new = {"up_offset", "experts", "sink", "carried"}

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {key: without(item) for key, item in value.items() if key not in new}

    body = without(dslm.spec_to_json(SPECS["decoder only"]))

    assert same(dslm.spec_from_json(body), SPECS["decoder only"])


@pytest.mark.parametrize("name", PREDICTIONS)
def test_recorded_predictions_are_written_as_they_were_read(name: str) -> None:
    body = RECORDED[name]["prediction"]

    prediction = dslm.prediction_from_json(body)

    assert text_of(dslm.prediction_to_json(prediction)) == text_of(body)
    for curve in (p.forward for p in prediction.stacks.values()):
        assert curve.variance.dtype == np.float64


def parts(value: Any) -> Iterator[Any]:
    """Yield every dataclass within `value`."""
    if is_dataclass(value):
        yield value
        value = tuple(getattr(value, field.name) for field in fields(value))
    if isinstance(value, tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from parts(item)


def test_recorded_specs_set_every_optional_field_somewhere() -> None:
    optional = {
        (kind, field.name)
        for kind in vars(dslm.spec).values()
        if is_dataclass(kind)
        for field in fields(kind)
        if field.default is not MISSING
    }
    filled = {
        (type(part), field.name)
        for spec in SPECS.values()
        for part in parts(spec)
        for field in fields(part)
        if repr(getattr(part, field.name)) != repr(field.default)
    }

    assert optional - filled == set()


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1e30), st.floats(0, 0.99), st.floats(0, 1e300), st.booleans(), st.text())
def test_spec_survives_json(var: float, p: float, std: float, gated: bool, name: str) -> None:
    decoder = with_input(
        stack(2, 5, 16, p_drop=p, std=min(std, 1e150), gated=gated), kernel(5, var)
    )
    spec = dslm.ModelSpec(
        name, {"decoder": decoder}, (dslm.Missing("a", "b", name),), 3, 7, notes=(name,)
    )

    back = dslm.spec_from_json(json.loads(json.dumps(dslm.spec_to_json(spec))))

    assert same(spec, back)


def test_prediction_survives_json_with_nan() -> None:
    decoder = stack(3)
    partial = dslm.Stack(decoder.d_model, (decoder.blocks[0], None), decoder.input_kernel)
    prediction = dslm.predict(spec_of(partial))

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
        ("family", ..., "family"),
        ("batch_size", True, "batch_size"),
        ("batch_size", 2.0, "batch_size"),
        ("batch_size", "8", "batch_size"),
        ("batch_size", 0, "batch_size"),
        ("stacks", [], "stacks"),
        ("stacks", ..., "stacks"),
        ("surprise", 1, "surprise"),
        (f"{BLOCK}.surprise", 1, f"{FIELD}.surprise"),
        (f"{BLOCK}.attention", ..., f"{FIELD}.attention"),
        (f"{BLOCK}.placement", "mid", f"{FIELD}.placement"),
        (f"{BLOCK}.attention.p_drop", "much", f"{FIELD}.attention.p_drop"),
        (f"{BLOCK}.attention.p_drop", "NaN", f"{FIELD}.attention.p_drop"),
        (f"{BLOCK}.attention.query.weight_var", 10**400, f"{FIELD}.attention.query.weight_var"),
        (f"{BLOCK}.attention.rotary", {"theta": None}, f"{FIELD}.attention.rotary.theta"),
        (DIAGONAL, [1.0], DIAGONAL),
        (f"{DIAGONAL}.f64", "", f"{DIAGONAL}.f64"),
        (f"{DIAGONAL}.f32", ..., f"{DIAGONAL}.f32"),
        (f"{DIAGONAL}.f32", "%%", f"{DIAGONAL}.f32"),
        (f"{DIAGONAL}.f32", "AAAA", f"{DIAGONAL}.f32"),
        (f"{DIAGONAL}.f32", FLOAT32, f"{DIAGONAL}.f32"),
        (f"{DIAGONAL}.shape", [5], f"{DIAGONAL}.f32"),
        (f"{DIAGONAL}.shape", [4.0], f"{DIAGONAL}.shape[0]"),
        (f"{DIAGONAL}.shape", [-1], f"{DIAGONAL}.shape"),
        (f"{DIAGONAL}.shape", [2**40], f"{DIAGONAL}.shape"),
        (f"{DIAGONAL}.shape", [2**40, 0], f"{DIAGONAL}.shape"),
    ],
)
def test_bad_json_is_refused_by_field(path: str, value: Any, field: str) -> None:
    with pytest.raises(SpecError) as raised:
        dslm.spec_from_json(broken(path, value))
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("path", "value", "fix"),
    [
        (f"{BLOCK}.placement", "mid", "use one of pre, post, sandwich, branch, parallel"),
        (f"{BLOCK}.feed_forward.activation", "gelo", "use one of relu, gelu"),
        (f"{BLOCK}.attention_norm.kind", "batchnorm", "use one of layernorm, rmsnorm"),
        (f"{BLOCK}.attention", ..., "give this field"),
        ("surprise", 1, "remove this field"),
        ("batch_size", "8", "expected `int`"),
        (f"{DIAGONAL}.shape", [5], "give 20 bytes"),
    ],
)
def test_a_refusal_says_what_to_write(path: str, value: Any, fix: str) -> None:
    with pytest.raises(SpecError) as raised:
        dslm.spec_from_json(broken(path, value))
    assert fix in raised.value.fix


def test_spec_of_an_older_agent_gets_the_defaults_of_newer_fields() -> None:
    body = dslm.spec_to_json(spec_of(stack(1, 4, 16)))
    block = body["stacks"]["decoder"]["blocks"][0]
    del block["attention_out_norm"], block["feed_forward_out_norm"]

    assert same(dslm.spec_from_json(body), spec_of(stack(1, 4, 16)))


@pytest.mark.parametrize("value", [None, [], "spec", 3])
def test_anything_but_an_object_is_refused(value: object) -> None:
    with pytest.raises(SpecError):
        dslm.spec_from_json(value)


def test_values_nested_past_the_recursion_limit_are_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(SpecError):
        dslm.spec_from_json(broken("notes", deep))


@pytest.mark.parametrize("path", ["n_params", f"{BLOCK}.placement", f"{DIAGONAL}.f32"])
def test_half_a_surrogate_pair_is_refused(path: str) -> None:
    with pytest.raises(SpecError):
        dslm.spec_from_json(broken(path, json.loads(r'"\ud800"')))


def test_importing_dslm_loads_neither_msgspec_nor_numpy() -> None:
    code = "import sys, dslm; print({'msgspec', 'numpy'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert printed.stdout.strip() == b"set()"
