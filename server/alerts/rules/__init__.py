"""The alert rules: pure judgements of one sampled step, given a run's short memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from server.alerts.rules.catalogue import RULES, Rule
from server.alerts.rules.finding import Advice, Finding, Key, ScalingAdvice, Severity
from server.alerts.rules.memory import Memory, remember
from server.alerts.rules.observation import Expected, Observation, StackFacts, facts, observe
from server.alerts.rules.telemetry import silence

__all__ = [
    "RULES",
    "Advice",
    "Expected",
    "Finding",
    "Key",
    "Memory",
    "Observation",
    "Rule",
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
    """What holds at one sampled step.

    Attributes:
        findings: what the rules found.
        judged: names of the rules that judged this step; the others neither hold nor clear.
        memory: the run's memory after this step.
    """

    findings: tuple[Finding, ...]
    judged: frozenset[str]
    memory: Memory


def evaluate(observation: Observation, memory: Memory) -> Verdict:
    """Judge one sampled step; a step not past the memory's last is a replay, and not judged."""
    if observation.step <= memory.step:
        return Verdict((), frozenset(), memory)
    with np.errstate(all="ignore"):  # NaN and Inf are measurements; comparisons deal with them
        grown = remember(memory, observation)
        answers = {rule.name: rule.check(observation, grown) for rule in RULES}
        if observation.partial:
            answers = {name: found if name in SEES_NAN else None for name, found in answers.items()}
    judged = _judged(answers)
    if "departs_from_prediction" in judged:
        grown = replace(grown, early=(), early_judged=True)
    return Verdict(
        findings=tuple(one for found in answers.values() for one in found or ()),
        judged=judged,
        memory=grown,
    )


def _judged(answers: Mapping[str, list[Finding] | None]) -> frozenset[str]:
    judged = frozenset(name for name, found in answers.items() if found is not None)
    # Where values are NaN a rule that finds nothing has seen nothing: no alert clears by it.
    return judged & SEES_NAN if answers["nonfinite"] else judged
