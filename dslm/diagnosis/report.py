"""The values that a diagnosis consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dslm.diagnosis.depth_sweep import CorrelationTrend, Crossing
from dslm.diagnosis.growth import Growth, GrowthBelowTop
from dslm.diagnosis.precision import Outside
from dslm.diagnosis.score_scale import ScoreScale
from dslm.prediction import Prediction
from dslm.scaling import Scaling
from dslm.spec import Missing

StackPlacement = Literal["pre", "post", "sandwich", "branch", "parallel", "mixed", "unknown"]


@dataclass(frozen=True, slots=True)
class TopGradient:
    """The absolute scale of the gradient at a stack's last block.

    Attributes:
        std: standard deviation of an entry of dLoss/d(output of the last block).
        source: ``"given"`` by the caller; ``"predicted"`` from the stack's head and loss, or from
            those of the stack that reads it; or ``"assumed"``: a loss averaged over the batch's
            tokens whose gradient at each token's vector has norm 1/tokens.
    """

    std: float
    source: Literal["given", "predicted", "assumed"]


@dataclass(frozen=True, slots=True)
class FormatReport:
    """How one number format represents one stack's unscaled entries.

    Attributes:
        name: of the format.
        activations, gradients: layers of this stack outside the format's range.
        loss_scale: power of two on the loss that brings every layer's gradient into the normal
            range; None where no single one does.
        activation_overflow: depth at which the stream grows beyond the largest value.
        gradient_imprecise: depth over which the gradient leaves the normal range, at the top
            gradient's scale.
        gradient_span: depth from which on no single loss scale serves all layers.
    """

    name: str
    activations: Outside
    gradients: Outside
    loss_scale: float | None
    activation_overflow: Crossing
    gradient_imprecise: Crossing
    gradient_span: Crossing


@dataclass(frozen=True, slots=True)
class Advice:
    """DeepScaleLM's scales for a stack, and whether it needs them.

    Attributes:
        reasons: what is wrong without them; empty where nothing is.
        scaling: the scales; None where they cannot be computed.
        refusal: why they cannot; empty otherwise.
    """

    reasons: tuple[str, ...]
    scaling: Scaling | None
    refusal: str = ""

    @property
    def needed(self) -> bool:
        """Whether there is a reason to scale."""
        return bool(self.reasons)


@dataclass(frozen=True, slots=True)
class StackDiagnosis:
    """One stack's diagnosis; a part is None where the curve it is made of is not predicted.

    Attributes:
        placement: where the norms of its blocks stand.
        n_layers, d_model, seq_len: blocks, width and tokens of a sequence.
        sentences: the diagnosis in words, most important first.
        variance, gradient: laws of the stream's variance and of its gradient's, over layers
            1 to N.
        gradient_below: the gradient's law below the top layers, where none fits all layers.
        gradient_factor: largest over smallest standard deviation of the gradient, layers 1 to N.
        correlation: how token correlation develops with depth.
        scores: the largest attention scores.
        top_gradient: the absolute scale of the gradient at the last block.
        formats: one report a number format; empty unless both curves are predicted everywhere.
        advice: DeepScaleLM's scales, and whether they are needed.
    """

    placement: StackPlacement
    n_layers: int
    d_model: int
    seq_len: int
    sentences: tuple[str, ...]
    variance: Growth | None
    gradient: Growth | None
    gradient_below: GrowthBelowTop | None
    gradient_factor: float | None
    correlation: CorrelationTrend | None
    scores: ScoreScale | None
    top_gradient: TopGradient
    formats: tuple[FormatReport, ...]
    advice: Advice


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A model's diagnosis, and the prediction that it interprets.

    Attributes:
        stacks: by the stack's name.
        prediction: the curves.
    """

    stacks: Mapping[str, StackDiagnosis]
    prediction: Prediction

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What could not be predicted."""
        return self.prediction.missing
