"""The tab that says why a run's blocks differ from its first description."""

from __future__ import annotations

from dataclasses import replace

import httpx
import msgspec
import numpy as np
import pytest

import dslm
from benchmarks.synthetic_run import SyntheticRun, send
from dashboard.api_client import ApiClient, ApiError
from dashboard.api_types import (
    Attribution,
    AttributionDirection,
    AttributionPart,
    MissingPart,
    StackAttribution,
)
from dashboard.figures import causes_chart, colours_of_causes
from dashboard.pages.causes import cause_cards
from tests.dashboard.samples import text_of
from tests.dslm.attribution.flows import drawn_spec

FORWARD = AttributionDirection(
    total=[0.5, None], terms={"weights": [0.7, None], "norms": [-0.2, None], "remainder": [0, 0]}
)


def attribution() -> Attribution:
    part = AttributionPart(0, "forward", "attention.output", "weights", 0.7)
    stack = StackAttribution(FORWARD, FORWARD, FORWARD, [part], ["×3.2 in block 0: its weights."])
    return Attribution(
        baseline_step=1,
        step=1200,
        note="",
        terms=["weights", "norms", "remainder"],
        stacks={"decoder": stack},
        missing=[MissingPart("decoder.blocks[1]", "mixture of experts", "no theory of it")],
    )


def test_bars_stack_up_to_the_total_and_a_block_without_a_number_is_a_gap() -> None:
    terms = {"weights": np.array([0.7, np.nan]), "norms": np.array([-0.2, np.nan])}

    figure = causes_chart(terms, np.array([0.5, np.nan]), colours_of_causes(list(terms)))

    bars = [trace for trace in figure.data if trace.meta != "total"]
    assert figure.layout.barmode == "relative"
    assert sum(bar.y[0] for bar in bars) == pytest.approx(figure.data[-1].y[0])
    assert all(np.isnan(trace.y[1]) for trace in figure.data)
    assert len({bar.marker.color for bar in bars}) == 2


def test_causes_say_which_steps_are_compared_what_is_largest_and_what_is_missing() -> None:
    text = text_of(cause_cards(attribution(), "decoder"))

    for claim in ("step 1,200 against step 1", "in block 0: its weights", "×5.01", "no theory"):
        assert claim in text


def test_a_single_description_is_compared_with_nothing() -> None:
    first = msgspec.structs.replace(attribution(), step=1)

    assert "nothing to compare" in text_of(cause_cards(first, "decoder"))


def test_causes_of_a_stack_that_was_not_described_are_not_drawn() -> None:
    assert "Nothing is known of the encoder" in text_of(cause_cards(attribution(), "encoder"))


async def test_causes_come_from_the_server_or_it_says_why_there_are_none(
    client: ApiClient, http: httpx.AsyncClient
) -> None:
    before, after = (
        drawn_spec(np.random.default_rng(seed), "pre", gated=True, crossed=False, n=3)
        for seed in (1, 2)
    )
    run = SyntheticRun.new("described", replace(before, flows={}))
    await send(http, run, range(2))
    with pytest.raises(ApiError, match=r"\w") as refused:
        await client.attribution(run.run_id, 1)
    for step, spec in ((60, before), (90, after)):
        body = dslm.spec_to_json(spec)
        flows = body.pop("flows")
        revision = {"step": step, "spec": body, "flows": flows}
        answer = await http.put(f"/api/v1/runs/{run.run_id}/spec", json=revision)
        assert answer.is_success

    described = await client.attribution(run.run_id, 95)

    assert refused.value.fix
    assert (described.baseline_step, described.step) == (60, 90)
    assert text_of(cause_cards(described, "decoder")).count("×") > 3


def test_causes_of_one_block_stand_first_and_a_block_that_is_not_there_is_said() -> None:
    of_first = text_of(cause_cards(attribution(), "decoder", 0))
    unknown = text_of(cause_cards(attribution(), "decoder", 1))
    absent = text_of(cause_cards(attribution(), "decoder", 2))

    assert "×3.16 of the first description's, most of all by weights (×5.01)" in of_first
    assert "+0.700" in of_first and "−0.200" in of_first and "+0.500" in of_first
    assert "The variance behind it is not known" in unknown
    assert "The decoder has 2 blocks, from 0 on." in absent
