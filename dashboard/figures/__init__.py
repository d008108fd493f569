"""Figures: values in, a `plotly.graph_objects.Figure` (or an SVG) out; no Dash, no fetching."""

from dashboard.figures.blocks import BLOCK_CHARTS, BlockChart, block_chart
from dashboard.figures.causes import causes_chart
from dashboard.figures.causes import colours_of as colours_of_causes
from dashboard.figures.depth import DepthColumn, depth_chart
from dashboard.figures.heatmap import heatmap_axes
from dashboard.figures.innovations import innovation_profile
from dashboard.figures.scalars import ScalarRun, scalar_chart
from dashboard.figures.series import (
    colour_of,
    series_over_layers,
    series_over_steps,
    shown_layers,
)
from dashboard.figures.sparkline import sparkline_uri

__all__ = [
    "BLOCK_CHARTS",
    "BlockChart",
    "DepthColumn",
    "ScalarRun",
    "block_chart",
    "causes_chart",
    "colour_of",
    "colours_of_causes",
    "depth_chart",
    "heatmap_axes",
    "innovation_profile",
    "scalar_chart",
    "series_over_layers",
    "series_over_steps",
    "shown_layers",
    "sparkline_uri",
]
