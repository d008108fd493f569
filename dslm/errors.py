"""The errors that the theory raises on bad input."""

from __future__ import annotations


class SpecError(ValueError):
    """A model spec that describes no possible model, or an argument out of its range.

    Attributes:
        field: path of the field, e.g. ``stacks.decoder.blocks[3].attention.p_drop``.
        fix: what to write there instead.
    """

    def __init__(self, field: str, fix: str) -> None:
        super().__init__(f"{field}: {fix}")
        self.field = field
        self.fix = fix


class AssumptionError(ValueError):
    """An input outside the assumptions under which a formula was derived."""
