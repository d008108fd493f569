"""``GET /runs/{id}/attribution``: which revisions are compared, and what is answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dslm
from tests.dslm.attribution.flows import drawn_spec
from tests.services.agent import Agent
from tests.services.polling import eventually


def described(seed: int, n: int = 3) -> dslm.ModelSpec:
    return drawn_spec(np.random.default_rng(seed), "pre", gated=True, crossed=False, n=n)


async def revise(agent: Agent, step: int, spec: dslm.ModelSpec) -> None:
    body = dslm.spec_to_json(spec)
    flows = body.pop("flows", None)
    revision = {"step": step, "spec": body} | ({"flows": flows} if flows else {})
    answer = await agent.client.put(agent.path("/spec"), json=revision)
    assert answer.status_code == 204


async def attribution(agent: Agent, **query: int) -> dict[str, Any]:
    return await agent.get("/attribution", **query)


async def test_the_last_description_up_to_a_step_is_compared_with_the_first(agent: Agent):
    specs = {1: described(1), 50: described(2), 200: described(3)}
    await agent.declare()
    for step, spec in specs.items():
        await revise(agent, step, spec)

    newest, at_120 = await attribution(agent), await attribution(agent, step=120)

    assert (newest["baseline_step"], newest["step"]) == (1, 200)
    assert (at_120["baseline_step"], at_120["step"]) == (1, 50)
    expected = dslm.attribute(specs[1], specs[50]).stacks["decoder"]
    stack = at_120["stacks"]["decoder"]
    assert stack["forward"]["total"] == pytest.approx(expected.forward.total.tolist(), rel=1e-5)
    assert stack["backward"]["total"] == pytest.approx(expected.backward.total.tolist(), rel=1e-5)
    assert stack["sentences"] == list(expected.sentences)
    assert set(stack["branches"]) == {"attention", "feed_forward"}


async def test_terms_add_up_to_the_total(agent: Agent):
    await agent.declare()
    await revise(agent, 1, described(1))
    await revise(agent, 50, described(2))

    answer = await attribution(agent)

    for stack in answer["stacks"].values():
        for direction in (stack["forward"], stack["backward"], stack["cumulative"]):
            sums = np.sum([direction["terms"][term] for term in answer["terms"]], axis=0)
            assert sums == pytest.approx(direction["total"], abs=1e-6)


async def test_the_first_description_differs_from_itself_in_nothing(agent: Agent):
    await agent.declare()
    await revise(agent, 1, described(1))

    answer = await attribution(agent)

    assert (answer["baseline_step"], answer["step"]) == (1, 1)
    assert not any(answer["stacks"]["decoder"]["forward"]["total"])


async def test_descriptions_of_older_agents_are_passed_over(agent: Agent):
    await agent.declare()
    await revise(agent, 0, replace(described(1), flows={}))

    refused = await agent.client.get(agent.path("/attribution"))
    await revise(agent, 50, described(2))
    await revise(agent, 200, described(3))
    answer = await attribution(agent)
    early = await agent.client.get(agent.path("/attribution"), params={"step": 20})

    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "flow_not_found"
    assert (answer["baseline_step"], answer["step"]) == (50, 200)
    assert early.status_code == 404
    assert "50" in early.json()["error"]["fix"]


async def test_a_job_that_goes_on_with_other_blocks_starts_a_new_baseline(agent: Agent):
    await agent.declare()
    await revise(agent, 1, described(1))
    await revise(agent, 50, described(2, n=4))
    await revise(agent, 200, described(3, n=4))

    answer = await attribution(agent)

    assert (answer["baseline_step"], answer["step"]) == (50, 200)
    assert "step 50" in answer["note"]


async def test_what_is_missing_is_null_and_named(agent: Agent):
    before, after = described(1), described(2)
    flows = after.flows["decoder"]
    await agent.declare()
    await revise(agent, 1, before)
    await revise(agent, 50, replace(after, flows={"decoder": (flows[0], None, flows[2])}))

    answer = await attribution(agent)

    total = answer["stacks"]["decoder"]["forward"]["total"]
    assert [value is None for value in total] == [False, True, False]
    assert "decoder.blocks[1]" in [missing["where"] for missing in answer["missing"]]


async def test_flows_are_no_part_of_the_spec_that_is_given_back(agent: Agent):
    spec = described(1)
    await agent.declare()
    await revise(agent, 1, spec)

    body = (await agent.get("/spec"))["spec"]

    assert body == dslm.spec_to_json(replace(spec, flows={}))


async def test_flows_of_a_form_that_is_not_known_spoil_no_prediction(agent: Agent):
    spec = dslm.spec_to_json(replace(described(1), flows={}))
    await agent.declare()
    odd = {"step": 1, "spec": spec, "flows": {"decoder": [{"forward": 1}]}}

    stored = await agent.client.put(agent.path("/spec"), json=odd)
    answer = await agent.client.get(agent.path("/attribution"))
    prediction = await eventually(
        lambda: agent.get("/predictions"), lambda body: body["revisions"][0]["state"] != "pending"
    )

    assert (stored.status_code, answer.status_code) == (204, 404)
    assert prediction["revisions"][0]["state"] == "ready"
