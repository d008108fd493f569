"""From the names that others gave their numbers to series: ``stack/site/quantity``."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer_agent.importing.recording import RecordingError

LAYER = "{layer}"
STEP, TIME, NOTHING = "step", "time", "-"
MAX_LAYER_DIGITS = 4
# What training scripts and libraries call the numbers that every run has, first choice first.
ALIASES = {
    "loss": (
        "loss",
        "train/loss",
        "train_loss",
        "loss/train",
        "training_loss",
        "train_loss_step",  # Lightning
        "train/loss_step",
        "lm loss",  # Megatron
        "loss_metrics/global_avg_loss",  # torchtitan
    ),
    "learning_rate": (
        "learning_rate",
        "lr",
        "train/learning_rate",
        "train/lr",
        "train_lr",  # DeiT, MAE
        "lr-adamw",
        "learning-rate",
    ),
    "gradient_norm": (
        "gradient_norm",
        "grad_norm",
        "train/grad_norm",
        "train/gradient_norm",
        "grad-norm",
    ),
}
FORM = (
    "write NAME=stack/site/quantity, with {layer} in NAME for a series over depth, NAME=loss for a "
    "number of the whole run, NAME=step, NAME=time, or NAME=- to leave it out"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a number belongs.

    Attributes:
        key: ``stack/site/quantity``; the stack of a number of the whole model is "".
        layer: its index over depth; None where the series is one number a step.
    """

    key: str
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Names of this form belong to this target.

    Attributes:
        text: the rule as it was written.
        form: matches a whole name.
        target: a key of a series, `STEP`, `TIME` or `NOTHING`.
    """

    text: str
    form: re.Pattern[str]
    target: str


class ColumnMap:
    """The rules for one file, in the order in which they are tried."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)

    def target(self, name: str) -> str | None:
        """What the rules say of a name, None where none fits it."""
        match = self._match(name)
        return None if match is None else match[0].target

    def named(self, target: str, names: Iterable[str]) -> list[str]:
        """The names that the rules give this target."""
        return [name for name in names if self.target(name) == target]

    def unused(self, names: Sequence[str]) -> tuple[str, ...]:
        """The rules that fit none of the names."""
        return tuple(rule.text for rule in self._rules if not any(map(rule.form.fullmatch, names)))

    def places(self, names: Iterable[str]) -> Mapping[str, Place]:
        """Where each name belongs that is neither step nor time nor left out.

        Raises:
            RecordingError: if two of them belong to one place.
        """
        names = list(dict.fromkeys(names))
        places = {name: place for name in names if (place := self._place(name)) is not None}
        others = [name for name in names if self.target(name) is None]
        aliased = _aliased(others, taken={place.key for place in places.values()})
        for name in others:
            places[name] = Place(aliased.get(name, f"/{name.replace('/', '.')}/value"))
        _require_distinct(places)
        return places

    def _place(self, name: str) -> Place | None:
        match = self._match(name)
        if match is None or match[0].target in (STEP, TIME, NOTHING):
            return None
        rule, groups = match
        layer = groups.get("layer")
        # A number that is no layer would make series of that length.
        if layer is not None and len(layer) > MAX_LAYER_DIGITS:
            raise RecordingError(f"{name!r} names layer {layer}; a model has fewer")
        return Place(rule.target, None if layer is None else int(layer))

    def _match(self, name: str) -> tuple[Rule, dict[str, str]] | None:
        for rule in self._rules:
            match = rule.form.fullmatch(name)
            if match:
                return rule, match.groupdict()
        return None


def column_map(mappings: Iterable[str], map_file: Path | None = None) -> ColumnMap:
    """The rules of a command line, before those of a file.

    Raises:
        RecordingError: if one of them is no rule, or the file cannot be read.
    """
    rules = [parse_rule(mapping) for mapping in mappings]
    return ColumnMap(rules + ([] if map_file is None else _read_map_file(map_file)))


def _read_map_file(path: Path) -> list[Rule]:
    """One rule a line; empty lines and those that begin with # are comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"the map file {path} cannot be read: {error}") from error
    rules = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                rules.append(parse_rule(line))
            except RecordingError as error:
                raise RecordingError(f"{path}, line {number}: {error}") from error
    return rules


def parse_rule(text: str) -> Rule:
    """A rule as users write it, ``act/block_{layer}/var=decoder/stream/variance``.

    Raises:
        RecordingError: if it is not one.
    """
    # At the last one: a name may hold any character, and a target holds no "=".
    pattern, _, target = (part.strip() for part in text.rpartition("="))
    special = target in (STEP, TIME, NOTHING)
    key = target if special or "/" in target else f"/{target}/value"
    over_depth = target == NOTHING or target.count("/") == 2
    if (
        not (pattern and target)
        or not (special or key.count("/") == 2)
        or pattern.count(LAYER) > (1 if over_depth else 0)
    ):
        raise RecordingError(f"{text.strip()!r} maps no name; {FORM}")
    form = re.escape(pattern).replace(re.escape(LAYER), r"(?P<layer>\d+)")
    return Rule(text.strip(), re.compile(form), key)


def _aliased(names: Iterable[str], taken: Container[str]) -> Mapping[str, str]:
    """The keys of names that mean a number that every run has.

    Where a file has several names for one, the first choice has it, and the others stay numbers
    of their own.
    """
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower(), name)
    keys = {}
    for quantity, aliases in ALIASES.items():
        alias = next((alias for alias in aliases if alias in by_lower), None)
        if alias is not None and f"/{quantity}/value" not in taken:
            keys[by_lower[alias]] = f"/{quantity}/value"
    return keys


def _require_distinct(places: Mapping[str, Place]) -> None:
    names: dict[Place, str] = {}  # silently, the second would overwrite the first
    for name, place in places.items():
        if place in names:
            raise RecordingError(
                f"{names[place]!r} and {name!r} would both be {place.key!r}; "
                f"rename one with --map '{name}=/other/value'"
            )
        names[place] = name
