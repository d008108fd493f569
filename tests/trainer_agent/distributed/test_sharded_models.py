"""Models whose parameters lie over several processes, described as the whole models they are."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import dslm
from tests.trainer_agent import distributed_job
from tests.trainer_agent.distributed.test_multi_process import sent
from tests.trainer_agent.jobs import run_job
from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import batch, built, train_step
from trainer_agent import describe

KINDS = ["fsdp", "fsdp-halves", "tensor", "sequence", "grid", "grid-sequence"]


@pytest.fixture(scope="module", params=KINDS)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a job of several processes sent."""
    folder = tmp_path_factory.mktemp(request.param)
    run_job(request.param, folder)
    return request.param, sent(folder), revisions_in(folder)


def description_in(folder: Path) -> Any:
    """The first description that a job sent."""
    return revisions_in(folder)[0]["spec"]


def revisions_in(folder: Path) -> list[dict[str, Any]]:
    """All descriptions that a job sent."""
    revisions: list[dict[str, Any]] = json.loads((folder / "frames-0.json").read_text())
    return revisions


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same job in one process: model after one step, and what the second step showed."""
    model, optimizer = built()
    folder = tmp_path_factory.mktemp("alone")
    agent, transport = recorded(model, folder, optimizer=optimizer, sites="norm_inputs")
    for step in range(2):
        if step == 1:
            agent._parts.describer.ask()
            full = describe(copy.deepcopy(model), batch(0, size=4)[:, :-1])
        loss = train_step(model, optimizer, batch(step, size=4))
        agent.step(loss=loss)
    agent.close()
    return full, transport


def test_weights_of_all_parts_make_the_whole_models(job: Any, alone: Any) -> None:
    kind, _, revisions = job
    spec = dslm.spec_from_json(revisions[0]["spec"])

    assert {each.what for each in spec.missing} <= {"top gradient"}
    blocks, expected_blocks = spec.stacks["decoder"].blocks, alone[0].stacks["decoder"].blocks
    for block, expected in zip(blocks, expected_blocks, strict=True):
        for part in ("query", "key", "value", "output"):
            assert_alike(getattr(block.attention, part), getattr(expected.attention, part))
        assert_alike(block.feed_forward.up, expected.feed_forward.up)
        assert_alike(block.feed_forward.down, expected.feed_forward.down)
        # Gradients of bfloat16 may have the other sign: a step of 1e-3 up instead of down.
        tolerance = 5e-4 if "halves" in kind else 1e-5
        gain = pytest.approx(expected.attention_norm.gain_mean, abs=tolerance)
        assert block.attention_norm.gain_mean == gain
        assert block.attention.n_heads == expected.attention.n_heads
        assert block.placement == expected.placement


def assert_alike(linear: dslm.Linear, expected: dslm.Linear) -> None:
    # Clipping, and the sign of gradients near zero, make Adam's first step differ a little.
    assert (linear.d_in, linear.d_out) == (expected.d_in, expected.d_out)
    assert linear.weight_var == pytest.approx(expected.weight_var, rel=2e-3)
    assert linear.bias_var == pytest.approx(expected.bias_var, rel=2e-2)


def test_a_prediction_follows_for_sequences_of_full_length(job: Any) -> None:
    _, _, revisions = job
    spec = dslm.spec_from_json(revisions[0]["spec"])

    stack = dslm.predict(spec).stacks["decoder"]

    assert np.isfinite(stack.forward.variance).all()
    assert np.isfinite(stack.backward.variance).all()
    kernel = spec.stacks["decoder"].input_kernel
    assert int(kernel.cell_sizes.sum()) == 8


@pytest.mark.parametrize("site", ["attention", "feed_forward"])
@pytest.mark.parametrize("what", ["", "_norm_input"])
def test_branches_are_measured_from_the_second_sample_on(
    job: Any, alone: Any, site: str, what: str
) -> None:
    kind, sent_values, _ = job

    key = f"decoder/{site}{what}/variance"
    assert np.isnan(sent_values[key]).all()
    rel = 2e-2 if kind == "fsdp-halves" else 2e-3
    assert sent_values[f"second/{key}"] == pytest.approx(alone[1].series(key), rel=rel)


def test_the_second_sample_measures_inside_the_blocks_of_all_parts(job: Any, alone: Any) -> None:
    kind, _, (first, second) = job
    flows, expected = (
        dslm.spec_from_json({**revision["spec"], "flows": revision["flows"]}).flows["decoder"]
        for revision in (second, msgspec.to_builtins(alone[1].revisions[-1]))
    )

    assert first["flows"] is None
    rel = 5e-2 if kind == "fsdp-halves" else 1e-2
    for flow, other in zip(flows, expected, strict=True):
        assert flow.forward.keys() == other.forward.keys()
        assert flow.backward.keys() == other.backward.keys()
        for site, value in other.forward.items():
            assert flow.forward[site].mean_square == pytest.approx(value.mean_square, rel=rel), site
        for site, value in flow.backward.items():
            square = value.mean_square / flow.backward["out"].mean_square
            gain = other.backward[site].mean_square / other.backward["out"].mean_square
            assert square == pytest.approx(gain, rel=rel), site


@pytest.mark.parametrize("kind", ["fsdp", "sequence", "grid", "grid-sequence"])
def test_weights_are_bit_identical_with_and_without_the_agent(kind: str, tmp_path: Path) -> None:
    for name in (kind, f"{kind}-bare"):
        (tmp_path / name).mkdir()
        run_job(name, tmp_path / name)

    watched, bare = (np.load(tmp_path / n / "weights-1.npz") for n in (kind, f"{kind}-bare"))
    assert len(watched.files) > 10
    assert all(np.array_equal(watched[name], bare[name]) for name in bare.files)


def test_a_job_that_is_watched_in_part_says_so_and_goes_on(tmp_path: Path) -> None:
    run_job("fsdp-alone", tmp_path)

    assert "sharded parameters" in {
        missing["what"] for missing in description_in(tmp_path)["missing"]
    }


def test_gpt2_describes_itself_in_parts_as_it_does_whole(tmp_path: Path) -> None:
    run_job("gpt2", tmp_path, distributed_job.describe_in_parts)

    full, parts = (json.loads((tmp_path / name).read_text()) for name in ("full", "parts"))
    del full["flows"]  # inside the blocks nothing is measured where they lie in parts
    assert parts["missing"] == [] and parts["stacks"]["decoder"]["head"] is not None
    assert_close(parts, full)


def test_heads_that_lie_over_processes_are_read_as_all_of_them(tmp_path: Path) -> None:
    run_job("heads", tmp_path, distributed_job.read_split_heads)

    whole, split = json.loads((tmp_path / "read").read_text())
    assert "n_heads=4, n_kv_heads=2" in whole
    assert split == whole


def test_sums_of_slices_are_those_of_the_whole_matrix(tmp_path: Path) -> None:
    run_job("sums", tmp_path, distributed_job.sum_in_parts)

    sums = np.load(tmp_path / "sums.npz")
    np.testing.assert_allclose(sums["parts"], sums["full"], rtol=1e-5, atol=1e-6)


def assert_close(part: Any, expected: Any) -> None:
    """Two specs are the same but for the order in which sums were taken."""
    if isinstance(expected, dict):
        assert part.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(part[key], value)
    elif isinstance(expected, list):
        assert len(part) == len(expected)
        for item, other in zip(part, expected, strict=True):
            assert_close(item, other)
    elif isinstance(expected, float):
        assert part == pytest.approx(expected, rel=1e-5, abs=1e-9)
    else:
        assert part == expected
