"""The theory: signal-propagation moments of transformers, forward and backward."""

from __future__ import annotations

from dslm.diagnosis import (
    Diagnosis,
    StackDiagnosis,
    diagnose,
    with_deepscale,
    with_depth,
    with_placement,
)
from dslm.embedding import embedding_kernel, same_token_probability
from dslm.errors import AssumptionError, SpecError
from dslm.kernels.cells import cell_sizes
from dslm.labels import masked_labels, next_token_labels
from dslm.model import predict
from dslm.position_bias import alibi, alibi_slopes
from dslm.prediction import Curve, Prediction, StackPrediction
from dslm.scaling import (
    AttentionScaling,
    BlockScaling,
    Scaling,
    apply_scaling,
    deepscale,
    deepscale_stacks,
    residual_amplitudes,
)
from dslm.serial import (
    prediction_from_json,
    prediction_to_json,
    spec_from_json,
    spec_to_json,
)
from dslm.spec import (
    Activation,
    Attention,
    Block,
    CrossAttention,
    FeedForward,
    Head,
    HeadLayer,
    Kernel,
    Labels,
    Linear,
    Missing,
    ModelSpec,
    Norm,
    Placement,
    PositionBias,
    Residual,
    Rotary,
    Stack,
)
from dslm.unit_branches import Amplitudes
from dslm.validation import validate

__all__ = [
    "Activation",
    "Amplitudes",
    "AssumptionError",
    "Attention",
    "AttentionScaling",
    "Block",
    "BlockScaling",
    "CrossAttention",
    "Curve",
    "Diagnosis",
    "FeedForward",
    "Head",
    "HeadLayer",
    "Kernel",
    "Labels",
    "Linear",
    "Missing",
    "ModelSpec",
    "Norm",
    "Placement",
    "PositionBias",
    "Prediction",
    "Residual",
    "Rotary",
    "Scaling",
    "SpecError",
    "Stack",
    "StackDiagnosis",
    "StackPrediction",
    "alibi",
    "alibi_slopes",
    "apply_scaling",
    "cell_sizes",
    "deepscale",
    "deepscale_stacks",
    "diagnose",
    "embedding_kernel",
    "masked_labels",
    "next_token_labels",
    "predict",
    "prediction_from_json",
    "prediction_to_json",
    "residual_amplitudes",
    "same_token_probability",
    "spec_from_json",
    "spec_to_json",
    "validate",
    "with_deepscale",
    "with_depth",
    "with_placement",
]
