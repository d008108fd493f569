"""The JSON form of users' rules: what ``/rules`` takes and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from server.alerts.rules import Severity
from server.schemas import Answer, StorableText
from server.settings import PeerRule

ID = "^[0-9a-f]{32}$"
MOST_SAMPLES = 10_000
# ``stack/site/quantity``; ``*`` is every stack, nothing before the first slash the complete model.
SERIES = r"^(\*|[^/\s]*)/[^/\s]+/[^/\s]+$"
#: The series that theory predicts, without their stack.
PREDICTED = ("stream/variance", "stream/correlation", "stream_gradient/variance")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Above(_Body):
    """A value is larger than this."""

    kind: Literal["above"]
    value: FiniteFloat


class Below(_Body):
    """A value is smaller than this."""

    kind: Literal["below"]
    value: FiniteFloat


class OutsideBand(_Body):
    """A value lies outside theory's band at initialisation.

    A variance by more than this factor; a correlation by more than this gap, on either side.
    """

    kind: Literal["outside_band"]
    factor: Annotated[FiniteFloat, Field(ge=1.0)] = 1.0
    gap: Annotated[FiniteFloat, Field(ge=0.0, le=2.0)] = 0.0


class Rises(_Body):
    """A value is at least this factor times the median of the samples before it."""

    kind: Literal["rises"]
    factor: Annotated[FiniteFloat, Field(gt=1.0)]
    window: Annotated[int, Field(ge=1, le=512)] = 32


class Falls(_Body):
    """A value is at most one over this factor of the median of the samples before it."""

    kind: Literal["falls"]
    factor: Annotated[FiniteFloat, Field(gt=1.0)]
    window: Annotated[int, Field(ge=1, le=512)] = 32


class Missing(_Body):
    """There is no value: the series is not recorded, was not given, or is NaN everywhere."""

    kind: Literal["missing"]


class Preset(_Body):
    """Another tool's published rule, with its own defaults; it chooses its series itself."""

    kind: Literal["preset"]
    preset: PeerRule


Condition = Annotated[
    Above | Below | OutsideBand | Rises | Falls | Missing | Preset, Field(discriminator="kind")
]


class Layers(_Body):
    """Layers from `first` to `last`, both included, as the charts count them."""

    first: int = Field(ge=0, le=100_000)
    last: int = Field(ge=0, le=100_000)

    @model_validator(mode="after")
    def _ascend(self) -> Layers:
        if self.last < self.first:
            raise PydanticCustomError(
                "layers", "last is {last}, which is below first, {first}", self.model_dump()
            )
        return self


class RuleRequest(_Body):
    """Body of ``POST /rules`` and ``PUT /rules/{id}``.

    Attributes:
        name: heads its alerts.
        enabled: whether runs are judged by it.
        series: ``stack/site/quantity``, such as ``decoder/stream/variance`` or ``/loss/value``;
            ``*`` is every stack. Null for a preset.
        layers: which entries of the series; null for all of them.
        condition: when it holds at a step; at any of the layers.
        for_samples: judged steps in a row for which it holds before an alert opens.
        clear_samples: judged steps in a row without it before the alert is resolved.
        severity: of its alerts.
        advice: what to do, in the user's own words.
        project: the only project whose runs are judged; null for every project.
        tags: judges the runs that have all of these.
    """

    name: Annotated[StorableText, Field(min_length=1, max_length=120)]
    enabled: bool = True
    condition: Condition
    series: Annotated[
        Annotated[StorableText, Field(pattern=SERIES, max_length=200)] | None,
        Field(validate_default=True),
    ] = None
    layers: Layers | None = None
    for_samples: int = Field(default=1, ge=1, le=MOST_SAMPLES)
    clear_samples: int = Field(default=20, ge=1, le=MOST_SAMPLES)
    severity: Severity = "warning"
    advice: Annotated[StorableText, Field(max_length=2_000)] = ""
    project: Annotated[StorableText | None, Field(min_length=1, max_length=200)] = None
    tags: tuple[StorableText, ...] = Field(default=(), max_length=50)

    @field_validator("series")
    @classmethod
    def _fits_condition(cls, series: str | None, info: ValidationInfo) -> str | None:
        condition = info.data.get("condition")
        if condition is None:  # that field's own error is answered
            return series
        if isinstance(condition, Preset):
            if series is not None:
                raise PydanticCustomError("series", "a preset chooses its series: leave it out")
        elif series is None:
            raise PydanticCustomError(
                "series", "a rule needs a series, such as /loss/value or decoder/stream/variance"
            )
        elif isinstance(condition, OutsideBand) and series.split("/", 1)[1] not in PREDICTED:
            raise PydanticCustomError(
                "series",
                "theory predicts no band for it, but for {predicted} of a stack",
                {"predicted": ", ".join(PREDICTED)},
            )
        return series


class Rule(Answer):
    """A stored rule."""

    id: str
    name: str
    enabled: bool
    series: str | None
    layers: Layers | None
    condition: Condition
    for_samples: int
    clear_samples: int
    severity: Severity
    advice: str
    project: str | None
    tags: tuple[str, ...]
    created_at: float
    updated_at: float


class PresetInfo(Answer):
    """A published rule of another tool.

    Attributes:
        name: what a condition of kind ``preset`` names it by.
        title: the tool's name and the rule's.
        rule: what it says, with its defaults, in a sentence.
        source: where it is published.
        switched_on: whether the server's settings have every run judged by it.
    """

    name: PeerRule
    title: str
    rule: str
    source: str
    switched_on: bool


class BuiltInRule(Answer):
    """A rule of evenkeel's own."""

    name: str
    opens_after: int
    clears_after: int


class RuleList(Answer):
    """Users' rules, oldest first; the presets there are; and the rules that always judge."""

    rules: list[Rule]
    presets: list[PresetInfo]
    built_in: list[BuiltInRule]


class TrialRequest(_Body):
    """Body of ``POST /rules/test``: a rule that need not be stored, and a stored run."""

    rule: RuleRequest
    run: str = Field(pattern=ID)
    first_step: int = Field(default=0, ge=0)
    last_step: int | None = Field(default=None, ge=0)


class Firing(Answer):
    """One alert that the rule would have opened.

    Attributes:
        began: the step from which it held in a row.
        step: the step at which the alert opens.
        resolved: the step at which it is resolved; null where it still holds at the end.
        message: what the alert would say as it opens.
    """

    began: int
    step: int
    resolved: int | None
    stack: str
    first_layer: int | None
    last_layer: int | None
    measured: float | None
    predicted: float | None
    message: str


class Trial(Answer):
    """Where a rule would have fired on a run.

    Attributes:
        judged: steps that it judged.
        first_step, last_step: between them; null where there are none.
        truncated: whether the run has more steps than one test judges.
        note: why it judged nothing, ``""`` where it did.
    """

    run_id: str
    judged: int
    first_step: int | None
    last_step: int | None
    truncated: bool
    firings: list[Firing]
    note: str
