from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.api_types import Revision
from dashboard.display import axes, numbers, reasons
from dashboard.display.__main__ import PATH, script
from dashboard.display.axes import axis_range, log_ticks
from dashboard.display.translation import Untranslatable, translate

HERE = Path(__file__).parent
CASES = json.loads((HERE / "display_cases.json").read_text())
SHOWN = {
    name: vars(module)[name]
    for module in (numbers, axes, reasons)
    for name in CASES
    if name in vars(module)
}
NONFINITE = ("NaN", "Infinity", "-Infinity")
NODE = shutil.which("node")


def argument(value: Any) -> Any:
    """What JSON cannot write travels as a string; a prediction revision as an object."""
    if isinstance(value, list):
        return [argument(item) for item in value]
    if isinstance(value, Mapping):
        return msgspec.convert(value, Revision)
    return float(value) if value in NONFINITE else value


def as_json(shown: Any) -> Any:
    """What is shown with lists for tuples."""
    return json.loads(json.dumps(shown))


def close(result: Any) -> Any:
    """Equal in texts, and in numbers but for rounding."""
    if isinstance(result, list | tuple):
        return [close(item) for item in result]
    return pytest.approx(result, rel=1e-12) if isinstance(result, int | float) else result


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
)
def test_values_are_shown_as_in_the_shared_cases(
    name: str, arguments: list[Any], result: Any
) -> None:
    shown = SHOWN[name](*map(argument, arguments))

    assert as_json(shown) == close(result)


def test_script_is_what_the_python_modules_say_now() -> None:
    assert PATH.read_text(encoding="utf-8") == script(), "run: python -m dashboard.display"


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=30))
def test_log_range_holds_every_positive_value(values: list[float]) -> None:
    low, high = axis_range([np.array(values)], log=True)

    assert low <= np.log10(min(values)) and np.log10(max(values)) <= high
    assert high - low >= 1


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=10))
def test_ranges_are_finite_whatever_was_measured(values: list[float]) -> None:
    limits = axis_range([np.array(values, dtype=float)], log=True)

    assert np.isfinite(limits).all()


@given(st.floats(-30, 30), st.floats(1, 60))
def test_log_ticks_are_few_and_inside_the_axis(low: float, span: float) -> None:
    values, labels = log_ticks(low, low + span)

    assert 1 <= len(values) == len(labels) <= 7
    assert all(low <= np.log10(tick) <= low + span for tick in values)


def random_value(rng: np.random.Generator) -> float | str:
    """A number of any size and sign, too long to lie between two roundings; or a special one."""
    if rng.random() < 0.2:
        return str(rng.choice(NONFINITE)) if rng.random() < 0.7 else 0.0
    return float(10.0 ** rng.uniform(-20, 20) * rng.choice([-1, 1]))


def random_calls(rng: np.random.Generator) -> list[tuple[str, list[Any]]]:
    """A call of every shown function."""
    values = [random_value(rng) for _ in range(8)]
    low, span, log = float(rng.uniform(-30, 30)), float(rng.uniform(1, 60)), bool(rng.integers(2))
    return [
        ("format_number", [values[0], int(rng.integers(3, 7))]),
        ("format_loss", [values[1]]),
        ("format_count", [int(rng.integers(0, 10**9))]),
        ("format_age", [1.0, 1.0 + float(10.0 ** rng.uniform(0, 7))]),
        ("axis_range", [[values[:4], values[4:]], log]),
        ("marker_height", [low, low + span, log]),
        ("log_ticks", [low, low + span]),
        ("markers", [values, log]),
        ("why_missing", [{"state": "ready", "reason": "", "missing": []}, values]),
    ]


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
def test_javascript_shows_random_values_as_python_does() -> None:
    rng = np.random.default_rng(7)
    calls = [call for _ in range(500) for call in random_calls(rng)]
    assert {name for name, _ in calls} == set(CASES)

    answer = subprocess.run(
        [str(NODE), str(HERE / "js" / "evaluate.js")],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        check=True,
    )

    for (name, arguments), result in zip(calls, json.loads(answer.stdout), strict=True):
        shown = SHOWN[name](*map(argument, arguments))
        assert as_json(shown) == close(result), (name, arguments)


def module_of(source: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr("inspect.getsource", lambda module: source)
    return ModuleType("source")


@pytest.mark.parametrize(
    "statement",
    [
        "while value: pass",
        "return [item for item in value]",
        "return value[1:]",
        "return math.exp(value)",
        "return value.upper()",
        "return value // 2",
        "return f'{value!r:>10}'",
        "return f'`{value}`'",
        "return sorted(value, key=len)",
    ],
)
def test_python_without_a_translation_is_refused(
    statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of(f"def shown(value: float) -> float:\n    {statement}\n", monkeypatch)

    with pytest.raises(Untranslatable, match="line 2"):
        translate(module)


def test_private_functions_are_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def _inner(a_b: int = 1) -> int:\n    return -a_b\n"

    translated = translate(module_of(source, monkeypatch))

    assert "function inner(aB = 1) {\n  return -aB;\n}" in translated
    assert "export" not in translated
