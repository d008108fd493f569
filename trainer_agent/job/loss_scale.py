"""The loss scale of mixed-precision training, read without waiting for the device."""

from __future__ import annotations

import gc
import logging
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("evenkeel")


class LossScale:
    """Knows the scale that the gradients of the running step carry."""

    def __init__(self, scaler: Any = None) -> None:
        self._scaler = scaler
        self._searched = False
        self._in_force: Tensor | None = None

    @property
    def has_scaler(self) -> bool:
        """Whether there is a scaler, given or found."""
        return self._scaler is not None

    def note(self, *, half: bool) -> None:
        """A backward pass has begun; `half`: with float16 in it, so that a scaler is likely."""
        if self._scaler is None and half and not self._searched:
            self._searched = True
            self._scaler = _only_scaler()
        scale = getattr(self._scaler, "_scale", None)
        # A copy on the device: by the end of the step the scaler may have changed its own.
        self._in_force = scale.detach().clone() if isinstance(scale, Tensor) else None

    def in_force(self) -> Tensor | None:
        """The scale of the gradients now there, None where they are not scaled."""
        return self._in_force

    def take(self) -> Tensor | None:
        """The same, for the last time in this step."""
        scale, self._in_force = self._in_force, None
        return scale


def _only_scaler() -> Any:
    """The only scaler in use in the process; None where there are several."""
    kind = torch.amp.GradScaler
    # By type, not isinstance: that would ask objects of other libraries for their class.
    scalers = [x for x in gc.get_objects() if issubclass(type(x), kind) and x.is_enabled()]
    used = [scaler for scaler in scalers if getattr(scaler, "_scale", None) is not None]
    if len(used) > 1:
        logger.warning(
            "evenkeel sees %d gradient scalers and shows gradients as scaled: "
            "pass this model's as watch(..., scaler=...)",
            len(used),
        )
    return used[0] if len(used) == 1 else None
