"""Dual activations: moments of a nonlinearity at two correlated Gaussian inputs."""

from __future__ import annotations

from dslm.duals.dual import Dual, dual_of

__all__ = ["Dual", "dual_of"]
