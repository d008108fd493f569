"""What the processes of a job bring together: who counts once, and whose layers stand where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.trainer_agent.small_gpt import built
from trainer_agent import watch
from trainer_agent.capture.statistics.accumulator import ADDITIVE, MAXIMA, Accumulator, Sums
from trainer_agent.distributed import outlines
from trainer_agent.distributed.outlines import StageOutline
from trainer_agent.distributed.pipeline import Misfit, Stages
from trainer_agent.distributed.replicas import fingerprint, replicas
from trainer_agent.model.plan import Plan, StackPlan
from trainer_agent.model.sites import Wanted
from trainer_agent.options import WatchError


def plan(n: int) -> Plan:
    return Plan(
        (StackPlan("decoder", tuple(f"h.{i}" for i in range(n)), (None,) * n, (None,) * n),)
    )


def sums(of: Plan, value: float) -> Sums:
    """Sums of a step in which every row is `value`."""
    empty = Accumulator(of, torch.device("cpu")).take()()
    alike = {name: np.full_like(getattr(empty, name), value) for name in (*ADDITIVE, *MAXIMA)}
    return replace(empty, **alike)


def held_by(*blocks: int) -> tuple[StageOutline, ...]:
    """Outlines of stages that hold so many blocks of a decoder."""
    return tuple(StageOutline({"decoder": n} if n else {}) for n in blocks)


def test_stages_fill_every_row_of_the_whole_model_once():
    held = held_by(2, 1, 3)
    parts = [
        Stages((own,), held).spread(plan(n), sums(plan(n), 1.0)) for own, n in enumerate((2, 1, 3))
    ]

    whole = Stages((0,), held).widened(plan(2))

    assert [place.n for place in whole.places] == [7, 7, 6, 6]
    assert (sum(part.moments for part in parts) == 1.0).all()
    assert (sum(part.logits for part in parts) == 1.0).all()
    assert (np.max([part.logit_max for part in parts], axis=0) == 1.0).all()


def test_blocks_of_a_stage_stand_behind_those_of_earlier_stages():
    stages = Stages((1,), held_by(2, 3))

    placed = stages.spread(plan(3), sums(plan(3), 5.0))

    whole = stages.widened(plan(3))
    assert whole.stacks[0].blocks == ("", "", "h.0", "h.1", "h.2")
    first = whole.row("decoder", "stream", 0)
    assert placed.moments[first : first + 6, 0].tolist() == [0, 0, 5, 5, 5, 5]


def test_stage_that_holds_other_blocks_than_it_said_is_refused():
    with pytest.raises(Misfit, match=r"stage 0 was to hold blocks \{'decoder': 2\}"):
        Stages((0,), held_by(2)).widened(plan(3))


def test_equal_inputs_are_one_batch_and_unseen_ones_are_nobody_s():
    seen, unseen = sums(plan(2), 1.5), sums(plan(2), 0.0)

    found = [
        fingerprint(plan(2), one, rank) for rank, one in enumerate([seen, seen, unseen, unseen])
    ]

    assert replicas(found, found[0]).alike == 2
    assert replicas(found, found[3]).alike == 1
    assert replicas(found, found[0]).different == 3


def test_two_chunks_of_a_process_stand_each_at_its_place():
    own = Plan(
        (
            StackPlan("decoder@0", ("0.h.0", "0.h.1"), (None,) * 2, (None,) * 2),
            StackPlan("decoder@2", ("1.h.0", "1.h.1", "1.h.2"), (None,) * 3, (None,) * 3),
        )
    )
    stages = Stages((0, 2), held_by(2, 1, 3))

    placed = stages.spread(own, sums(own, 5.0))

    whole = stages.widened(own)
    assert whole.stacks[0].blocks == ("0.h.0", "0.h.1", "", "1.h.0", "1.h.1", "1.h.2")
    first = whole.row("decoder", "stream", 0)
    # What leaves the first chunk enters stage 1, and what enters the second left it.
    assert placed.moments[first : first + 7, 0].tolist() == [5, 5, 0, 5, 5, 5, 5]
    assert stages.layers_before(own) == {"decoder@0": 0, "decoder@2": 3}


def test_a_stage_without_blocks_brings_as_many_rows_as_the_others():
    stages = Stages((0,), held_by(0, 2))
    wanted = Wanted(quantities=("kurtosis",), sites=("weights",))
    embeddings, blocks = Plan((), wanted), replace(plan(2), wanted=wanted)

    nothing = stages.spread(embeddings, sums(embeddings, 1.0))
    some = replace(stages, own=(1,)).spread(blocks, sums(blocks, 1.0))

    for name in (*ADDITIVE, *MAXIMA):
        assert getattr(nothing, name).shape == getattr(some, name).shape
    assert nothing.parameters.sum() == 8  # those outside the blocks


def test_heads_of_a_stage_stand_in_the_rows_of_its_blocks():
    wanted = Wanted(sites=("attention_heads",))
    (stack,) = plan(1).stacks
    own = Plan((replace(stack, n_heads=2),), wanted)
    held = [outlines.outline(own), StageOutline({"decoder": 2}, {"decoder": 2})]

    placed = Stages((0,), tuple(held)).spread(own, sums(own, 1.0))

    assert placed.heads[:, 0].tolist() == [1, 1, 0, 0, 0, 0]
    assert placed.head_max.tolist() == [1, 1, *[-np.inf] * 4]


def test_a_site_in_blocks_of_one_stage_and_elsewhere_in_another_is_dropped():
    held = (
        StageOutline({"decoder": 1}, custom={"a": ("decoder", 1), "b": ("", 2), "c": ("", 0)}),
        StageOutline({"decoder": 2}, custom={"a": ("", 1), "b": ("", 1), "c": ("decoder", 2)}),
    )

    sites = {site.name: (site.stack, len(site.paths)) for site in outlines.common_sites(held)}

    assert sites == {"b": ("", 3), "c": ("decoder", 3)}
    (reason,) = outlines.dropped(held, ())
    assert reason == "a: in some stages it lies in blocks, in others elsewhere"
    assert outlines.read(outlines.write(held)) == held


@pytest.mark.parametrize(
    ("pipeline", "chunks"), [(([0, 2], 4), 3), ((0, 4), 2), (([0, 2], 4), None)]
)
def test_stages_that_do_not_fit_the_chunks_are_named(pipeline, chunks, tmp_path):
    model = built()[0] if chunks is None else nn.ModuleList(built()[0] for _ in range(chunks))

    with pytest.raises(WatchError, match=r"pipeline: .* one stage for each chunk"):
        watch(model, project="p", run="r", spool_dir=tmp_path, pipeline=pipeline)


@pytest.mark.parametrize(
    "given",
    [(4, 4), (-1, 2), (0,), "0/4", 3, (0.5, 2), ([], 2), ([0, 0], 2), ([0, 2], 2), ("0", 2)],
)
def test_pipeline_that_is_no_stage_is_named(given, tmp_path):
    with pytest.raises(WatchError, match=r"pipeline: .* give \(stage, stages\)"):
        watch(built()[0], project="p", run="r", spool_dir=tmp_path, pipeline=given)
