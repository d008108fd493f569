"""The theory: signal-propagation moments of transformers, forward and backward::

    prediction = dslm.predict(spec)
    prediction.stacks["decoder"].forward.variance  # float64[N+1], index 0 the input of block 0

A `ModelSpec` holds what the theory needs to know of a model; `trainer_agent.describe` makes one of
a PyTorch model. Everything here is dimensionless unless its name says otherwise.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dslm.attribution import (
        Attribution,
        Direction,
        PartShare,
        StackAttribution,
        attribute,
    )
    from dslm.branch_share import BranchShare, residual_amplitudes
    from dslm.depth_spread import Evenness, evenness
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
    from dslm.flows import BlockFlow, Site
    from dslm.labels import masked_labels, next_token_labels
    from dslm.masks.cell_sizes import cell_sizes
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
        Carried,
        CrossAttention,
        Experts,
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
    "Attribution",
    "Block",
    "BlockFlow",
    "BlockScaling",
    "BranchShare",
    "Carried",
    "CrossAttention",
    "Curve",
    "Diagnosis",
    "Direction",
    "Evenness",
    "Experts",
    "FeedForward",
    "Head",
    "HeadLayer",
    "Kernel",
    "Labels",
    "Linear",
    "Missing",
    "ModelSpec",
    "Norm",
    "PartShare",
    "Placement",
    "PositionBias",
    "Prediction",
    "Residual",
    "Rotary",
    "Scaling",
    "Site",
    "SpecError",
    "Stack",
    "StackAttribution",
    "StackDiagnosis",
    "StackPrediction",
    "alibi",
    "alibi_slopes",
    "apply_scaling",
    "attribute",
    "cell_sizes",
    "deepscale",
    "deepscale_stacks",
    "diagnose",
    "embedding_kernel",
    "evenness",
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

_HOMES = {
    "Activation": "dslm.spec",
    "Amplitudes": "dslm.unit_branches",
    "AssumptionError": "dslm.errors",
    "Attention": "dslm.spec",
    "AttentionScaling": "dslm.scaling",
    "Attribution": "dslm.attribution",
    "Block": "dslm.spec",
    "BlockFlow": "dslm.flows",
    "BlockScaling": "dslm.scaling",
    "BranchShare": "dslm.branch_share",
    "Carried": "dslm.spec",
    "CrossAttention": "dslm.spec",
    "Curve": "dslm.prediction",
    "Diagnosis": "dslm.diagnosis",
    "Direction": "dslm.attribution",
    "Evenness": "dslm.depth_spread",
    "Experts": "dslm.spec",
    "FeedForward": "dslm.spec",
    "Head": "dslm.spec",
    "HeadLayer": "dslm.spec",
    "Kernel": "dslm.spec",
    "Labels": "dslm.spec",
    "Linear": "dslm.spec",
    "Missing": "dslm.spec",
    "ModelSpec": "dslm.spec",
    "Norm": "dslm.spec",
    "PartShare": "dslm.attribution",
    "Placement": "dslm.spec",
    "PositionBias": "dslm.spec",
    "Prediction": "dslm.prediction",
    "Residual": "dslm.spec",
    "Rotary": "dslm.spec",
    "Scaling": "dslm.scaling",
    "Site": "dslm.flows",
    "SpecError": "dslm.errors",
    "Stack": "dslm.spec",
    "StackAttribution": "dslm.attribution",
    "StackDiagnosis": "dslm.diagnosis",
    "StackPrediction": "dslm.prediction",
    "alibi": "dslm.position_bias",
    "alibi_slopes": "dslm.position_bias",
    "apply_scaling": "dslm.scaling",
    "attribute": "dslm.attribution",
    "cell_sizes": "dslm.masks.cell_sizes",
    "deepscale": "dslm.scaling",
    "deepscale_stacks": "dslm.scaling",
    "diagnose": "dslm.diagnosis",
    "embedding_kernel": "dslm.embedding",
    "evenness": "dslm.depth_spread",
    "masked_labels": "dslm.labels",
    "next_token_labels": "dslm.labels",
    "predict": "dslm.model",
    "prediction_from_json": "dslm.serial",
    "prediction_to_json": "dslm.serial",
    "residual_amplitudes": "dslm.branch_share",
    "same_token_probability": "dslm.embedding",
    "spec_from_json": "dslm.serial",
    "spec_to_json": "dslm.serial",
    "validate": "dslm.validation",
    "with_deepscale": "dslm.diagnosis",
    "with_depth": "dslm.diagnosis",
    "with_placement": "dslm.diagnosis",
}


def __getattr__(name: str) -> Any:
    # A training job imports `dslm` for the spec's classes alone; the arithmetic, and numpy where
    # nothing else has loaded it, would cost it start-up time and memory for nothing.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
