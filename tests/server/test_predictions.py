from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dslm
from server.predictions.architecture import title
from tests.services.agent import LAYOUT, N_LAYERS, Agent, frame, vector
from tests.services.polling import eventually
from tests.services.specs import post_ln
from tests.services.vectors import from_f32

SERIES = "decoder/stream/variance"


async def _revisions(agent: Agent) -> list[dict[str, Any]]:
    return (await agent.get("/predictions"))["revisions"]


async def _settled(agent: Agent, count: int) -> list[dict[str, Any]]:
    return await eventually(
        lambda: _revisions(agent),
        lambda revisions: (
            len(revisions) == count
            and all(revision["state"] != "pending" for revision in revisions)
        ),
    )


async def _revise(agent: Agent, step: int, spec: dict[str, Any]) -> int:
    body = {"step": step, "spec": spec}
    return (await agent.client.put(agent.path("/spec"), json=body)).status_code


async def test_declared_spec_becomes_the_prediction_at_initialisation(agent: Agent):
    spec = post_ln(N_LAYERS)
    await agent.declare(spec=dslm.spec_to_json(spec))

    (revision,) = await _settled(agent, 1)

    assert (revision["step"], revision["label"], revision["state"]) == (
        0,
        "at initialisation",
        "ready",
    )
    expected = dslm.predict(spec).stacks["decoder"]
    curve = from_f32(revision["stacks"]["decoder"]["stream"]["variance_f32"])
    np.testing.assert_allclose(curve, expected.forward.variance, rtol=1e-5)
    assert from_f32(revision["stacks"]["decoder"]["stream_gradient"]["variance_f32"])[-1] == 1.0


async def test_absolute_scale_and_loss_are_shown_where_a_head_is_known(agent: Agent):
    spec = post_ln(N_LAYERS)
    stack = spec.stacks["decoder"]
    seq_len = int(stack.input_kernel.cell_sizes.sum())
    labels = dslm.next_token_labels(seq_len, 8, 100)
    head = dslm.Head((), dslm.Linear(stack.d_model, 100, 1e-4), labels)
    headed = replace(spec, stacks={"decoder": replace(stack, head=head)})
    await agent.declare(spec=dslm.spec_to_json(spec))
    assert await _revise(agent, 50, dslm.spec_to_json(headed)) == 204

    without, headed_stack = (revision["stacks"]["decoder"] for revision in await _settled(agent, 2))

    expected = dslm.predict(headed).stacks["decoder"]
    assert without["gradient_scale"] is None and without["loss"] is None
    assert headed_stack["gradient_scale"] == pytest.approx(expected.gradient_scale, rel=1e-4)
    assert headed_stack["loss"] == pytest.approx(np.log(100), rel=0.01)


async def test_spec_describes_the_run(agent: Agent):
    await agent.declare(spec=dslm.spec_to_json(post_ln(N_LAYERS)))

    run = await eventually(agent.get, lambda run: run["placement"] is not None)

    assert run["architecture"] == "Post-LN decoder, 4 × 64"
    assert run["stacks"]["decoder"] == {"n_layers": 4, "d_model": 64, "seq_len": 16}


def test_title_names_the_scales_that_every_residual_shares():
    spec = post_ln(N_LAYERS)
    stack = spec.stacks["decoder"]
    scale = dslm.Residual(lam=0.9574, beta=0.2887)
    blocks = [
        replace(block, attention_residual=scale, feed_forward_residual=scale)
        for block in stack.blocks
        if block
    ]
    scaled = replace(spec, stacks={"decoder": replace(stack, blocks=tuple(blocks))})

    assert title(scaled, "post") == "Post-LN decoder, 4 × 64, λ 0.957, β 0.289"


async def test_later_revision_is_todays_and_changes_nothing_at_initialisation(agent: Agent):
    await agent.declare(spec=dslm.spec_to_json(post_ln(N_LAYERS)))
    before = (await _settled(agent, 1))[0]

    assert await _revise(agent, 50, dslm.spec_to_json(post_ln(N_LAYERS, weight_var=0.1))) == 204

    first, last = await _settled(agent, 2)
    assert first == before
    assert (last["step"], last["label"]) == (50, "from today's weights")
    assert last["stacks"] != first["stacks"]
    assert (await agent.get("/steps"))["revision_steps"] == [0, 50]


async def test_spec_is_given_back_as_it_came_and_says_of_which_weights(agent: Agent):
    first, last = (dslm.spec_to_json(post_ln(N_LAYERS, weight_var=v)) for v in (0.02, 0.1))
    await agent.declare(spec=first)
    await _revise(agent, 50, last)

    newest, initial = await agent.get("/spec"), await agent.get("/spec", step=0)

    assert newest == {"step": 50, "label": "from today's weights", "spec": last}
    assert initial == {"step": 0, "label": "at initialisation", "spec": first}


async def test_spec_that_is_not_there_is_a_404_that_lists_those_that_are(agent: Agent):
    await agent.declare(spec=None)
    nothing = await agent.client.get(agent.path("/spec"))
    await _revise(agent, 50, dslm.spec_to_json(post_ln(N_LAYERS)))
    other = await agent.client.get(agent.path("/spec"), params={"step": 7})

    assert (nothing.status_code, other.status_code) == (404, 404)
    assert "wait until its agent" in nothing.json()["error"]["fix"]
    assert other.json()["error"]["fix"] == "ask for one of 50"


async def test_spec_that_cannot_be_read_is_a_failed_revision_and_frames_go_on(agent: Agent):
    spec = dslm.spec_to_json(post_ln(N_LAYERS))
    del spec["stacks"]["decoder"]["d_model"]

    assert await _revise(agent, 3, spec) == 204

    (revision,) = await _settled(agent, 1)
    assert revision["state"] == "failed"
    assert "stacks.decoder.d_model" in revision["reason"]
    assert (await agent.send([frame(1)])).accepted == 1
    await eventually(agent.get, lambda run: run["frames"] == 1)


async def test_same_spec_again_is_no_new_revision(agent: Agent):
    spec = dslm.spec_to_json(post_ln(N_LAYERS))
    await agent.declare(spec=spec)
    await agent.declare(spec=spec)

    assert await _revise(agent, 9, spec) == 204

    assert len(await _settled(agent, 1)) == 1


@pytest.mark.parametrize(
    ("series", "curve"),
    [
        ("decoder/stream/variance", lambda stack: stack.forward.variance),
        ("decoder/stream_gradient/variance", lambda stack: stack.backward.variance),
    ],
)
async def test_history_of_a_run_on_its_curve_has_a_ratio_of_zero(agent: Agent, series, curve):
    spec = post_ln(N_LAYERS)
    await agent.declare(spec=dslm.spec_to_json(spec))
    await _settled(agent, 1)
    values = vector(1)
    # Gradients are measured on a scale of their own: only their shape over depth is compared.
    scale = 3.0 if "gradient" in series else 1.0
    values[LAYOUT.slices[series]] = scale * curve(dslm.predict(spec).stacks["decoder"])
    await agent.send([frame(1, values=values)])
    await eventually(agent.get, lambda run: run["frames"] == 1)

    history = await agent.get("/history", series=series)

    np.testing.assert_allclose(from_f32(history["ratio_f32"]), 0.0, atol=1e-4)


async def test_ratio_without_a_prediction_is_nan(agent: Agent):
    await agent.send([frame(1)])
    await eventually(agent.get, lambda run: run["frames"] == 1)

    history = await agent.get("/history", series=SERIES)

    assert np.isnan(from_f32(history["ratio_f32"])).all()


async def test_frames_are_judged_and_their_alert_reaches_the_run(agent: Agent):
    await agent.declare(spec=dslm.spec_to_json(post_ln(N_LAYERS)))
    await _settled(agent, 1)
    values = vector(1)
    values[LAYOUT.slices["/loss/value"]] = np.inf

    await agent.send([frame(1), *(frame(seq, values=values) for seq in range(2, 5))])

    run = await eventually(agent.get, lambda run: run["alerts"]["critical"] > 0)
    assert run["status"] == "diverged"
    alerts = (await agent.client.get("/api/v1/alerts", params={"run": agent.run_id})).json()
    assert {alert["run_id"] for alert in alerts["alerts"]} == {agent.run_id}
    assert "nonfinite" in {alert["rule"] for alert in alerts["alerts"]}


async def test_revision_that_held_at_a_step(agent: Agent):
    await agent.declare(spec=dslm.spec_to_json(post_ln(N_LAYERS)))
    for step in (50, 200):
        scaled = dslm.with_depth(post_ln(N_LAYERS), N_LAYERS + step // 50)
        assert await _revise(agent, step, dslm.spec_to_json(scaled)) == 204
    every = await _settled(agent, 3)

    by_step = {
        step: (await agent.get("/predictions", step=step))["revisions"]
        for step in (0, 49, 50, 199, 200, 10_000)
    }

    assert by_step == {
        step: [every[index]]
        for step, index in ((0, 0), (49, 0), (50, 1), (199, 1), (200, 2), (10_000, 2))
    }


async def test_before_the_first_revision_it_is_the_first_one_that_held(agent: Agent):
    await agent.declare()
    assert await _revise(agent, 7, dslm.spec_to_json(post_ln(N_LAYERS))) == 204
    await _settled(agent, 1)

    (revision,) = (await agent.get("/predictions", step=3))["revisions"]

    assert (revision["step"], revision["label"]) == (7, "at initialisation")


async def test_run_that_is_not_described_has_no_revision_at_any_step(agent: Agent):
    await agent.declare()

    assert (await agent.get("/predictions", step=3))["revisions"] == []
