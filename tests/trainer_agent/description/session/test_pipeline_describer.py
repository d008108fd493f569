"""A pipeline describes itself as the whole model would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from dslm import BlockFlow, Site, predict, spec_from_json
from dslm.spec import Block, Kernel, Missing, ModelSpec, Stack
from tests.trainer_agent.distributed_job import LAYERS, PIPELINES
from tests.trainer_agent.small_gpt import batch, built, loss_of, train_step
from trainer_agent import describe
from trainer_agent.distributed.merge_specs import merged_spec


class Losing(nn.Module):
    """A model whose forward pass ends in its loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return loss_of(self.model, ids)


def described_whole(layers: int) -> ModelSpec:
    """The whole model after one step, on the batch of the second."""
    model, optimizer = built(layers=layers)
    train_step(model, optimizer, batch(0, size=4))
    return describe(Losing(model), batch(1, size=4))


def revisions(folder: Path) -> list[tuple[int, ModelSpec]]:
    sent = json.loads((folder / "frames-0.json").read_text())
    return [(revision["step"], spec_from_json(body_of(revision))) for revision in sent]


def body_of(revision: dict[str, Any]) -> dict[str, Any]:
    flows = revision["flows"]
    return {**revision["spec"], "flows": flows} if flows else revision["spec"]


def numbers(block: Block | None) -> list[float]:
    """The weight moments of a block, in one order."""
    assert block is not None
    maps = [block.attention.query, block.attention.output, block.feed_forward.up]
    norms = [block.attention_norm, block.feed_forward_norm]
    of_maps = [value for part in maps for value in (part.weight_var, part.bias_var)]
    return of_maps + [value for part in norms for value in (part.gain_mean, part.bias_var)]


@pytest.mark.parametrize("kind", ["pipeline", "interleaved"])
def test_the_description_of_a_pipeline_is_that_of_the_whole_model(
    kind: str,
    run: Callable[[str], Path],
) -> None:
    (step, described), *_ = revisions(run(kind))
    expected = described_whole(LAYERS[kind])

    assert step == 1  # the first is left out
    assert described.missing == expected.missing == ()
    # Of a schedule that runs two micro-batches of two sequences.
    assert (described.batch_size, described.n_params) == (2, expected.n_params)
    of, to = described.stacks["decoder"], expected.stacks["decoder"]
    assert of.d_model == to.d_model and len(of.blocks) == len(to.blocks) == LAYERS[kind]
    for block, other in zip(of.blocks, to.blocks, strict=True):
        # float32 in another order, and Adam's first step is the sign of each gradient
        assert numbers(block) == pytest.approx(numbers(other), rel=1e-3, abs=1e-7)
        assert block is not None and other is not None
        assert (block.placement, block.attention.n_heads) == (other.placement, 2)
    for kernel, expected_kernel, scale in (
        (of.input_kernel, to.input_kernel, 1.0),
        # Each micro-batch's loss is the mean over half of the sequences.
        (of.top_gradient_kernel, to.top_gradient_kernel, 2.0**2),
    ):
        assert kernel is not None and expected_kernel is not None
        diagonal = scale * expected_kernel.diagonal
        off_diagonal = scale * expected_kernel.off_diagonal
        np.testing.assert_allclose(kernel.diagonal, diagonal, rtol=1e-3)
        np.testing.assert_allclose(
            kernel.off_diagonal, off_diagonal, rtol=1e-3, atol=1e-3 * float(diagonal.max())
        )


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_prediction_of_a_pipeline_misses_nothing_that_the_whole_model_has(
    kind: str,
    run: Callable[[str], Path],
) -> None:
    (_, described), *_ = revisions(run(kind))
    expected = predict(described_whole(LAYERS[kind]))

    prediction = predict(described)

    assert len(prediction.missing) <= len(expected.missing)
    of, to = prediction.stacks["decoder"], expected.stacks["decoder"]
    np.testing.assert_allclose(of.forward.variance, to.forward.variance, rtol=2e-3)
    np.testing.assert_allclose(of.forward.correlation, to.forward.correlation, atol=2e-3)
    if kind != "looped":  # whose schedule begins backwards with another micro-batch
        np.testing.assert_allclose(of.backward.variance, to.backward.variance, rtol=5e-3)


@pytest.mark.parametrize("kind", ["asked", "asked-fixed", "fsdp-asked"])
def test_a_description_that_the_server_asks_for_is_of_all_processes(
    kind: str, run: Callable[[str], Path]
) -> None:
    first, *later = revisions(run(kind))

    before, _ = first
    # Of sharded parameters the second sample is described too, for what is inside the blocks.
    after, described = next((step, spec) for step, spec in later if step > 2)
    assert before < 2 and 5 < after < 50  # asked at step 5; at 50 it is time anyway
    assert described.missing == ()
    blocks = described.stacks["decoder"].blocks
    assert None not in blocks and len(blocks) == 3
    flows = described.flows["decoder"]
    assert [flow is None or flow.missing for flow in flows] == [{}] * 3
    assert str(np.load(run(kind) / "frames-0.npz")["reason"]) == ""


def spec(n: int, *, first: float = 1.0) -> ModelSpec:
    """A stage of `n` blocks that were not understood."""
    diagonal = np.array([first])
    kernel = Kernel(diagonal, diagonal[:, None], np.array([1]))
    return ModelSpec("custom", {"decoder": Stack(4, (None,) * n, kernel, kernel)}, n_params=10)


def test_a_stage_that_does_not_come_leaves_its_blocks_open_and_is_named() -> None:
    merged = merged_spec([spec(2), None, spec(1)], [{"decoder": 2}, {"decoder": 3}, {"decoder": 1}])

    assert merged.stacks["decoder"].blocks == (None,) * 6
    assert [missing.where for missing in merged.missing] == ["stage 1"]
    assert merged.n_params == 20


def test_the_input_is_the_first_stage_s_and_the_top_the_last_one_s() -> None:
    parts = [spec(1, first=2.0), spec(1, first=3.0), spec(1, first=5.0)]

    stack = merged_spec(parts, [{"decoder": 1}] * 3).stacks["decoder"]

    assert stack.input_kernel.diagonal == 2.0
    assert stack.top_gradient_kernel is not None and stack.top_gradient_kernel.diagonal == 5.0


def test_what_was_measured_inside_blocks_is_put_in_the_order_of_the_stages() -> None:
    flows = [BlockFlow({"in": Site(value)}) for value in (1.0, 2.0, 3.0)]
    parts = [
        replace(spec(2), flows={"decoder": (flows[0], flows[1])}),
        spec(1),
        None,
        replace(spec(1), flows={"decoder": (flows[2],)}),
    ]

    merged = merged_spec(parts, [{"decoder": n} for n in (2, 1, 1, 1)])

    assert merged.flows == {"decoder": (flows[0], flows[1], None, None, flows[2])}
    assert merged_spec([spec(2)], [{"decoder": 2}]).flows == {}


def test_what_a_stage_could_not_read_is_named_with_the_stage() -> None:
    missing = Missing("blocks.0.attention", "softmax of my own", "not known")
    without_blocks = ModelSpec(
        "custom", {}, missing=(Missing("model", "blocks", "none"),), n_params=5
    )
    parts = [without_blocks, replace(spec(1), missing=(missing,), notes=("odd",))]

    merged = merged_spec(parts, [{}, {"decoder": 1}])

    assert merged.missing == (replace(missing, where="stage 1: blocks.0.attention"),)
    assert merged.notes == ("stage 1: odd",) and merged.n_params == 15
