from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dslm
from server.alerts.rules import StackFacts, facts, observe
from wire import Layout, Series

N = 4


def spec(placement: str = "post", beta: float = 1.0, gain_var: float = 0.0) -> dslm.ModelSpec:
    def square() -> dslm.Linear:
        return dslm.Linear(32, 32, 1 / 32)

    attention = dslm.Attention(
        query=square(),
        key=square(),
        value=square(),
        output=square(),
        n_heads=2,
        n_kv_heads=2,
        d_head=16,
        causal=True,
        score_scale=0.25,
    )
    norm = dslm.Norm("layernorm", gain_var=gain_var)
    residual = dslm.Residual(lam=(1 - beta**2) ** 0.5 if beta < 1 else 1.0, beta=beta)
    block = dslm.Block(
        placement=placement,
        attention=attention,
        attention_norm=norm,
        attention_residual=residual,
        feed_forward=dslm.FeedForward(
            up=dslm.Linear(32, 128, 1 / 80), down=dslm.Linear(128, 32, 1 / 80), activation="gelu"
        ),
        feed_forward_norm=norm,
        feed_forward_residual=residual,
    )
    kernel = dslm.Kernel(
        diagonal=np.ones(8), off_diagonal=np.full((8, 8), 0.1), cell_sizes=np.ones(8, np.int64)
    )
    stack = dslm.Stack(d_model=32, blocks=(block,) * N, input_kernel=kernel)
    return dslm.ModelSpec(family="custom", stacks={"decoder": stack})


def test_facts_know_depth_placement_scale_and_the_curves_of_every_revision():
    described = spec(beta=0.5)

    stack_facts = facts(described, {0: dslm.predict(described), 50: dslm.predict(described)})[
        "decoder"
    ]

    assert (stack_facts.n_layers, stack_facts.placement, stack_facts.beta) == (N, "post", 0.5)
    assert [expected.step for expected in stack_facts.expected] == [0, 50]
    assert stack_facts.at_start.variance == pytest.approx(np.ones(N + 1), abs=1e-4)


def test_facts_without_a_prediction_keep_the_architecture():
    stack_facts = facts(spec("pre"), {})["decoder"]

    assert (stack_facts.placement, stack_facts.at_start) == ("pre", None)


def test_a_gradient_predicted_without_a_look_at_the_top_is_no_bound():
    described = spec()
    unseen = facts(described, {0: dslm.predict(described)})["decoder"].at_start

    stack = described.stacks["decoder"]
    measured_spec = replace(
        described, stacks={"decoder": replace(stack, top_gradient_kernel=stack.input_kernel)}
    )
    at_start = facts(measured_spec, {0: dslm.predict(measured_spec)})["decoder"].at_start

    assert np.isnan(unseen.gradient_high).all()
    assert np.isfinite(unseen.gradient).all()
    assert not np.isnan(at_start.gradient_high).any()


def test_norms_that_have_moved_say_the_weights_are_trained():
    assert facts(spec(), {})["decoder"].untrained
    assert not facts(spec(gain_var=0.01), {})["decoder"].untrained


def test_a_stack_with_blocks_not_understood_has_the_placement_of_the_others():
    described = spec("pre")
    stack = described.stacks["decoder"]
    partly = replace(described, stacks={"decoder": replace(stack, blocks=(None, *stack.blocks))})

    assert facts(partly, {})["decoder"].placement == "pre"


def test_a_frame_is_read_by_its_layout_and_keeps_nan():
    layout = Layout((Series("decoder", "stream", "variance", 3), Series("", "loss", "value", 1)))
    values = np.array([1.0, np.nan, 3.0, 2.5], np.float32)

    observation = observe(step=7, layout=layout, values=values, stacks={})

    assert observation.scalar("loss") == 2.5
    assert np.isnan(observation.scalar("gradient_norm"))
    np.testing.assert_array_equal(
        observation.series("decoder", "stream", "variance"), [1.0, np.nan, 3.0]
    )


def test_a_stack_that_is_not_described_is_known_by_its_series():
    layout = Layout((Series("encoder", "stream", "variance", 3),))

    observation = observe(step=0, layout=layout, values=np.ones(3, np.float32), stacks={})

    assert observation.stacks == {"encoder": StackFacts(n_layers=2)}
