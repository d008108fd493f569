"""Whose layers stand where in the model that several processes hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from tests.trainer_agent.distributed.local_sums import plan, sums
from tests.trainer_agent.small_gpt import built
from trainer_agent import watch
from trainer_agent.capture.statistics.sums import ADDITIVE, MAXIMA
from trainer_agent.distributed.pipeline import LayoutMismatch, PipelineLayout
from trainer_agent.distributed.stage_layout import StageLayout, stage_layout
from trainer_agent.errors import WatchError
from trainer_agent.model.plan import Plan, StackPlan
from trainer_agent.model.sites import RequestedSites


def stages_of(*blocks: int) -> tuple[StageLayout, ...]:
    """Stages that hold so many blocks of a decoder."""
    return tuple(StageLayout({"decoder": n} if n else {}) for n in blocks)


def test_stages_fill_every_row_of_the_whole_model_once():
    sizes = (2, 1, 3)
    placed = [
        PipelineLayout((stage,), stages_of(*sizes)).place(plan(n), sums(plan(n), 1.0))
        for stage, n in enumerate(sizes)
    ]

    target = PipelineLayout((0,), stages_of(*sizes)).global_plan(plan(2))

    assert [place.n for place in target.places] == [7, 7, 6, 6]
    assert (sum(stage.moments for stage in placed) == 1.0).all()
    assert (sum(stage.logits for stage in placed) == 1.0).all()
    assert (np.max([stage.logit_max for stage in placed], axis=0) == 1.0).all()


def test_blocks_of_a_stage_stand_behind_those_of_earlier_stages():
    layout = PipelineLayout((1,), stages_of(2, 3))

    placed = layout.place(plan(3), sums(plan(3), 5.0))

    target = layout.global_plan(plan(3))
    assert target.stacks[0].blocks == ("", "", "h.0", "h.1", "h.2")
    first = target.row("decoder", "stream", 0)
    assert placed.moments[first : first + 6, 0].tolist() == [0, 0, 5, 5, 5, 5]


def test_stage_that_holds_other_blocks_than_it_announced_is_refused():
    with pytest.raises(LayoutMismatch, match=r"stage 0 was to hold blocks \{'decoder': 2\}"):
        PipelineLayout((0,), stages_of(2)).global_plan(plan(3))


def test_two_chunks_of_a_process_stand_each_at_its_place():
    local = Plan(
        (
            StackPlan("decoder@0", ("0.h.0", "0.h.1"), (None,) * 2, (None,) * 2),
            StackPlan("decoder@2", ("1.h.0", "1.h.1", "1.h.2"), (None,) * 3, (None,) * 3),
        )
    )
    layout = PipelineLayout((0, 2), stages_of(2, 1, 3))

    placed = layout.place(local, sums(local, 5.0))

    target = layout.global_plan(local)
    assert target.stacks[0].blocks == ("0.h.0", "0.h.1", "", "1.h.0", "1.h.1", "1.h.2")
    first = target.row("decoder", "stream", 0)
    # What leaves the first chunk enters stage 1, and what enters the second left it.
    assert placed.moments[first : first + 7, 0].tolist() == [5, 5, 0, 5, 5, 5, 5]
    assert layout.layers_before(local) == {"decoder@0": 0, "decoder@2": 3}


def test_a_stage_without_blocks_brings_as_many_rows_as_the_others():
    layout = PipelineLayout((0,), stages_of(0, 2))
    requested = RequestedSites(quantities=("kurtosis",), sites=("weights",))
    embeddings, blocks = Plan((), requested), replace(plan(2), requested=requested)

    without_blocks = layout.place(embeddings, sums(embeddings, 1.0))
    with_blocks = replace(layout, local_stages=(1,)).place(blocks, sums(blocks, 1.0))

    for name in (*ADDITIVE, *MAXIMA):
        assert getattr(without_blocks, name).shape == getattr(with_blocks, name).shape
    assert without_blocks.parameters.sum() == 8  # those outside the blocks


def test_heads_of_a_stage_stand_in_the_rows_of_its_blocks():
    (stack,) = plan(1).stacks
    local = Plan((replace(stack, n_heads=2),), RequestedSites(sites=("attention_heads",)))
    stages = stage_layout(local), StageLayout({"decoder": 2}, {"decoder": 2})

    placed = PipelineLayout((0,), stages).place(local, sums(local, 1.0))

    assert placed.heads[:, 0].tolist() == [1, 1, 0, 0, 0, 0]
    assert placed.head_max.tolist() == [1, 1, *[-np.inf] * 4]


@pytest.mark.parametrize(
    ("pipeline", "chunks"), [(([0, 2], 4), 3), ((0, 4), 2), (([0, 2], 4), None)]
)
def test_stages_that_do_not_fit_the_chunks_are_named(pipeline, chunks, tmp_path):
    model = built()[0] if chunks is None else nn.ModuleList(built()[0] for _ in range(chunks))

    with pytest.raises(WatchError, match=r"pipeline: .* one stage for each chunk"):
        watch(model, project="p", run="r", spool_dir=tmp_path, pipeline=pipeline)


@pytest.mark.parametrize(
    "pipeline",
    [(4, 4), (-1, 2), (0,), "0/4", 3, (0.5, 2), ([], 2), ([0, 0], 2), ([0, 2], 2), ("0", 2)],
)
def test_pipeline_that_is_no_stage_is_named(pipeline, tmp_path):
    with pytest.raises(WatchError, match=r"pipeline: .* give \(stage, stages\)"):
        watch(built()[0], project="p", run="r", spool_dir=tmp_path, pipeline=pipeline)
