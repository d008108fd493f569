"""What a prediction means: growth laws, depths at which it goes wrong, formats, advice."""

from __future__ import annotations

from dslm.diagnosis.depth_sweep import CorrelationTrend, Crossing
from dslm.diagnosis.diagnose import diagnose
from dslm.diagnosis.growth import Growth, GrowthBelowTop, fit_growth
from dslm.diagnosis.precision import FORMATS, NumberFormat, Outside
from dslm.diagnosis.report import Advice, Diagnosis, FormatReport, StackDiagnosis, TopGradient
from dslm.diagnosis.score_scale import ScoreScale
from dslm.diagnosis.sentences import crossing_words, scaling_line
from dslm.diagnosis.what_if import with_deepscale, with_depth, with_placement

__all__ = [
    "FORMATS",
    "Advice",
    "CorrelationTrend",
    "Crossing",
    "Diagnosis",
    "FormatReport",
    "Growth",
    "GrowthBelowTop",
    "NumberFormat",
    "Outside",
    "ScoreScale",
    "StackDiagnosis",
    "TopGradient",
    "crossing_words",
    "diagnose",
    "fit_growth",
    "scaling_line",
    "with_deepscale",
    "with_depth",
    "with_placement",
]
