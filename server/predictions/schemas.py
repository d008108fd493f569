"""The JSON form of predictions."""

from __future__ import annotations

from typing import Any, Literal

from server.predictions.rows import PredictionState
from server.schemas import Answer, MissingInfo

Label = Literal["at initialisation", "from today's weights"]


class CurveAnswer(Answer):
    """N+1 float32 values each, base64; NaN where nothing is predicted."""

    variance_f32: str
    variance_low_f32: str
    variance_high_f32: str
    correlation_f32: str
    correlation_low_f32: str
    correlation_high_f32: str


class StackCurves(Answer):
    """Both directions of one stack.

    `gradient_scale` is the variance of dLoss/d(output of the last block) to which that of
    `stream_gradient` is relative; it, the expected first `loss` and the `logit_variance` are null
    where the model's forward pass shows no loss that is understood.
    """

    stream: CurveAnswer
    stream_gradient: CurveAnswer
    gradient_scale: float | None = None
    logit_variance: float | None = None
    loss: float | None = None


class PredictionAnswer(Answer):
    """Theory's curves from the weights of one step."""

    step: int
    label: Label
    state: PredictionState
    reason: str
    stacks: dict[str, StackCurves]
    missing: list[MissingInfo]


class Predictions(Answer):
    """Every revision, ascending by step."""

    revisions: list[PredictionAnswer]


class SpecAnswer(Answer):
    """The model as its agent described it: `spec` is what `dslm.spec_from_json` reads."""

    step: int
    label: Label
    spec: dict[str, Any]
