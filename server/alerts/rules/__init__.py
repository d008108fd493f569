"""The alert rules: pure judgements of one sampled step, given the run's recent past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from server.alerts.rules.catalogue import RULES, Rule
from server.alerts.rules.finding import Advice, Finding, Key, ScalingAdvice, Severity
from server.alerts.rules.observation import Expected, Observation, StackFacts, facts, observe
from server.alerts.rules.running_stats import RunningStats, updated
from server.alerts.rules.telemetry import silence

__all__ = [
    "RULES",
    "Advice",
    "Expected",
    "Finding",
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
    "silence",
]

SEES_NAN = frozenset({"nonfinite", "agent_health", "lost_contact"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one sampled step.

    Attributes:
        findings: the findings of every rule.
        judged: names of the rules that judged this step; the others neither hold nor clear.
        stats: the run's past after this step.
    """

    findings: tuple[Finding, ...]
    judged: frozenset[str]
    stats: RunningStats


def evaluate(observation: Observation, stats: RunningStats) -> Verdict:
    """Judge one sampled step; a step that is not past the last one is a replay, and not judged."""
    if observation.step <= stats.step:
        return Verdict((), frozenset(), stats)
    with np.errstate(all="ignore"):  # NaN and Inf are measurements; comparisons deal with them
        stats = updated(stats, observation)
        answers = {rule.name: rule.check(observation, stats) for rule in RULES}
        if observation.partial:  # the layers that a burst leaves out are NaN, and not wrong
            answers = {name: answers[name] if name in SEES_NAN else None for name in answers}
    judged = _judged(answers)
    if "departs_from_prediction" in judged:
        stats = replace(stats, early=(), early_judged=True)
    return Verdict(
        findings=tuple(finding for findings in answers.values() for finding in findings or ()),
        judged=judged,
        stats=stats,
    )


def _judged(answers: Mapping[str, list[Finding] | None]) -> frozenset[str]:
    judged = frozenset(name for name, findings in answers.items() if findings is not None)
    # A comparison with NaN is false: a rule without a finding says nothing then, and clears none.
    return judged & SEES_NAN if answers["nonfinite"] else judged
