"""DeepScaleLM on a real model: its weights and residual scales set, and what was changed told."""

from .report import Change, DeepScaleError, Report
from .scaling import deepscale

__all__ = ["Change", "DeepScaleError", "Report", "deepscale"]
