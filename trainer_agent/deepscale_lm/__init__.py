"""DeepScaleLM on a real model: its weights and residual scales set, and what was changed told."""

from trainer_agent.deepscale_lm.report import Change, DeepScaleError, Report
from trainer_agent.deepscale_lm.scaling import deepscale

__all__ = ["Change", "DeepScaleError", "Report", "deepscale"]
