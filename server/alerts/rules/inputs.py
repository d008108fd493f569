"""What enters the first block: the same batch again and again, or tokens that are all alike."""

from __future__ import annotations

from server.alerts.rules.depth import closeness, number
from server.alerts.rules.finding import Advice, Finding
from server.alerts.rules.observation import Observation
from server.alerts.rules.running_stats import NEWEST, QUIET, RunningStats

ALIKE = 1e-3  # 1 − correlation of the tokens that enter; healthy runs stayed above 0.3

DATA = Advice(
    "Look at the data loader: a sampler that was not advanced or seeded alike each step, a worker "
    "that died, a cached batch. If the batch is repeated on purpose, there is nothing to do."
)
TOKENS = Advice(
    "Look at what the model is given: one token over and over, labels or padding in place of "
    "inputs, or an embedding whose rows are all the same. No learning rate helps here."
)


def repeated_batch(observation: Observation, stats: RunningStats) -> list[Finding]:
    """Variance and correlation of what enters a stack stop changing from batch to batch."""
    return [
        Finding(
            rule="repeated_batch",
            severity="warning",
            title="The batch no longer changes",
            message=f"At step {observation.step} what enters the {stack} changes from one sampled "
            f"batch to the next by {number(quietness)} of what it did before: over the last "
            f"{NEWEST} samples the same data seem to come again and again.",
            advice=DATA,
            step=observation.step,
            stack=stack,
            site="stream",
            quantity="variance",
            first_layer=0,
            last_layer=0,
            measured=quietness,
            unit="of the noise before",
            badness=1.0,
        )
        for stack, inputs in stats.inputs.items()
        if (quietness := inputs.quietness) <= QUIET
    ]


def alike_tokens(observation: Observation, _stats: RunningStats) -> list[Finding]:
    """The tokens of a sequence enter the first block as one vector."""
    return [
        Finding(
            rule="alike_tokens",
            severity="warning",
            title="The tokens enter alike",
            message=f"At step {observation.step} the tokens of a sequence are one vector before "
            f"the first block of the {stack}: their correlation is {closeness(correlation)}. No "
            "block has made them so.",
            advice=TOKENS,
            step=observation.step,
            stack=stack,
            site="stream",
            quantity="correlation",
            first_layer=0,
            last_layer=0,
            measured=correlation,
            unit="correlation",
            badness=correlation,
        )
        for stack in observation.stacks
        if enter_alike(correlation := entering_correlation(observation, stack))
    ]


def entering_correlation(observation: Observation, stack: str) -> float:
    """Token correlation of what enters a stack; NaN where it is not measured."""
    correlation = observation.series(stack, "stream", "correlation")
    return float(correlation[0]) if correlation is not None and len(correlation) else float("nan")


def enter_alike(correlation: float) -> bool:
    """Whether tokens of this correlation are one vector."""
    return 1 - correlation <= ALIKE
