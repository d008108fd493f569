"""Time as the server sees it; tests hand in one that they move themselves."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]

system_clock: Clock = time.time
