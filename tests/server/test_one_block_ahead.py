"""What the API derives of measured series: one block ahead, innovations, alignment, departures."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI

import dslm
from dslm.ahead import WINDOW, predict_ahead
from server.app import create_app
from server.settings import Settings
from server.storage.compaction import compact_some
from tests.services.agent import LAYOUT, N_LAYERS, Agent, frame
from tests.services.polling import eventually
from tests.services.serving import running
from tests.services.specs import post_ln
from tests.services.vectors import from_f32
from wire import ABSENT, Frame, Layout, Series, is_absent

STREAM, CORRELATION, GRADIENT = (
    "decoder/stream/variance",
    "decoder/stream/correlation",
    "decoder/stream_gradient/variance",
)
STEPS = 3 * WINDOW


@pytest.fixture
def streams(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A healthy run: every block has a gain of its own, and scatters by 2 %."""
    return healthy(rng, STEPS, N_LAYERS)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def healthy(rng: np.random.Generator, steps: int, n: int) -> dict[str, np.ndarray]:
    gains = np.linspace(0.1, 0.4, n) + 0.02 * rng.standard_normal((steps, n))
    rise = np.concatenate([np.zeros((steps, 1)), np.cumsum(gains, axis=1)], axis=1)
    moves = 0.02 + 0.003 * rng.standard_normal((steps, n))
    correlation = np.concatenate([np.full((steps, 1), 0.1), 0.1 + np.cumsum(moves, axis=1)], axis=1)
    return {
        STREAM: np.exp(rise).astype(np.float32),
        CORRELATION: correlation.astype(np.float32),
        GRADIENT: np.exp(-rise).astype(np.float32),
    }


def frames_of(
    streams: dict[str, np.ndarray], layout: Layout = LAYOUT, *, first: int = 0, seq: int = 1
) -> list[Frame]:
    frames = []
    for row in range(len(streams[STREAM])):
        values = np.full(layout.size, ABSENT, np.float32)
        for key, series in streams.items():
            values[layout.slices[key]] = series[row]
        frames.append(frame(seq + row, first + row, values=values, layout=layout.hash))
    return frames


async def sent(agent: Agent, streams: dict[str, np.ndarray], **spec: Any) -> None:
    await agent.declare(**spec)
    await agent.send(frames_of(streams))
    await eventually(
        lambda: agent.get("/steps"), lambda answer: len(answer["steps"]) == len(streams[STREAM])
    )


async def profile(agent: Agent, step: int) -> dict[str, np.ndarray]:
    answer = await agent.get("/profile", step=step)
    return {key: from_f32(text) for key, text in answer["stacks"]["decoder"]["series"].items()}


async def innovations(agent: Agent, name: str, **query: Any) -> tuple[np.ndarray, np.ndarray]:
    answer = await agent.get("/history", series=f"decoder/innovation/{name}", **query)
    assert answer["n_layers_plus_one"] == N_LAYERS
    return np.array(answer["steps"]), from_f32(answer["values_f32"]).reshape(answer["shape"])


async def test_innovation_is_log2_of_measured_over_one_block_ahead(
    agent: Agent, streams: dict[str, np.ndarray]
):
    await sent(agent, streams)

    shown = await profile(agent, STEPS - 1)

    measured = streams[STREAM][-1].astype(np.float64)
    np.testing.assert_allclose(
        shown["innovation/variance_f32"],
        np.log2(measured[1:] / shown["ahead/variance_f32"][1:]),
        atol=1e-5,
    )
    gradient = streams[GRADIENT][-1].astype(np.float64)
    np.testing.assert_allclose(
        shown["innovation/gradient_f32"],
        np.log2(gradient[:-1] / shown["ahead/gradient_f32"][:-1]),
        atol=1e-5,
    )
    assert shown["ahead/gradient_f32"][-1] == gradient[-1].astype(np.float32)
    np.testing.assert_allclose(
        shown["innovation/correlation_f32"],
        streams[CORRELATION][-1][1:] - shown["ahead/correlation_f32"][1:],
        atol=1e-6,
    )
    inside = np.abs(shown["innovation/variance_f32"]) <= shown["innovation/variance_high_f32"]
    assert inside.all()
    assert (shown["ahead/variance_low_f32"][1:] < shown["ahead/variance_high_f32"][1:]).all()


async def test_profile_history_and_export_agree(agent: Agent, streams: dict[str, np.ndarray]):
    await sent(agent, streams)

    text = (await agent.client.get(agent.path("/export?format=csv"))).text

    rows = list(csv.DictReader(io.StringIO(text)))
    for name in ("variance", "correlation", "gradient"):
        thinned, values = await innovations(agent, name, max_steps=7)
        for step, row in zip(thinned.tolist(), values, strict=True):
            shown = (await profile(agent, step))[f"innovation/{name}_f32"]
            np.testing.assert_array_equal(row, shown)
            if step:
                exported = [
                    float(rows[step][f"decoder/innovation/{name}[{n}]"]) for n in range(N_LAYERS)
                ]
                np.testing.assert_allclose(exported, shown, rtol=1e-6)


async def test_innovation_is_that_of_all_samples_at_once(
    agent: Agent, streams: dict[str, np.ndarray]
):
    await sent(agent, streams)

    _, values = await innovations(agent, "variance", **{"from": 20, "max_steps": 1000})

    at_once = predict_ahead("variance", streams[STREAM].astype(np.float64), np.arange(STEPS))
    np.testing.assert_allclose(values, at_once.innovation[20:], atol=1e-6)


async def test_first_sample_is_compared_with_theory(agent: Agent, streams: dict[str, np.ndarray]):
    spec = post_ln(N_LAYERS)
    await sent(agent, streams, spec=dslm.spec_to_json(spec))
    await eventually(
        lambda: agent.get("/predictions"),
        lambda answer: [each["state"] for each in answer["revisions"]] == ["ready"],
    )

    shown, answer = await profile(agent, 0), await agent.get("/ahead", step=0)

    theory = dslm.predict(spec).stacks["decoder"].forward.variance
    expected = streams[STREAM][0][:-1] * theory[1:] / theory[:-1]
    np.testing.assert_allclose(shown["ahead/variance_f32"][1:], expected, rtol=1e-5)
    assert answer["baseline"] == {
        "samples": 0,
        "first_step": None,
        "source": "theory",
        "layout_since": None,
    }


async def test_first_sample_without_theory_is_absent(agent: Agent, streams: dict[str, np.ndarray]):
    await sent(agent, streams)

    first, second = await profile(agent, 0), await profile(agent, 1)

    assert is_absent(first["innovation/variance_f32"]).all()
    assert np.isfinite(second["innovation/variance_f32"]).all()


async def test_block_that_puts_out_nan_is_nan_from_there(
    agent: Agent, streams: dict[str, np.ndarray]
):
    streams[STREAM][100:, 3:] = np.nan
    await sent(agent, streams)

    shown, answer = await profile(agent, 100), await agent.get("/ahead")

    innovation = shown["innovation/variance_f32"]
    assert np.isfinite(innovation[:2]).all()
    assert np.isnan(innovation[2:]).all() and not is_absent(innovation[2:]).any()
    (departure,) = answer["departures"]
    assert (departure["block"], departure["step"]) == (2, 100)
    assert departure["measured"] is None and "not finite" in departure["text"]


async def test_layer_that_a_step_leaves_out_is_absent_and_costs_no_sample(
    agent: Agent, streams: dict[str, np.ndarray]
):
    complete = streams[STREAM].copy()
    streams[STREAM][100:110, 2:] = ABSENT
    await sent(agent, streams)

    _, values = await innovations(agent, "variance", **{"from": 105, "to": 110})
    answer = await agent.get("/ahead")

    assert answer["departures"] == []
    assert is_absent(values[0, 1:]).all() and np.isfinite(values[0, 0])
    gaps = complete.astype(np.float64)
    gaps[100:110, 2:] = np.nan
    at_once = predict_ahead("variance", gaps, np.array([110]))
    np.testing.assert_allclose(values[-1], at_once.innovation[0], atol=1e-6)


async def test_departure_names_the_lowest_block_that_left_its_band(
    agent: Agent, streams: dict[str, np.ndarray]
):
    streams[STREAM][120:, 3:] *= 8.0
    await sent(agent, streams)

    before, after = await agent.get("/ahead", step=119), await agent.get("/ahead", step=121)

    assert before["departures"] == []
    assert before["note"] == after["note"] == ""
    (departure,) = after["departures"]
    assert (departure["stack"], departure["block"], departure["step"]) == ("decoder", 2, 120)
    assert departure["measured"] == pytest.approx(3.0, abs=0.15)
    assert departure["text"].startswith("Block 2 of the decoder departs at step 120: the variance")


async def test_block_that_is_off_in_the_first_samples_is_noted_and_not_named(
    agent: Agent, streams: dict[str, np.ndarray]
):
    few = {key: series[:3].copy() for key, series in streams.items()}
    few[STREAM][2, 3:] *= 9.0
    await sent(agent, few)

    answer = await agent.get("/ahead")

    assert answer["departures"] == []
    assert "once 12 samples lie before it; the newest step has 2 samples" in answer["note"]
    assert "Farthest off is block 2 of the decoder: the variance behind it is ×9" in answer["note"]


async def test_block_that_is_not_finite_is_named_from_its_first_samples(
    agent: Agent, streams: dict[str, np.ndarray]
):
    few = {key: series[:3].copy() for key, series in streams.items()}
    few[STREAM][2, 3:] = np.nan
    await sent(agent, few)

    (departure,) = (await agent.get("/ahead"))["departures"]

    assert (departure["block"], departure["step"]) == (2, 2)


async def test_other_data_are_no_block(agent: Agent, streams: dict[str, np.ndarray]):
    streams[STREAM][120:] *= 2.0
    streams[STREAM][120:, 1:] *= 1.5
    await sent(agent, streams)

    (departure,) = (await agent.get("/ahead"))["departures"]

    assert departure["block"] is None and departure["input"] is True
    assert departure["text"].startswith("The input of the decoder departs at step 120")


async def test_compaction_changes_no_derived_value(settings: Settings, streams):
    app = create_app(settings.model_copy(update={"segment_frames": 16}))
    async with running(app) as client:
        agent = Agent(client)
        await sent(agent, streams)
        before = await _answers(agent)
        await eventually(lambda: _compacted(app), lambda count: count > 0)

        after = await _answers(agent)

    assert after == before


async def _answers(agent: Agent) -> list[Any]:
    return [
        await agent.get("/profile", step=100),
        await agent.get("/history", series="decoder/innovation/variance", max_steps=9),
        await agent.get("/ahead", step=130),
        (await agent.client.get(agent.path("/export?format=csv"))).text,
    ]


async def _compacted(app: FastAPI) -> int:
    return await compact_some(app.state.server)


async def test_resumed_run_keeps_its_baseline(agent: Agent, streams: dict[str, np.ndarray]):
    await sent(agent, streams)
    again = {key: series[100:].copy() for key, series in streams.items()}
    again[STREAM][0, 2:] *= 4.0

    await agent.send(frames_of(again, first=100, seq=1000), oldest=1000)

    shown = await eventually(
        lambda: profile(agent, 100), lambda each: each["innovation/variance_f32"][1] > 1
    )
    expected = streams[STREAM][: 100 + 1].astype(np.float64)
    expected[100] = again[STREAM][0]
    at_once = predict_ahead("variance", expected, np.array([100]))
    np.testing.assert_allclose(shown["innovation/variance_f32"], at_once.innovation[0], atol=1e-6)


async def test_other_depth_starts_a_new_baseline(agent: Agent, rng: np.random.Generator):
    await sent(agent, healthy(rng, 30, N_LAYERS))
    deeper = Layout(
        tuple(
            Series(each.stack, each.site, each.quantity, each.n + 2 if each.stack else 1)
            for each in LAYOUT
        )
    )
    await agent.declare(layout=deeper)
    await agent.send(frames_of(healthy(rng, 3, N_LAYERS + 2), deeper, first=30, seq=31))

    answer = await eventually(lambda: agent.get("/ahead"), lambda answer: answer["step"] == 32)

    assert answer["baseline"]["samples"] == 2
    assert answer["baseline"]["layout_since"] == 30


async def test_summary_of_a_derived_series_is_refused(agent: Agent, streams):
    await sent(agent, streams)

    answer = await agent.client.get(
        agent.path("/history"),
        params={"series": "decoder/innovation/variance", "summary": "mean"},
    )

    assert answer.status_code == 422 and answer.json()["error"]["field"] == "summary"


async def test_profile_without_derived_series(agent: Agent, streams: dict[str, np.ndarray]):
    await sent(agent, streams)

    answer = await agent.get("/profile", step=5, derived="false")

    assert set(answer["stacks"]["decoder"]["series"]) == {
        f"{key.removeprefix('decoder/')}_f32" for key in streams
    }


async def test_run_without_frames_has_no_departures(agent: Agent):
    await agent.declare()

    answer = await agent.client.get(agent.path("/ahead"))

    assert answer.status_code == 404 and answer.json()["error"]["field"] == "step"
