"""Judges one step by users' rules and switched-on presets, as the built-in rules do. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from server.alerts.rules import Advice, Finding, Hold, Observation, Verdict
from server.alerts.rules.depth import longest_run, number
from server.alerts.rules.observation import Floats
from server.alerts.user_rules import presets
from server.alerts.user_rules.conditions import Judged, judge, series_of
from server.alerts.user_rules.presets import PresetPast
from server.alerts.user_rules.schemas import (
    Above,
    Below,
    Condition,
    Falls,
    Missing,
    Preset,
    Rises,
    RuleRequest,
)
from server.settings import PeerRule

USER, PEER = "user:", "peer:"
NO_ADVICE = "This rule is your own: see its settings for what it watches."
PEER_ADVICE = "Look at the batch and at the learning rate of this step. The rule is {title}'s."


@dataclass(frozen=True, slots=True)
class UserRule:
    """A rule with the name that its findings carry, and when it was last changed."""

    name: str
    request: RuleRequest
    updated_at: float = 0.0

    @property
    def version(self) -> tuple[str, float]:
        """What its memory is kept under: a rule that was changed begins anew."""
        return self.name, self.updated_at

    @property
    def window(self) -> int:
        """How many samples before this one it looks at."""
        condition = self.request.condition
        return condition.window if isinstance(condition, Rises | Falls) else 0


def stored_rule(rule_id: str, request: RuleRequest, updated_at: float = 0.0) -> UserRule:
    """A rule that a user has stored."""
    return UserRule(name_of(rule_id), request, updated_at)


def name_of(rule_id: str) -> str:
    """The name that alerts of a stored rule carry."""
    return f"{USER}{rule_id}"


def preset_rule(name: PeerRule) -> UserRule:
    """A preset that the settings switch on for every run."""
    title = presets.RULES[name].title
    condition = Preset(kind="preset", preset=name)
    return UserRule(f"{PEER}{name}", RuleRequest(name=title, condition=condition))


@dataclass(frozen=True, slots=True)
class RulePast:
    """What one rule remembers of a run: its last samples by stack, and its preset's memory."""

    samples: Mapping[str, tuple[Floats, ...]] = field(default_factory=dict)
    preset: PresetPast = field(default_factory=PresetPast)


Pasts = Mapping[tuple[str, float], RulePast]


def judged_by(
    rules: Sequence[UserRule],
    verdict: Verdict,
    observation: Observation,
    pasts: Pasts,
    *,
    is_replay: bool = False,
) -> tuple[Verdict, Pasts]:
    """The verdict with what these rules find, and what they remember after this step.

    Alerts of a rule that is not among them any more are resolved by `lifecycle.advance`. A step
    that is not past the last one is a replay, and not judged.
    """
    findings, judged, after = list(verdict.findings), set(verdict.judged), dict(pasts)
    for rule in () if is_replay else rules:
        answer, past = _judged(rule, observation, pasts.get(rule.version, RulePast()))
        after[rule.version] = past
        if answer is not None:
            judged.add(rule.name)
            findings += answer
    holds = {
        rule.name: Hold(rule.request.for_samples, rule.request.clear_samples) for rule in rules
    }
    verdict = replace(verdict, findings=tuple(findings), judged=frozenset(judged), holds=holds)
    return verdict, {rule.version: after[rule.version] for rule in rules if rule.version in after}


def _judged(
    rule: UserRule, observation: Observation, past: RulePast
) -> tuple[list[Finding] | None, RulePast]:
    """Findings, None where this step does not say, and the past after it."""
    condition = rule.request.condition
    if isinstance(condition, Preset):
        return _of_preset(rule, condition.preset, observation, past)
    series = rule.request.series
    if series is None or not _says(series, observation):
        return None, past
    answers: list[list[Finding] | None] = []
    samples = dict(past.samples)
    for stack, values in series_of(observation, series):
        before = samples.get(stack, ())
        answers.append(_of_stack(rule, observation, stack, values, before))
        if rule.window and values is not None:
            samples[stack] = (*before, values)[-rule.window :]
    said = [answer for answer in answers if answer is not None]
    findings = [finding for answer in said for finding in answer]
    return (findings if said else None), replace(past, samples=samples)


def _says(series: str, observation: Observation) -> bool:
    """Whether this step could have the series: depth is in samples of every layer alone."""
    if not series.startswith("/"):
        return observation.sampled and not observation.partial
    return observation.sampled or series in observation.values


def _of_stack(
    rule: UserRule,
    observation: Observation,
    stack: str,
    values: Floats | None,
    before: Sequence[Floats],
) -> list[Finding] | None:
    request = rule.request
    rest = (request.series or "").split("/", 1)[1]
    answer = judge(
        request.condition,
        values,
        layers=request.layers,
        past=before,
        facts=observation.stacks.get(stack),
        rest=rest,
    )
    if answer is None:
        return None
    return [_finding(rule, observation, stack, answer)] if answer.holds.any() else []


def _finding(rule: UserRule, observation: Observation, stack: str, judged: Judged) -> Finding:
    request = rule.request
    site, quantity = (request.series or "").split("/", 2)[1:]
    span = longest_run(judged.holds)
    distance = np.where(judged.holds, np.abs(judged.values - judged.limits), -np.inf)
    worst = int(np.argmax(np.nan_to_num(distance, nan=0.0, posinf=np.inf, neginf=-np.inf)))
    value, limit = float(judged.values[worst]), float(judged.limits[worst])
    deep = len(judged.values) > 1
    predicted = None if judged.predicted is None else float(judged.predicted[worst])
    where = f" at layer {worst}" if deep else ""
    layers = f" in {span}" if deep and span is not None and len(span) > 1 else ""
    of_stack = f"the {stack}'s " if stack else "the "
    return Finding(
        rule=rule.name,
        severity=request.severity,
        title=request.name,
        message=f"At step {observation.step} {of_stack}{_words(site, quantity)}{layers} "
        f"{_reading(request.condition, value, limit, where)}.",
        advice=Advice(request.advice or NO_ADVICE),
        step=observation.step,
        stack=stack,
        site=site,
        quantity=quantity,
        first_layer=span.first if span and deep else None,
        last_layer=span.last if span and deep else None,
        measured=value,
        predicted=predicted,
        badness=float(np.nan_to_num(abs(value - limit), nan=1.0, posinf=1e300)),
    )


def _words(site: str, quantity: str) -> str:
    words = site if quantity == "value" else f"{site} {quantity}"
    return words.replace("_", " ")


def _reading(condition: Condition, value: float, limit: float, where: str) -> str:
    if isinstance(condition, Missing):
        return "has no value"
    reading = f"is {number(value)}{where}"
    if isinstance(condition, Above | Below):
        side = "above" if isinstance(condition, Above) else "below"
        return f"{reading}, {side} {number(limit)}"
    if isinstance(condition, Rises | Falls):
        before = (
            limit / condition.factor if isinstance(condition, Rises) else limit * condition.factor
        )
        return f"{reading}, from a median of {number(before)} over the {condition.window} before"
    return f"{reading}, outside the predicted band, whose edge with the margin is {number(limit)}"


def _of_preset(
    rule: UserRule, name: PeerRule, observation: Observation, past: RulePast
) -> tuple[list[Finding] | None, RulePast]:
    preset = presets.RULES[name]
    values: dict[presets.Quantity, float | None] = {
        "loss": _given(observation, "loss"),
        "gradient_norm": _given(observation, "gradient_norm"),
    }
    if set(values.values()) == {None}:
        return None, past
    memory, quantity = preset.judge(past.preset, values["loss"], values["gradient_norm"])
    past = replace(past, preset=memory)
    if quantity is None:
        return [], past
    value = values[quantity]
    measured = float("nan") if value is None else value
    finding = Finding(
        rule=rule.name,
        severity=rule.request.severity,
        title=rule.request.name,
        message=f"At step {observation.step} the {quantity.replace('_', ' ')} is "
        f"{number(measured)}. {preset.title} alarms where {preset.says}.",
        advice=Advice(rule.request.advice or PEER_ADVICE.format(title=preset.title)),
        step=observation.step,
        site=quantity,
        quantity="value",
        measured=measured,
        badness=1.0,
    )
    return [finding], past


def _given(observation: Observation, site: str) -> float | None:
    """A scalar of this step, NaN included; None where the step does not have it."""
    key = f"/{site}/value"
    if key in observation.absent or key not in observation.values:
        return None
    return observation.scalar(site)


def rules_for(
    rules: Iterable[UserRule], *, project: str, tags: Sequence[str]
) -> tuple[UserRule, ...]:
    """The enabled rules that judge a run of this project with these tags."""
    return tuple(
        rule
        for rule in rules
        if rule.request.enabled
        and rule.request.project in (None, project)
        and set(rule.request.tags) <= set(tags)
    )
