"""Whatever is measured, the rules answer, and no key ever has two open alerts."""

from __future__ import annotations

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from server.alerts.lifecycle import advance
from server.alerts.rules import Expected, Observation, RunningStats, StackFacts, evaluate

LAYERS = 6
# Shrinking values as wild as these takes minutes and says no more than the failure itself.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
WILD = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-38, 1e38, 1.0, 150.0])
VALUE = st.one_of(WILD, st.floats(-1e6, 1e6, width=32))
SITES = [
    ("stream", "variance", 1), ("stream", "correlation", 1), ("stream", "nonfinite", 1),
    ("stream_gradient", "variance", 1), ("stream_gradient", "nonfinite", 1),
    ("attention_logits", "max", 0), ("attention_logits", "entropy", 0),
]  # fmt: skip


@st.composite
def vectors(draw, length):
    return np.array(draw(st.lists(VALUE, min_size=length, max_size=length)))


@st.composite
def measured(draw):
    sites = draw(st.lists(st.sampled_from(SITES), unique=True))
    layers = draw(st.sampled_from([LAYERS, LAYERS, LAYERS + 3, 1]))  # a layout may disagree
    values = {f"decoder/{s}/{q}": draw(vectors(layers + extra)) for s, q, extra in sites}
    values["/loss/value"] = draw(vectors(1))
    values["/gradient_norm/value"] = draw(vectors(1))
    return values


@st.composite
def curves(draw):
    names = [name for name in Expected.__dataclass_fields__ if name != "step"]
    return Expected(step=0, **{name: draw(vectors(LAYERS + 1)) for name in names})


@st.composite
def stacks(draw):
    facts = StackFacts(
        n_layers=LAYERS,
        placement=draw(st.sampled_from(["pre", "post", None])),
        beta=draw(st.sampled_from([1.0, 0.5])),
        expected=draw(st.sampled_from([(), (draw(curves()),)])),
    )
    return {"decoder": facts}


@given(st.data())
@settings(max_examples=60, deadline=None, phases=PHASES)
def test_rules_answer_whatever_is_measured_and_open_each_key_once(data):
    stats, tracks, standing = RunningStats(), {}, set()
    stack_facts = data.draw(stacks())
    for values in data.draw(st.lists(measured(), max_size=3)):
        for repeat in range(7):  # long enough for a rule that must hold for five samples
            step = stats.step + 1
            verdict = evaluate(Observation(step=step, values=values, stacks=stack_facts), stats)
            tracks, events = advance(tracks, verdict)
            stats = verdict.stats
            assert len({event.key for event in events}) == len(events), repeat
            for event in events:
                if event.kind == "opened":
                    assert event.key not in standing
                    standing.add(event.key)
                else:
                    assert event.key in standing
                if event.kind == "resolved":
                    standing.remove(event.key)


@given(measured(), stacks())
@settings(max_examples=100, deadline=None)
def test_findings_name_layers_in_order_and_inside_the_stack(values, stack_facts):
    verdict = evaluate(Observation(step=0, values=values, stacks=stack_facts), RunningStats())

    for finding in verdict.findings:
        if finding.first_layer is not None:
            assert 0 <= finding.first_layer <= finding.last_layer <= LAYERS + 3
        assert finding.message
        assert finding.advice.text


@given(measured(), stacks())
@settings(max_examples=50, deadline=None)
def test_a_step_seen_again_changes_nothing(values, stack_facts):
    observation = Observation(step=3, values=values, stacks=stack_facts)
    stats = evaluate(observation, RunningStats()).stats

    again = evaluate(observation, stats)

    assert again.findings == ()
    assert again.judged == frozenset()
    assert again.stats is stats
