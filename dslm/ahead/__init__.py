"""One block ahead: what each block is expected to do, from what it did before."""

from dslm.ahead.alignment import alignment, block_alignment
from dslm.ahead.departures import Departure, departures
from dslm.ahead.prediction import Ahead, predict_ahead
from dslm.ahead.quantities import QUANTITIES, Quantity
from dslm.ahead.slow_mean import WINDOW, Expected, expect

__all__ = [
    "QUANTITIES",
    "WINDOW",
    "Ahead",
    "Departure",
    "Expected",
    "Quantity",
    "alignment",
    "block_alignment",
    "departures",
    "expect",
    "predict_ahead",
]
