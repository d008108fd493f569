"""Steps that skip blocks (LayerDrop, early exits): every block keeps its layer."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import dslm
import trainer_agent
from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import SmallGPT, batch, loss_of
from trainer_agent.agent import Agent
from wire import is_absent

STEPS = 6


class Skipping(SmallGPT):
    """Calls at each forward pass the blocks that `runs` names for it."""

    def __init__(self, runs: list[list[bool]]) -> None:
        super().__init__()
        self.runs, self.n_passes = runs, 0

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        running = self.runs[self.n_passes % len(self.runs)]
        self.n_passes += 1
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block, runs in zip(self.blocks, running, strict=True):
            if runs and self.reentrant is not None:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
            elif runs:
                x = block(x)
        return self.head(self.norm(x))


def trained(
    model: SmallGPT, folder: Path | None, **options: int
) -> tuple[Agent | None, RecordingTransport | None, list[dict[int, Tensor]]]:
    """`STEPS` steps; what came out of each place of the stream in each of them, and gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent = transport = None
    if folder is not None:
        agent, transport = recorded(model, folder, optimizer=optimizer, **options)
    seen: list[dict[int, Tensor]] = []

    def note(place: int) -> object:
        def hook(_: nn.Module, args: tuple[Tensor, ...], *output: Tensor) -> None:
            if 0 not in seen[-1]:
                seen[-1][0] = args[0]
            if output:
                seen[-1][place] = output[0]

        return hook

    for index, block in enumerate(model.blocks):
        block.register_forward_pre_hook(note(index))
        block.register_forward_hook(note(index + 1))
    for step in range(STEPS):
        seen.append({})
        loss = loss_of(model, batch(step))
        for x in seen[-1].values():
            x.retain_grad()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if agent is not None:
            agent.step(loss=loss)
    if agent is not None:
        agent.close()
        assert agent._parts.guard.failures == 0
    return agent, transport, seen


def check(transport: RecordingTransport, seen: list[dict[int, Tensor]]) -> None:
    """Every place that a step reached is measured, and every other is absent."""
    for at, tensors in enumerate(seen):
        for site in ("stream", "stream_gradient"):
            values = transport.series(f"decoder/{site}/variance", at)
            expected = np.full(len(values), np.nan)
            for place, x in tensors.items():
                y = x if site == "stream" else x.grad
                assert y is not None
                expected[place] = float(y.detach().double().var(correction=0))
            np.testing.assert_allclose(values, expected, rtol=1e-4)
            np.testing.assert_array_equal(is_absent(values), np.isnan(expected))


N = len(SmallGPT().blocks)
PATTERNS = [
    pytest.param([[True] * N, [False] + [True] * (N - 1)], id="the first block now and then"),
    pytest.param([[True] * (N - 1) + [False], [True] * N], id="the last one at first"),
    pytest.param([[False] + [True] * (N - 1), [True] * (N - 1) + [False]], id="never all"),
    pytest.param([[True] + [False] * (N - 1)], id="only one"),
]


@pytest.mark.parametrize("runs", PATTERNS)
def test_blocks_that_a_step_skips_are_absent_in_it(runs: list[list[bool]], tmp_path: Path) -> None:
    torch.manual_seed(0)

    agent, transport, seen = trained(Skipping(runs), tmp_path)

    assert agent is not None and transport is not None
    check(transport, seen)
    assert transport.health.stopped == ()


@settings(max_examples=15, deadline=None)
@given(
    runs=st.lists(
        st.lists(st.booleans(), min_size=N, max_size=N).filter(any), min_size=1, max_size=STEPS
    ),
    every=st.integers(1, 3),
)
def test_any_pattern_leaves_training_as_it_is(
    runs: list[list[bool]], every: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.manual_seed(0)
    bare = Skipping(runs)
    watched = copy.deepcopy(bare)

    trained(bare, None)
    _, transport, seen = trained(watched, tmp_path_factory.mktemp("job"), every=every)

    for name, parameter in bare.named_parameters():
        assert torch.equal(parameter, watched.get_parameter(name)), name
    assert transport is not None
    check(transport, seen[::every])


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_run_blocks_again_where_the_pass_began(reentrant: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Skipping([[True] * N, [False] + [True] * (N - 1)])
    model.reentrant = reentrant
    inputs: list[dict[int, Tensor]] = []
    for index, block in enumerate(model.blocks):

        def note(_: nn.Module, args: tuple[Tensor], at: int = index) -> None:
            inputs[-1].setdefault(at, args[0].detach().double())

        block.register_forward_pre_hook(note)
    agent, transport = recorded(model, tmp_path)
    for step in range(4):
        inputs.append({})
        loss_of(model, batch(step)).backward()
        agent.step()
    agent.close()

    for at, of_step in enumerate(inputs):
        start = of_step[min(of_step)]
        measured = float(transport.series("decoder/stream/variance", at)[0])
        assert measured == pytest.approx(float(start.var(correction=0)), rel=1e-4)
        assert np.isfinite(transport.series("decoder/stream_gradient/variance", at)[0])


def test_a_model_is_described_once_each_block_was_called(tmp_path: Path) -> None:
    torch.manual_seed(0)
    runs = [[True] * (N - 1) + [False], [False] + [True] * (N - 1), [True] * N]

    _, transport, _ = trained(Skipping(runs), tmp_path)

    assert transport is not None
    revision = transport.revisions[0]
    assert (revision.step, revision.spec["missing"]) == (1, [])
    spec = dslm.spec_from_json(revision.spec)
    assert len(spec.stacks["decoder"].blocks) == N
    assert np.isfinite(dslm.predict(spec).stacks["decoder"].forward.variance).all()
    assert np.isfinite(transport.series("decoder/attention/variance", 2)).all()


@pytest.mark.parametrize("runs", [[[False] + [True] * (N - 1)], [[False] * N]])
def test_describe_takes_a_pass_that_skips_blocks(runs: list[list[bool]]) -> None:
    torch.manual_seed(0)

    spec = trainer_agent.describe(Skipping(runs), batch(0)[:, :-1])

    assert spec.missing
    assert all(stack.input_kernel is not None for stack in spec.stacks.values())


def test_a_block_that_no_pass_has_called_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)

    _, transport, _ = trained(Skipping([[True] * (N - 1) + [False]]), tmp_path)

    assert transport is not None
    missing = transport.revisions[0].spec["missing"]
    assert [m["where"] for m in missing if m["what"] == "skipped block"] == [f"blocks.{N - 1}"]
