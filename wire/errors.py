"""The error of a message that breaks the contract."""


class WireError(ValueError):
    """A message that breaks the contract.

    Attributes:
        field: dotted path of the offending field, e.g. ``frames[3].values``.
        fix: one imperative sentence on how to mend it.
    """

    def __init__(self, message: str, *, field: str, fix: str) -> None:
        super().__init__(message)
        self.field = field
        self.fix = fix
