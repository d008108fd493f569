"""The cases that are predicted: a model with one set of weights, changed or unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import dslm
from dslm.scaling import DEFAULT_FORM, Form
from dslm.schemes import SchemeName
from server.errors import StartError

Weights = Literal["initialisation", "today"]
FORMS = get_args(Form)
SCHEMES = get_args(SchemeName)
CHOICES = (
    "use pre-ln, post-ln, layers=N, deepscale, "
    f"deepscale={'|'.join(FORMS)} or one of {', '.join(SCHEMES)}"
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of one stack of a run, to compare a prediction with.

    Attributes:
        step: the sampled step.
        top_gradient_std: standard deviation of an entry of the gradient at the last layer.
        gradient_ratio: norm of the gradient at layer 1 over that at the last layer.
        correlation: between tokens, at the last layer.
    """

    step: int
    top_gradient_std: float
    gradient_ratio: float
    correlation: float


@dataclass(frozen=True, slots=True)
class Case:
    """One model to predict.

    Attributes:
        name: its name in tables, plots and JSON.
        spec: the model.
        weights: whose moments the spec has; those before the changes in a what-if.
        step: optimizer step of the weights; None for a config.
        what_if: the changes made, as typed; empty for the unchanged model.
        notes: what a reader must know of how the spec was made.
        measured: by stack, the run's measurements with these weights; empty for a what-if.
        top_gradient: by stack, the measured scale of the gradient at the last layer.
        attribution: the server's answer on why the blocks differ from the run's first, or None.
    """

    name: str
    spec: dslm.ModelSpec
    weights: Weights
    step: int | None = None
    what_if: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    measured: Mapping[str, Measured] = field(default_factory=dict)
    top_gradient: Mapping[str, float] = field(default_factory=dict)
    attribution: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The changes that ``--what-if`` asks for; they are made in the order of the fields.

    Attributes:
        layers, placement: the model's depth and where its norms stand.
        form: of DeepScaleLM, or another scheme; None for the weights that it has.
    """

    layers: int | None = None
    placement: Literal["pre", "post"] | None = None
    form: Form | SchemeName | None = None

    @property
    def typed(self) -> tuple[str, ...]:
        """The changes as they are typed."""
        placed = (f"{self.placement}-ln",) if self.placement else ()
        deeper = (f"layers={self.layers}",) if self.layers else ()
        scaled = () if self.form is None else (_typed(self.form),)
        return deeper + placed + scaled


def _typed(form: str) -> str:
    if form == DEFAULT_FORM:
        return "deepscale"
    return f"deepscale={form}" if form in FORMS else form


def parse_what_if(values: Sequence[str]) -> WhatIf:
    """Parse the values of ``--what-if``.

    Raises:
        StartError: naming a value that is unknown, or contradicts one before it.
    """
    what_if = WhatIf()
    for change in values:
        fields = _parse(change.strip().lower(), change)
        if set(fields) & _set_fields(what_if):
            raise StartError(f"--what-if {fields}: it is asked twice; give each change once")
        what_if = replace(what_if, **fields)  # type: ignore[arg-type]
    return what_if


def _set_fields(what_if: WhatIf) -> set[str]:
    empty = WhatIf()
    names = ("layers", "placement", "form")
    return {name for name in names if getattr(what_if, name) != getattr(empty, name)}


def _parse(text: str, typed: str) -> dict[str, object]:
    if text in ("pre-ln", "post-ln"):
        return {"placement": text.removesuffix("-ln")}
    if text == "deepscale":
        return {"form": DEFAULT_FORM}
    if text in SCHEMES:
        return {"form": text}
    name, _, number = text.partition("=")
    if name == "deepscale" and number in FORMS:
        return {"form": number}
    if name == "layers" and number.isdecimal() and int(number) > 0:
        return {"layers": int(number)}
    raise StartError(f"--what-if {typed}: {CHOICES}")


def changed(case: Case, what_if: WhatIf) -> Case:
    """Return the case after these changes.

    Raises:
        StartError: naming the part of the model that a change cannot be applied to.
    """
    spec, notes = case.spec, list(case.notes)
    try:
        if what_if.layers is not None:
            spec = dslm.with_depth(spec, what_if.layers)
            notes.append(_depth_note(case, what_if.layers))
        if what_if.placement is not None:
            spec = dslm.with_placement(spec, what_if.placement)
        if what_if.form is not None:
            spec = dslm.with_deepscale(spec, what_if.form)
    except dslm.SpecError as error:
        raise StartError(f"--what-if {', '.join(what_if.typed)}: {error}") from error
    name = f"{case.name}, what if {', '.join(what_if.typed)}"
    notes = [note for note in notes if note]
    return replace(
        case,
        name=name,
        spec=spec,
        what_if=what_if.typed,
        notes=tuple(notes),
        measured={},
        attribution=None,
    )


def _depth_note(case: Case, layers: int) -> str:
    depths = {len(stack.blocks) for stack in case.spec.stacks.values()}
    if depths == {layers}:
        return ""
    return f"{layers} layers: the blocks are repeated with the weight scales they have"
