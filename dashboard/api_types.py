"""What the pages read of the API's answers, as typed structs.

A struct names the fields that a page reads; the server may send more. Its OpenAPI schema is the
contract, and a test compares each struct with it. Floats that are NaN or infinite travel as
strings and arrive here as floats; vectors (``*_f32``) are base64, see `dashboard.vectors`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from msgspec import Struct, field

from dashboard.vectors import Vector, decode

Site = Literal["stream", "stream_gradient"]
Moment = Literal["variance", "correlation"]


class AlertCounts(Struct, frozen=True):
    """How many alerts of each severity are not resolved."""

    critical: int = 0
    warning: int = 0


class StackInfo(Struct, frozen=True):
    """Sizes of one stack of blocks."""

    n_layers: int
    d_model: int | None = None
    seq_len: int | None = None


class SeriesInfo(Struct, frozen=True):
    """One series of a run's layout; `key` is ``stack/site/quantity``, `stack` "" for scalars."""

    key: str
    stack: str
    site: str
    quantity: str


class MissingPart(Struct, frozen=True):
    """A part of the model that the theory does not cover."""

    where: str
    what: str
    why: str


class RankHealth(Struct, frozen=True):
    """What one rank's agent reports of itself; `every` is its sampling interval in steps.

    `durable` is the highest frame number that the server has committed for this rank.
    """

    dropped: int = 0
    resent: int = 0
    failures: int = 0
    first_failure: str = ""
    silent: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    overhead: float = 0.0
    every: int = 1
    dropped_sites: list[str] = field(default_factory=list)
    burst_left: int = 0
    burst_note: str = ""
    durable: int = 0


class RunSummary(Struct, frozen=True):
    """One row of the run list. Times are seconds since the epoch."""

    id: str
    project: str
    name: str
    status: str  # no Literal: a status that a newer server adds is no reason to show nothing
    tags: list[str]
    created_at: float
    last_seen: float
    last_step: int | None
    last_loss: float | None
    sparkline: list[float | None]
    architecture: str
    placement: str | None
    family: str
    n_params: int
    alerts: AlertCounts
    frames: int


class RunDetail(RunSummary, frozen=True):
    """Everything about one run except its measurements; `health` is keyed by rank."""

    config: dict[str, Any]
    layout: list[SeriesInfo]
    stacks: dict[str, StackInfo]
    missing: list[MissingPart]
    notes: list[str]
    health: dict[str, RankHealth]
    agent_version: str
    revision_steps: list[int]
    superseded: list[list[int]]


class RunPage(Struct, frozen=True):
    """Runs, newest first."""

    runs: list[RunSummary]
    next_cursor: str | None


class StackProfile(Struct, frozen=True):
    """The vectors of one stack at one step, by ``site/quantity_f32``."""

    series: dict[str, str]

    def vector(self, name: str) -> Vector | None:
        """The series ``site/quantity``, of shape (values,); None where it was not measured."""
        packed = self.series.get(f"{name}_f32")
        return None if packed is None else decode(packed)


class Profile(Struct, frozen=True):
    """Everything measured at one step."""

    step: int
    stacks: dict[str, StackProfile]


class History(Struct, frozen=True):
    """One series over steps; `values_f32` has the given shape, (steps, values)."""

    steps: list[int]
    shape: tuple[int, int]
    values_f32: str


class Band(NamedTuple):
    """A predicted curve with its lower and upper edge, each of shape (layers + 1,) or empty."""

    middle: Vector
    low: Vector
    high: Vector


class Curve(Struct, frozen=True):
    """Predicted moments at one site, NaN where the theory has no value."""

    variance_f32: str
    variance_low_f32: str
    variance_high_f32: str
    correlation_f32: str
    correlation_low_f32: str
    correlation_high_f32: str

    def band(self, moment: Moment) -> Band:
        """The curve of one moment."""
        if moment == "variance":
            packed = self.variance_f32, self.variance_low_f32, self.variance_high_f32
        else:
            packed = self.correlation_f32, self.correlation_low_f32, self.correlation_high_f32
        return Band(*map(decode, packed))


class StackCurves(Struct, frozen=True):
    """The predicted curves of one stack, forward and backward."""

    stream: Curve
    stream_gradient: Curve

    def at(self, site: Site) -> Curve:
        """The curves of one site."""
        return self.stream if site == "stream" else self.stream_gradient


class Revision(Struct, frozen=True):
    """A prediction from the weights of one step; `state` is ready, pending or failed."""

    state: str
    reason: str = ""
    step: int = 0
    stacks: dict[str, StackCurves] = field(default_factory=dict)
    missing: list[MissingPart] = field(default_factory=list)


class Predictions(Struct, frozen=True):
    """Every revision, ascending by step."""

    revisions: list[Revision]


class AttributionDirection(Struct, frozen=True):
    """Decades of each block; `terms` add up to `total`, None is a block without a number."""

    total: list[float | None]
    terms: dict[str, list[float | None]]


class AttributionPart(Struct, frozen=True):
    """One part's share of its block's total, in decades."""

    block: int
    direction: str
    part: str
    term: str
    decades: float


class StackAttribution(Struct, frozen=True):
    """One stack; `cumulative` is `forward` with what enters a block followed below it."""

    forward: AttributionDirection
    backward: AttributionDirection
    cumulative: AttributionDirection
    parts: list[AttributionPart]
    sentences: list[str]


class Attribution(Struct, frozen=True):
    """What makes the blocks of one description differ from an earlier one's."""

    baseline_step: int
    step: int
    note: str
    terms: list[str]
    stacks: dict[str, StackAttribution]
    missing: list[MissingPart]


class Scaling(Struct, frozen=True):
    """DeepScaleLM's residual scales, and the call that applies them."""

    lam: float
    beta: float
    snippet: str


class Advice(Struct, frozen=True):
    """What to do about an alert."""

    text: str
    scaling: Scaling | None = None


class Alert(Struct, frozen=True):
    """One alert: what a rule found, where, and whether it is open, acknowledged or resolved."""

    id: str
    run_id: str
    run_name: str
    severity: str
    title: str
    message: str
    stack: str
    site: str
    quantity: str
    first_layer: int | None
    last_layer: int | None
    step: int
    measured: float | None
    predicted: float | None
    unit: str
    advice: Advice
    status: str
    opened_at: float


class IncidentChange(Struct, frozen=True):
    """One line of an incident's timeline; `step` is None for what people did."""

    at: float
    step: int | None
    kind: str
    alert: str | None
    text: str


class Incident(Struct, frozen=True):
    """What one fault raised; the first of its alerts is the root, whose remedy is its own."""

    id: str
    run_id: str
    run_name: str
    cause: str | None
    severity: str
    title: str
    message: str
    advice: Advice
    first_step: int
    last_step: int
    status: str
    note: str
    opened_at: float
    alerts: list[Alert]
    timeline: list[IncidentChange]


class IncidentPage(Struct, frozen=True):
    """Incidents, newest first."""

    incidents: list[Incident]
    next_cursor: str | None = None


class DescriptionRequest(Struct, frozen=True):
    """The command by which a job is asked to describe its model again."""

    id: str


class ErrorBody(Struct, frozen=True):
    """Why the server refused, and what the reader can do about it."""

    message: str
    fix: str = ""


class Failure(Struct, frozen=True):
    """Body of every 4xx and 5xx answer."""

    error: ErrorBody
