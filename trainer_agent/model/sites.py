"""What is measured beyond the default: names of optional sites and quantities."""

from __future__ import annotations

from dataclasses import dataclass

FORMATS = ("fp16", "bf16", "fp8_e4m3", "fp8_e5m2")
RANGES = tuple(f"{form}_{end}" for form in FORMATS for end in ("overflow", "underflow"))
RANKS = ("effective_rank", "stable_rank")
# In the order in which a layout lists them.
QUANTITIES = (
    "mean",
    "variance",
    "correlation",
    "nonfinite",
    "rms",
    "absmax",
    "kurtosis",
    "zeros",
    *RANKS,
    *RANGES,
)
GROUPS = {"ranks": RANKS, "ranges": RANGES, "all": QUANTITIES}
# These follow from the sums that are taken anyway.
FREE = frozenset({"mean", "variance", "correlation", "nonfinite", "rms"})
SITES = ("norm_inputs", "attention_heads", "weights", "updates", "log_z")


@dataclass(frozen=True, slots=True)
class CustomSite:
    """Outputs of modules that the user named.

    Attributes:
        name: the site's name in the series.
        stack: the stack whose blocks hold the modules, or "" where they lie elsewhere.
        paths: one module a block (None where a block has none), or the modules as they come; none
            where a pipeline's other stages may have them.
    """

    name: str
    stack: str
    paths: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class RequestedSites:
    """What the user asked for beyond the default.

    Attributes:
        quantities: measured at every site that has tensors of tokens and features.
        sites: optional sites, of `SITES`.
        custom: sites of the user's own.
        parameters: whether weights and updates are read, which takes an optimizer.
    """

    quantities: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    custom: tuple[CustomSite, ...] = ()
    parameters: bool = False

    @property
    def costly(self) -> frozenset[str]:
        """Quantities that take a pass of their own over a tensor."""
        return frozenset(self.quantities) - FREE


DEFAULT_SITES = RequestedSites()
