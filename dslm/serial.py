"""Specs and predictions to JSON and back, checked field by field.

`msgspec` converts and checks the types. Two things are added to it: JSON has no NaN and no
infinity, which are written as text, and arrays are packed as `PackedArray`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast, get_args

import msgspec
import numpy as np

from dslm import prediction as prediction_module
from dslm import spec as spec_module
from dslm.errors import SpecError
from dslm.packed_array import PackedArray, pack
from dslm.prediction import Prediction, StackPrediction
from dslm.spec import Activation, ModelSpec, NormKind, Placement, Stack
from dslm.validation import validate

T = TypeVar("T")
Document = TypeVar("Document", ModelSpec, Prediction)

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
CHOICES = {
    "activation": get_args(Activation),
    "kind": get_args(NormKind),
    "placement": get_args(Placement),
}
FLOAT_FIELDS = {  # where a text such as "NaN" means a number; elsewhere it is a name
    field.name
    for module in (spec_module, prediction_module)
    for kind in vars(module).values()
    if is_dataclass(kind)
    for field in fields(kind)
    if "float" in str(field.type)
}
PLACE = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")  # how msgspec ends a message
GIVE, REMOVE = "give this field; it is absent", "remove this field; there is none of its name"
FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`$")


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """Return `spec` as JSON values; arrays become float32, zlib-compressed and base64.

    NaN and infinities become the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``. `flows` are
    left out where there are none.
    """
    document = _to_json(spec)
    if not spec.flows:
        del document["flows"]
    return document


def spec_from_json(value: object) -> ModelSpec:
    """Return the spec that `spec_to_json` wrote.

    An absent field gets its default, so that a newer `dslm` reads what an older one wrote.

    Raises:
        SpecError: if a field without default is absent, or one is unknown, of another type or
            impossible.
    """
    spec = _from_json(value, ModelSpec, Stack)
    validate(spec)
    return spec


def prediction_to_json(prediction: Prediction) -> dict[str, Any]:
    """Return `prediction` as JSON values, in the encoding of `spec_to_json`."""
    return _to_json(prediction)


def prediction_from_json(value: object) -> Prediction:
    """Return the prediction that `prediction_to_json` wrote.

    Raises:
        SpecError: if a field without default is absent, or one is unknown or of another type.
    """
    return _from_json(value, Prediction, StackPrediction)


def _to_json(document: object) -> dict[str, Any]:
    return cast(dict[str, Any], _as_text(msgspec.to_builtins(document, enc_hook=_encode)))


def _encode(value: object) -> object:
    if isinstance(value, np.ndarray):
        return pack(value)
    if isinstance(value, Mapping):
        return dict(value)
    return float(cast(float, value))  # numpy's scalars among them


def _as_text(value: object) -> object:
    """Return `value` with lists for tuples and texts for NaN and infinities."""
    match value:
        case dict():
            return {key: _as_text(item) for key, item in value.items()}
        case tuple() | list():
            return [_as_text(item) for item in value]
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case _:
            return value


class _Stacks(msgspec.Struct):
    stacks: dict[str, Any]


def _from_json(value: object, kind: type[Document], stack_kind: type[Any]) -> Document:
    """Return a spec or prediction; its stacks are converted one by one.

    `msgspec` names list indices in its errors but no keys, so it would not say which stack fails.
    """
    if not isinstance(value, dict):
        raise SpecError("spec", "give a JSON object")
    stacks = _convert(value, _Stacks, "").stacks
    document = _checked({**value, "stacks": {}}, kind, "")
    named = {name: _checked(stacks[name], stack_kind, f"stacks.{name}") for name in stacks}
    return replace(document, stacks=named)


def _checked(value: object, kind: type[T], path: str) -> T:
    try:
        value = _as_numbers(value, is_number=False)
        result = _convert(value, kind, path)
    except RecursionError:  # of a hostile body: a JSON decoder written in C goes deeper than Python
        raise SpecError(path or "spec", "give no value nested that deep") from None
    except UnicodeEncodeError:  # JSON can escape half a surrogate pair
        raise SpecError(path or "spec", "give text that UTF-8 can encode") from None
    _refuse_unknown(value, result, path)
    return result


def _as_numbers(value: object, *, is_number: bool) -> object:
    """Return `value` with the texts for NaN and infinities in `FLOAT_FIELDS` as numbers."""
    match value:
        case dict():
            return {k: _as_numbers(v, is_number=k in FLOAT_FIELDS) for k, v in value.items()}
        case tuple() | list():
            return [_as_numbers(item, is_number=is_number) for item in value]
        case str() if is_number:
            return NON_FINITE.get(value, value)
        case _:
            return value


def _convert(value: object, kind: type[T], path: str) -> T:
    try:
        return msgspec.convert(value, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise _spec_error(error, path) from None


def _decode(kind: Any, value: object) -> object:
    """Return an array for a field of type `NDArray`."""
    dtype = get_args(get_args(kind)[1])[0]
    return _convert(value, PackedArray, "").unpack().astype(dtype)


def _spec_error(error: msgspec.ValidationError, path: str) -> SpecError:
    """Return what msgspec reports as the path of the field and what to write there."""
    message = str(error)
    if place := PLACE.search(message):
        path, message = _join(path, place[1]), message[: place.start()]
    if isinstance(error.__cause__, SpecError):  # from within an array, relative to it
        return SpecError(_join(path, error.__cause__.field), error.__cause__.fix)
    if field := FIELD.match(message):
        absent = field[1] == "missing required"
        return SpecError(_join(path, field[2]), GIVE if absent else REMOVE)
    choices = CHOICES.get(path.rpartition(".")[2], ())
    if message.startswith("Invalid enum") and choices:
        message += f"; use one of {', '.join(choices)}"
    return SpecError(path, message[0].lower() + message[1:])


def _refuse_unknown(value: object, result: object, path: str) -> None:
    """Raise for a field that `result` lacks: a dataclass's conversion passes over it."""
    if isinstance(value, list) and isinstance(result, tuple):
        for index, (item, part) in enumerate(zip(value, result, strict=True)):
            _refuse_unknown(item, part, f"{path}[{index}]")
    elif isinstance(value, dict) and is_dataclass(result):
        names = {field.name for field in fields(result)}
        for name, item in value.items():
            if name not in names:
                raise SpecError(_join(path, name), REMOVE)
            _refuse_unknown(item, getattr(result, name), _join(path, name))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name and name[0] != "[" else path + name
