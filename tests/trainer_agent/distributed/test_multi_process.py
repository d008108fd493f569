"""Jobs of two processes: one run, and its numbers those of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer_agent.distributed_job import EVERYTHING, LAYERS, LONGER, PIPELINES, STEPS
from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import batch, built, loss_of
from trainer_agent.job.gradient_norm import gradient_norm

BEYOND = ("kurtosis", "absmax", "rms", "zeros")
RANGES = ("fp16_overflow", "fp8_e4m3_underflow")
PARAMETERS = (
    "decoder/weights/rms",
    "/weights/rms",
    "decoder/weight_gradients/rms",
    "decoder/updates/ratio",
    "decoder/updates/second_moment",
    "/updates/ratio",
)


def sent(folder: Path) -> dict[str, np.ndarray]:
    """What rank 0 sent: its first frame by series, its steps and its first failure."""
    assert not (folder / "frames-1.npz").exists()  # rank 0 speaks for both
    return {k.replace("|", "/"): v for k, v in np.load(folder / "frames-0.npz").items()}


def of_each(folder: Path, name: str) -> list[int]:
    """A number that each process left."""
    return [int(np.load(folder / f"weights-{rank}.npz")[name]) for rank in (0, 1)]


def in_one_process(
    folder: Path, step: int = 0, *, clip: bool = False, **how: Any
) -> dict[str, np.ndarray]:
    """The same step on the whole batch, by a plain agent, itself tested elsewhere."""
    model, optimizer = built(**how)
    sites = {"hidden": "blocks.*.up", "normed": "norm"}
    agent, transport = recorded(
        model, folder, optimizer=optimizer, custom_sites=sites, **EVERYTHING
    )
    for number in range(step + 1):
        ids = batch(number, size=4)
        optimizer.zero_grad()
        loss = loss_of(model, ids)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        agent.step(loss=loss)
    agent.close()
    return {key: transport.series(key) for key in transport.declarations[0].layout.slices}


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tensor", "sequence", "grid", "grid-sequence"])
def test_numbers_are_those_of_the_whole_batch(
    kind: str, run: Callable[[str], Path], tmp_path: Path
) -> None:
    found, expected = sent(run(kind)), in_one_process(tmp_path, clip=kind in ("ddp", "fsdp"))

    assert found["steps"].tolist() == list(range(STEPS))
    assert str(found["reason"]) == ""
    parts = kind.endswith("sequence")
    pairs = () if parts else ("correlation",)  # of tokens in different processes
    keys = [
        *(f"decoder/stream/{what}" for what in ("mean", "variance", *pairs, *BEYOND, *RANGES)),
        *(f"decoder/stream_gradient/{what}" for what in ("variance", *pairs, *BEYOND)),
        *(() if parts else ("decoder/attention_logits/max", "/gradient_norm/value")),
        *(PARAMETERS[:2] if parts else PARAMETERS),
        "/log_z/mean",
        "/loss/value",
    ]
    for key in keys:
        wanted = expected[key]
        # float32 in another order, and correlations of gradients near zero; Adam's first step is
        # the sign of each gradient, which may turn for one that is nearly zero
        largest = float(np.abs(wanted).max())
        np.testing.assert_allclose(found[key], wanted, rtol=2e-4, atol=2e-4 * largest, err_msg=key)


@pytest.mark.parametrize("kind", PIPELINES)
def test_pipeline_shows_the_layers_of_all_its_stages(
    kind: str, run: Callable[[str], Path], tmp_path: Path
) -> None:
    found = sent(run(kind))
    expected = in_one_process(tmp_path, step=1, layers=LAYERS[kind])

    assert found["steps"].tolist() == list(range(1, STEPS))  # the first rehearses on no data
    assert str(found["reason"]) == ""
    for key in ("mean", "variance", "correlation"):
        wanted = expected[f"decoder/stream/{key}"]
        np.testing.assert_allclose(found[f"decoder/stream/{key}"], wanted, rtol=2e-4, atol=2e-5)
    # A micro-batch's own loss is differentiated: twice the gradient of the mean over both.
    gradient = found["decoder/stream_gradient/variance"]
    np.testing.assert_allclose(gradient, 4 * expected["decoder/stream_gradient/variance"], 2e-4)
    measured = ("decoder/stream/kurtosis", "decoder/weights/rms", "/weights/rms")
    measured += ("decoder/feed_forward/variance", "decoder/attention_logits/entropy")
    measured += ("decoder/attention_head_0/variance", "decoder/attention_head_1/max")
    measured += ("decoder/hidden/variance", "/normed/variance", "/normed/kurtosis")
    for key in ("/loss/value", "/gradient_norm/value", *measured):
        np.testing.assert_allclose(found[key], expected[key], 2e-4)


def test_sites_that_no_stage_has_are_dropped_with_their_reason(run: Callable[[str], Path]) -> None:
    found = sent(run("interleaved"))

    assert found["dropped"].tolist() == ["absent: the pattern fits no module of any stage"]
    assert not any("absent" in key for key in found)


def test_heads_are_dropped_where_stages_differ_in_them(run: Callable[[str], Path]) -> None:
    found = sent(run("uneven"))

    assert str(found["reason"]) == ""
    assert "stages differ in heads of the decoder, or do not know them: 2, 4" in found["dropped"][0]
    assert not any("attention_head_" in key for key in found)
    assert np.isfinite(found["decoder/attention_logits/entropy"]).all()


def test_ranks_agree_on_the_interval_of_a_budget(run: Callable[[str], Path]) -> None:
    found = sent(run("budget"))

    assert str(found["reason"]) == ""  # a step sampled by one rank alone would be named here
    assert found["steps"].tolist()[:4] == [0, 1, 2, 3]


def test_a_burst_begins_in_all_processes_at_the_same_step(run: Callable[[str], Path]) -> None:
    found = sent(run("burst"))

    assert str(found["reason"]) == ""  # a step sampled by one process alone would be named here
    assert found["burst"].tolist() == ["b", ""]
    gaps = np.diff(found["steps"][found["steps"] > 5])
    assert "1" * 5 in "".join("1" if gap == 1 else "0" for gap in gaps)  # six steps running


def test_layers_of_a_burst_are_counted_from_the_first_stage_on(run: Callable[[str], Path]) -> None:
    found = sent(run("staged_burst"))

    assert str(found["reason"]) == ""
    assert len(found["closer"]) > 0
    # What enters layer 2, the first of the second stage; and nothing of the first stage's layers.
    assert all(np.isfinite(one).tolist() == [False, False, True, False] for one in found["closer"])


def test_a_burst_between_samples_of_a_fixed_interval_begins_in_all_processes(
    run: Callable[[str], Path],
) -> None:
    found = sent(run("burst-fixed"))

    assert str(found["reason"]) == ""
    assert found["burst"].tolist() == ["b", ""]
    # Said in step 5, heard with the sample of step 6, or of step 3 where that is added up late,
    # and begun after the sample 16 steps later.
    expected = [[*range(0, begun, 3), *range(begun, begun + 6)] for begun in (22, 25)]
    steps = found["steps"].tolist()
    assert any(steps == one + [n for n in range(0, 40, 3) if n > one[-1]] for one in expected)


@pytest.mark.parametrize("kind", ["stop", "stop-fixed"])
def test_processes_are_asked_to_stop_at_the_same_step(
    kind: str, run: Callable[[str], Path]
) -> None:
    folder = run(kind)

    one, other = of_each(folder, "last_step")
    assert one == other < LONGER[kind] - 1
    assert str(sent(folder)["reason"]) == ""


def test_a_server_slow_to_answer_sets_no_process_apart(run: Callable[[str], Path]) -> None:
    found = sent(run("slow-server"))

    assert str(found["reason"]) == ""
    assert len(found["steps"]) > 4  # past the first samples, which nobody waits for


@pytest.mark.parametrize("kind", ["alone", "stop-apart"])
def test_one_process_is_never_asked_to_stop_alone(kind: str, run: Callable[[str], Path]) -> None:
    folder = run(kind)  # watched alone from the start, or from the step on that all would stop

    assert of_each(folder, "last_step") == [LONGER.get(kind, STEPS) - 1] * 2
    assert of_each(folder, "heard") == [1, 0]  # functions are called on rank 0 all the same
    assert str(sent(folder)["reason"]) != ""


def test_weights_are_bit_identical_and_one_rank_alone_holds_nobody_up(
    run: Callable[[str], Path],
) -> None:
    bare = np.load(run("ddp-bare") / "weights-1.npz")
    found = sent(run("alone"))

    assert "call watch in every process" in str(found["reason"])
    assert found["steps"].tolist() == list(range(STEPS))
    for kind in ("ddp", "alone"):
        watched = np.load(run(kind) / "weights-1.npz")
        assert all(np.array_equal(watched[name], bare[name]) for name in bare)


@pytest.mark.parametrize("kind", ["tensor", *PIPELINES])
def test_weights_of_split_models_are_bit_identical(kind: str, run: Callable[[str], Path]) -> None:
    watched, bare = (np.load(run(name) / "weights-1.npz") for name in (kind, f"{kind}-bare"))

    assert watched.files
    assert all(np.array_equal(watched[name], bare[name]) for name in bare.files)


def test_the_norm_in_one_process_is_that_of_all_gradients() -> None:
    model, optimizer = built()
    loss_of(model, batch(1)).backward()

    expected = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert float(gradient_norm(optimizer)) == pytest.approx(float(expected), rel=1e-5)
