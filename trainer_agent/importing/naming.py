"""From the names that others gave their numbers to series: ``stack/site/quantity``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainer_agent.importing.recording import ReplayError

LAYER = "{layer}"
# What training scripts and libraries call the numbers that every run has.
KNOWN = {
    "loss": ("loss", "train/loss", "train_loss", "loss/train", "training_loss"),
    "learning_rate": ("learning_rate", "lr", "train/learning_rate", "train/lr", "lr-adamw"),
    "gradient_norm": ("gradient_norm", "grad_norm", "train/grad_norm", "train/gradient_norm"),
}
_ALIASES = {alias: name for name, aliases in KNOWN.items() for alias in aliases}


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
    """Names of this form belong to this series."""

    form: re.Pattern[str]
    key: str


def rule(given: str) -> Rule:
    """A rule as users write it, ``act/block_{layer}/var=decoder/stream/variance``.

    Raises:
        ReplayError: if it is not one.
    """
    pattern, _, key = given.rpartition("=")
    if not pattern or len(key.split("/")) != 3 or pattern.count(LAYER) > 1:
        raise ReplayError(
            f"--map {given!r} is no mapping; "
            "write NAME=stack/site/quantity, with {layer} in NAME for a series over depth"
        )
    form = re.escape(pattern).replace(re.escape(LAYER), r"(?P<layer>\d+)")
    return Rule(re.compile(form), key)


def places(names: Iterable[str], rules: Iterable[Rule]) -> Mapping[str, Place]:
    """Where each name belongs.

    Raises:
        ReplayError: if two of them belong to one place.
    """
    ordered = tuple(rules)
    found = {name: _place(name, ordered) for name in names}
    holders: dict[Place, str] = {}
    for name, place in found.items():
        if place in holders:
            raise ReplayError(
                f"{holders[place]!r} and {name!r} would both be {place.key!r}; "
                f"rename one with --map '{name}=/other/value'"
            )
        holders[place] = name
    return found


def _place(name: str, rules: Iterable[Rule]) -> Place:
    for one in rules:
        matched = one.form.fullmatch(name)
        if matched:
            layer = matched.groupdict().get("layer")
            return Place(one.key, None if layer is None else int(layer))
    plain = _ALIASES.get(name.lower(), name.replace("/", "."))
    return Place(f"/{plain}/value")
