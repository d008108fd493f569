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
    assert not (folder / "frames-1.npz").exists()  # rank 0 sends for both
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
    measured, expected = sent(run(kind)), in_one_process(tmp_path, clip=kind in ("ddp", "fsdp"))

    assert measured["steps"].tolist() == list(range(STEPS))
    assert str(measured["reason"]) == ""
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
        target = expected[key]
        # float32 in another order, and correlations of gradients near zero; Adam's first step is
        # the sign of each gradient, which may turn for one that is nearly zero
        largest = float(np.abs(target).max())
        np.testing.assert_allclose(
            measured[key], target, rtol=2e-4, atol=2e-4 * largest, err_msg=key
        )


@pytest.mark.parametrize("kind", PIPELINES)
def test_pipeline_shows_the_layers_of_all_its_stages(
    kind: str, run: Callable[[str], Path], tmp_path: Path
) -> None:
    measured = sent(run(kind))
    expected = in_one_process(tmp_path, step=1, layers=LAYERS[kind])

    assert measured["steps"].tolist() == list(
        range(1, STEPS)
    )  # torch runs the first on unfilled memory
    assert str(measured["reason"]) == ""
    for key in ("mean", "variance", "correlation"):
        target = expected[f"decoder/stream/{key}"]
        np.testing.assert_allclose(measured[f"decoder/stream/{key}"], target, rtol=2e-4, atol=2e-5)
    # A micro-batch's own loss is differentiated: twice the gradient of the mean over both.
    gradient = measured["decoder/stream_gradient/variance"]
    np.testing.assert_allclose(gradient, 4 * expected["decoder/stream_gradient/variance"], 2e-4)
    keys = ("decoder/stream/kurtosis", "decoder/weights/rms", "/weights/rms")
    keys += ("decoder/feed_forward/variance", "decoder/attention_logits/entropy")
    keys += ("decoder/attention_head_0/variance", "decoder/attention_head_1/max")
    keys += ("decoder/hidden/variance", "/normed/variance", "/normed/kurtosis")
    for key in ("/loss/value", "/gradient_norm/value", *keys):
        np.testing.assert_allclose(measured[key], expected[key], 2e-4)


def test_sites_that_no_stage_has_are_dropped_with_their_reason(run: Callable[[str], Path]) -> None:
    measured = sent(run("interleaved"))

    assert measured["dropped"].tolist() == ["absent: the pattern fits no module of any stage"]
    assert not any("absent" in key for key in measured)


def test_heads_are_dropped_where_stages_differ_in_them(run: Callable[[str], Path]) -> None:
    measured = sent(run("uneven"))

    assert str(measured["reason"]) == ""
    assert (
        "stages differ in heads of the decoder, or do not know them: 2, 4" in measured["dropped"][0]
    )
    assert not any("attention_head_" in key for key in measured)
    assert np.isfinite(measured["decoder/attention_logits/entropy"]).all()


def test_ranks_agree_on_the_interval_of_a_budget(run: Callable[[str], Path]) -> None:
    measured = sent(run("budget"))

    assert str(measured["reason"]) == ""  # a step sampled by one rank alone would be named here
    assert measured["steps"].tolist()[:4] == [0, 1, 2, 3]


def test_a_burst_begins_in_all_processes_at_the_same_step(run: Callable[[str], Path]) -> None:
    measured = sent(run("burst"))

    assert str(measured["reason"]) == ""  # a step sampled by one process alone would be named here
    assert measured["burst"].tolist() == ["b", ""]
    gaps = np.diff(measured["steps"][measured["steps"] > 5])
    assert "1" * 5 in "".join("1" if gap == 1 else "0" for gap in gaps)  # six steps running


def test_layers_of_a_burst_are_counted_from_the_first_stage_on(run: Callable[[str], Path]) -> None:
    measured = sent(run("staged_burst"))

    assert str(measured["reason"]) == ""
    assert len(measured["closer"]) > 0
    # What enters layer 2, the first of the second stage; and nothing of the first stage's layers.
    assert all(
        np.isfinite(values).tolist() == [False, False, True, False] for values in measured["closer"]
    )


def test_a_burst_between_samples_of_a_fixed_interval_begins_in_all_processes(
    run: Callable[[str], Path],
) -> None:
    measured = sent(run("burst-fixed"))

    assert str(measured["reason"]) == ""
    assert measured["burst"].tolist() == ["b", ""]
    # Published in step 5, announced with the sample of step 6, or of step 3 where that is reduced
    # late, and applied after the sample 16 steps later.
    expected = [[*range(0, start, 3), *range(start, start + 6)] for start in (22, 25)]
    steps = measured["steps"].tolist()
    assert any(steps == start + [n for n in range(0, 40, 3) if n > start[-1]] for start in expected)


@pytest.mark.parametrize("kind", ["stop", "stop-fixed"])
def test_processes_are_asked_to_stop_at_the_same_step(
    kind: str, run: Callable[[str], Path]
) -> None:
    folder = run(kind)

    first, second = of_each(folder, "last_step")
    assert first == second < LONGER[kind] - 1
    assert str(sent(folder)["reason"]) == ""


def test_a_server_slow_to_answer_sets_no_process_apart(run: Callable[[str], Path]) -> None:
    measured = sent(run("slow-server"))

    assert str(measured["reason"]) == ""
    assert len(measured["steps"]) > 4  # past the first samples, which nobody waits for


@pytest.mark.parametrize("kind", ["alone", "stop-apart"])
def test_one_process_is_never_asked_to_stop_alone(kind: str, run: Callable[[str], Path]) -> None:
    folder = run(kind)  # watched alone from the start, or from the step on that all would stop

    assert of_each(folder, "last_step") == [LONGER.get(kind, STEPS) - 1] * 2
    assert of_each(folder, "alerts") == [1, 0]  # functions are called on rank 0 all the same
    assert str(sent(folder)["reason"]) != ""


def test_weights_are_bit_identical_and_one_rank_alone_holds_nobody_up(
    run: Callable[[str], Path],
) -> None:
    bare = np.load(run("ddp-bare") / "weights-1.npz")
    measured = sent(run("alone"))

    assert "call watch in every process" in str(measured["reason"])
    assert measured["steps"].tolist() == list(range(STEPS))
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
