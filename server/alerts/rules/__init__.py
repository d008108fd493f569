"""The alert rules: pure judgements of one step, given the run's recent past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from server.alerts.rules.catalogue import RULES, Hold, Rule
from server.alerts.rules.finding import Advice, Finding, Key, ScalingAdvice, Severity
from server.alerts.rules.observation import (
    Expected,
    Observation,
    StackFacts,
    facts,
    observe,
    observe_scalars,
)
from server.alerts.rules.running_stats import RunningStats, updated
from server.alerts.rules.telemetry import silence

__all__ = [
    "RULES",
    "Advice",
    "Expected",
    "Finding",
    "Hold",
    "Key",
    "Observation",
    "Rule",
    "RunningStats",
    "ScalingAdvice",
    "Severity",
    "StackFacts",
    "Verdict",
    "evaluate",
    "facts",
    "observe",
    "observe_scalars",
    "silence",
]

SEES_NAN = frozenset({"nonfinite", "agent_health", "lost_contact"})
EVERY_RULE = frozenset(rule.name for rule in RULES)
LOSS_SITE = "loss"
NEED_A_LOSS = frozenset({"loss_divergence", "loss_rise", "loss_sign", "loss_spike", "rate_jump"})
# The rules that need no sample: `nonfinite` then looks at the loss alone.
OF_SCALARS = NEED_A_LOSS | {"nonfinite", "lost_contact", "zero_rate"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one step.

    Attributes:
        findings: the findings of every rule.
        judged: names of the rules that judged this step; the others neither hold nor clear.
        stats: the run's past after this step.
        sampled: whether the step was sampled; else streams were not looked at.
        has_loss: whether it has a loss.
        holds: for how long rules beside the built-in ones must hold and be clear, by name. An
            alert of such a rule that is missing here has lost its rule.
    """

    findings: tuple[Finding, ...]
    judged: frozenset[str]
    stats: RunningStats
    sampled: bool = True
    has_loss: bool = True
    holds: Mapping[str, Hold] = field(default_factory=dict)

    def judges(self, key: Key) -> bool:
        """Whether this step says something of what an alert is about."""
        if key.rule == "nonfinite":
            looked_at = self.has_loss if key.site == LOSS_SITE else self.sampled
            return looked_at and key.rule in self.judged
        return key.rule in self.judged


def evaluate(observation: Observation, stats: RunningStats) -> Verdict:
    """Judge one step; a step that is not past the last one is a replay, and not judged."""
    if observation.step <= stats.step:
        return Verdict((), frozenset(), stats)
    with np.errstate(all="ignore"):  # NaN and Inf are measurements; comparisons deal with them
        stats, applicable = updated(stats, observation), _applicable(observation)
        answers = {
            rule.name: rule.check(observation, stats) if rule.name in applicable else None
            for rule in RULES
        }
    judged = _judged(answers)
    if "departs_from_prediction" in judged:
        stats = replace(stats, early=(), early_judged=True)
    return Verdict(
        findings=tuple(finding for findings in answers.values() for finding in findings or ()),
        judged=judged,
        stats=stats,
        sampled=observation.sampled,
        has_loss=observation.has_loss,
    )


def _applicable(observation: Observation) -> frozenset[str]:
    """Names of the rules that can judge a step by what there is of it."""
    if observation.partial:  # the layers that a burst leaves out are NaN, and not wrong
        names = SEES_NAN | NEED_A_LOSS | {"zero_rate"}
    else:
        names = EVERY_RULE if observation.sampled else OF_SCALARS
    return names if observation.has_loss else names - NEED_A_LOSS


def _judged(answers: Mapping[str, list[Finding] | None]) -> frozenset[str]:
    judged = frozenset(name for name, findings in answers.items() if findings is not None)
    # A comparison with NaN is false: a rule without a finding says nothing then, and clears none.
    return judged & SEES_NAN if answers["nonfinite"] else judged
