"""What training hands to the sender."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire import RunDeclaration, RunEnd

Content = tuple[RunDeclaration, NDArray[np.float32]]


@dataclass(slots=True)  # not frozen: the training thread makes it, in a third of the time so
class Sample:
    """One sampled step on its way: `content` waits for the device, in the sender thread."""

    step: int
    time: float
    content: Callable[[], Content]


@dataclass(frozen=True, slots=True)
class Description:
    """The model's description at a step: `spec` packs it, in the sender thread.

    `together` is whether every process of the job has to, each with its part of the weights.
    """

    step: int
    spec: Callable[[], dict[str, Any]]
    together: bool = False


Parcel = Sample | Description | RunEnd
