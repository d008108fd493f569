"""Specs and predictions to JSON and back, checked field by field."""

from __future__ import annotations

import base64
import binascii
import math
import types
import typing
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, cast

import numpy as np
from numpy.typing import NDArray

from dslm.errors import SpecError
from dslm.prediction import Prediction
from dslm.spec import ModelSpec
from dslm.validation import validate

MAX_ARRAY_VALUES = 2**24  # a 4096 × 4096 kernel; keeps a hostile body from filling memory
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def spec_to_json(spec: ModelSpec) -> dict[str, Any]:
    """Return `spec` as JSON values; arrays become float32, zlib-compressed and base64."""
    return cast(dict[str, Any], _encode(spec))


def spec_from_json(value: object) -> ModelSpec:
    """Return the spec that `spec_to_json` wrote.

    Raises:
        SpecError: if a field is absent, unknown, of another type or impossible.
    """
    spec = cast(ModelSpec, _decode(value, ModelSpec, ""))
    validate(spec)
    return spec


def prediction_to_json(prediction: Prediction) -> dict[str, Any]:
    """Return `prediction` as JSON values, in the encoding of `spec_to_json`."""
    return cast(dict[str, Any], _encode(prediction))


def prediction_from_json(value: object) -> Prediction:
    """Return the prediction that `prediction_to_json` wrote.

    Raises:
        SpecError: if a field is absent, unknown or of another type.
    """
    return cast(Prediction, _decode(value, Prediction, ""))


def _encode(value: object) -> object:
    if isinstance(value, np.ndarray):
        return _encode_array(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, bool | str | int) or value is None:
        return value
    return _encode_float(float(cast(float, value)))


def _encode_float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _encode_array(array: NDArray[Any]) -> dict[str, object]:
    with np.errstate(over="ignore"):  # beyond float32 becomes an honest Inf
        packed = np.ascontiguousarray(array, dtype="<f4").tobytes()
    text = base64.b64encode(zlib.compress(packed, 6)).decode("ascii")
    return {"shape": list(array.shape), "f32": text}


def _decode(value: object, kind: Any, path: str) -> object:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None else _decode(value, inner, path)
    if is_dataclass(kind):
        return _decode_dataclass(value, cast(type, kind), path)
    if origin is np.ndarray:
        dtype = typing.get_args(args[1])[0]
        return _decode_array(value, path).astype(dtype)
    if origin is not None and origin is not Literal:
        return _decode_container(value, origin, args, path)
    return _decode_scalar(value, kind, path)


def _decode_container(value: object, origin: Any, args: tuple[Any, ...], path: str) -> object:
    if origin is tuple:
        items = enumerate(
            cast(list[object], _expect(isinstance(value, list), value, path, "a list"))
        )
        return tuple(_decode(item, args[0], f"{path}[{i}]") for i, item in items)
    entries = cast(dict[str, object], _expect(isinstance(value, dict), value, path, "an object"))
    return {key: _decode(item, args[1], _join(path, key)) for key, item in entries.items()}


def _decode_dataclass(value: object, kind: type, path: str) -> object:
    _expect(isinstance(value, dict), value, path or "spec", "an object")
    entries = cast(dict[str, object], value)
    hints = typing.get_type_hints(kind)
    for name in entries:
        _expect(name in hints, name, _join(path, name), "no such field; remove it")
    for name in _without_default(kind):
        _expect(name in entries, None, _join(path, name), "present")
    return kind(**{n: _decode(v, hints[n], _join(path, n)) for n, v in entries.items()})


def _without_default(kind: type) -> list[str]:
    """Names that every writer gives; an older one leaves out the fields added since."""
    return [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]


def _decode_scalar(value: object, kind: Any, path: str) -> object:
    if kind is float:
        number = NON_FINITE.get(value, value) if isinstance(value, str) else value
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        return float(cast(float, _expect(is_number, number, path, "a number")))
    if kind is int:
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        return _expect(is_integer, value, path, "an integer")
    if typing.get_origin(kind) is Literal:
        known = typing.get_args(kind)
        return _expect(value in known, value, path, f"one of {', '.join(known)}")
    name = "a string" if kind is str else "true or false"
    return _expect(isinstance(value, kind), value, path, name)


def _decode_array(value: object, path: str) -> NDArray[np.float32]:
    _expect(isinstance(value, dict) and set(value) == {"shape", "f32"}, value, path, "an array")
    entries = cast(dict[str, Any], value)
    shape = cast(tuple[int, ...], _decode(entries["shape"], tuple[int, ...], f"{path}.shape"))
    _expect(all(n >= 0 for n in shape), shape, f"{path}.shape", "sizes of 0 or more")
    n_values = math.prod(shape)
    _expect(n_values <= MAX_ARRAY_VALUES, shape, f"{path}.shape", "a smaller (coarser) array")
    packed = _inflate(entries["f32"], n_values * 4, f"{path}.f32")
    return np.frombuffer(packed, dtype="<f4").reshape(shape)


def _inflate(text: object, n_bytes: int, path: str) -> bytes:
    try:
        inflater = zlib.decompressobj()
        packed = inflater.decompress(base64.b64decode(cast(str, text), validate=True), n_bytes + 1)
    except (TypeError, ValueError, binascii.Error, zlib.error):
        raise SpecError(path, "expected base64 of zlib-compressed float32 values") from None
    _expect(len(packed) == n_bytes, f"{len(packed)} bytes", path, f"{n_bytes} bytes, as `shape`")
    return packed


def _expect(holds: bool, value: object, path: str, wanted: str) -> object:
    if not holds:
        raise SpecError(path, f"expected {wanted}, found {str(value)[:60]!r}")
    return value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
