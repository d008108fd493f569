"""A watched model describes itself from the first step it takes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dslm import predict, spec_from_json
from tests.trainer_agent.description.test_families import gpt2
from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import LAYERS, WIDTH, SmallGPT, batch, built, loss_of, train_step
from trainer_agent import describe, watch
from trainer_agent.agent import Agent
from trainer_agent.description.session import describer
from trainer_agent.description.trace.tracer import Trace
from trainer_agent.errors import WatchError
from wire import Command, FrameBatch, FramesReceipt

BRANCHES = ("attention", "feed_forward", "attention_norm_input", "feed_forward_norm_input")


def described(tmp_path: Path) -> tuple[SmallGPT, Agent, RecordingTransport]:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    agent.step(loss=train_step(model, optimizer, batch(1)))
    agent.close()
    return built()[0], agent, transport


def test_the_first_description_is_of_the_weights_before_the_first_update(tmp_path: Path) -> None:
    fresh, _, transport = described(tmp_path)

    (revision,) = transport.revisions
    spec = spec_from_json(revision.spec)

    assert revision.step == 0
    expected = describe(fresh, batch(1)[:, :-1])
    stack, as_described = spec.stacks["decoder"], expected.stacks["decoder"]
    assert len(stack.blocks) == LAYERS and stack.d_model == WIDTH
    assert stack.blocks == as_described.blocks
    assert stack.input_kernel.diagonal == pytest.approx(
        as_described.input_kernel.diagonal, rel=1e-5
    )
    assert spec.missing == ()


def test_the_description_predicts_what_the_first_frame_measured(tmp_path: Path) -> None:
    _, _, transport = described(tmp_path)

    prediction = predict(spec_from_json(transport.revisions[0].spec)).stacks["decoder"]

    measured = transport.series("decoder/stream/variance", at=0)
    # One draw of weights at width 16 scatters by tens of percent.
    assert prediction.forward.variance == pytest.approx(measured, rel=0.5)
    assert np.isfinite(prediction.backward.variance).all()


def test_the_head_is_described_while_labels_fit_the_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = gpt2("sdpa").train()
    agent, transport = recorded(model, tmp_path, every=1)
    ids = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(0))
    loss = model(input_ids=ids, labels=ids)["loss"]
    loss.backward()
    agent.step(loss=loss)
    agent.close()

    spec = spec_from_json(transport.revisions[0].spec)
    prediction = predict(spec).stacks["decoder"]
    assert spec.stacks["decoder"].head is not None
    assert prediction.loss == pytest.approx(float(loss.detach()), abs=0.2)
    assert np.isfinite(prediction.gradient_variance).all()


class AskingTransport(RecordingTransport):
    """Asks once, with its first answer, for a fresh description."""

    def send(self, run_id: str, batch: FrameBatch) -> FramesReceipt:
        receipt = super().send(run_id, batch)
        commands = [Command(id="1", kind="describe"), Command(id="2", kind="dance")]
        return FramesReceipt(receipt.durable, receipt.accepted, receipt.duplicates, commands)


def test_the_server_may_ask_for_a_fresh_description(tmp_path: Path) -> None:
    model, optimizer = built()
    transport = AskingTransport()
    agent, _ = recorded(model, tmp_path, optimizer=optimizer)
    agent._parts.sender._make_transport = lambda: transport

    for step in range(200):
        agent.step(loss=train_step(model, optimizer, batch(step)))
        if any(revision.step > 0 for revision in transport.revisions):
            break
    agent.close()

    first, *later = transport.revisions
    assert first.step == 0
    assert later and later[0].spec != first.spec


def test_descriptions_follow_at_steps_that_grow_geometrically(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, every=10)

    for step in range(230):
        agent.step(loss=train_step(model, optimizer, batch(step)))
    agent.close()

    assert [revision.step for revision in transport.revisions] == [0, 50, 100, 200]


@pytest.mark.parametrize(
    ("in_budget", "share_of_time", "steps"),
    [
        (True, math.inf, [50, 100, 200, 400]),
        (True, 0.0, [200]),  # the next waits until step 1,600
        (False, 0.0, [50, 100, 200, 400]),
    ],
    ids=["the time allows all", "each waits as long as it may", "every step was asked for"],
)
def test_under_a_budget_descriptions_wait_until_those_before_are_paid_back(
    in_budget: bool,
    share_of_time: float,
    steps: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(describer, "SHARE_OF_TIME", share_of_time)
    model, optimizer = built()
    agent, _ = recorded(model, tmp_path, optimizer=optimizer)
    agent.step(loss=train_step(model, optimizer, batch(0)))
    describes = agent._parts.describer
    asked: list[int] = []

    for step in range(1, 800):
        with monkeypatch.context() as patch:
            patch.setattr(describes, "ask", lambda step=step: asked.append(step))
            describes.ask_from_time_to_time(step, in_budget=in_budget)
    agent.close()

    assert asked == steps


class NoBlocks(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.only(x)


def test_a_model_without_blocks_sends_its_loss_and_says_what_is_missing(tmp_path: Path) -> None:
    model = NoBlocks()
    agent, transport = recorded(model, tmp_path)

    model(torch.ones(1, 2, 4)).sum().backward()
    agent.step(loss=0.5)
    agent.close()

    assert transport.series("/loss/value")[0] == 0.5
    spec = spec_from_json(transport.revisions[0].spec)
    assert spec.stacks == {} and spec.missing[0].what == "blocks"


def test_a_model_that_cannot_be_followed_is_watched_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise NotImplementedError("an operator of my own")

    monkeypatch.setattr(Trace, "value_of", refuse)
    model, _ = built()
    agent, transport = recorded(model, tmp_path)

    loss_of(model, batch(1)).backward()
    agent.step(loss=1.0)
    agent.close()

    spec = spec_from_json(transport.revisions[0].spec)
    assert spec.stacks["decoder"].blocks == (None,) * LAYERS
    assert spec.missing[0].what == "forward pass"
    assert "operator of my own" not in str(spec.missing)  # an error of ours is no user's business
    assert np.isfinite(transport.series("decoder/stream/variance")).all()


def test_a_pass_that_raises_is_not_described_and_the_next_one_is(tmp_path: Path) -> None:
    model, _ = built()
    agent, transport = recorded(model, tmp_path)

    with pytest.raises(IndexError):
        model(torch.full((1, 4), 10_000))
    loss_of(model, batch(1)).backward()
    agent.step(loss=1.0)
    agent.close()

    spec = spec_from_json(transport.revisions[0].spec)
    assert spec.missing == () and None not in spec.stacks["decoder"].blocks


def test_a_pass_that_is_interrupted_is_not_described_and_the_next_one_is(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    model, _ = built()
    agent, transport = recorded(model, tmp_path)
    handle = model.blocks[1].up.register_forward_hook(interrupt)

    with pytest.raises(KeyboardInterrupt):  # of which torch tells no hook
        loss_of(model, batch(1))
    handle.remove()
    loss_of(model, batch(1)).backward()
    agent.step(loss=1.0)
    agent.close()

    assert torch.overrides._get_current_function_mode() is None
    spec = spec_from_json(transport.revisions[0].spec)
    assert spec.missing == () and None not in spec.stacks["decoder"].blocks


@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_compiled_as_a_whole_says_how_to_have_it_described(
    tmp_path: Path, in_place: bool
) -> None:
    torch._dynamo.reset()
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    if in_place:
        model.compile(backend="aot_eager", fullgraph=True)
    compiled = model if in_place else torch.compile(model, backend="aot_eager", fullgraph=True)

    agent.step(loss=train_step(compiled, optimizer, batch(0)))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(1, 4):
            agent.step(loss=train_step(compiled, optimizer, batch(step)))
    agent.close()

    spec = spec_from_json(transport.revisions[0].spec)
    (missing,) = spec.missing
    assert missing.what == "compiled as a whole" and "watch(batch=...)" in missing.why
    assert np.isfinite(transport.series("decoder/stream/variance")).all()


def test_a_model_given_a_batch_has_its_branches_measured_when_compiled(tmp_path: Path) -> None:
    torch._dynamo.reset()
    plain, compiled = [], []
    for series, compiles in ((plain, False), (compiled, True)):
        model, optimizer = built()
        agent, transport = recorded(model, tmp_path, optimizer=optimizer, sites="norm_inputs")
        agent.prepare((batch(0)[:, :-1],), {})
        called = torch.compile(model, backend="aot_eager", fullgraph=True) if compiles else model
        for step in range(2):
            agent.step(loss=train_step(called, optimizer, batch(step)))
        agent.close()
        spec = spec_from_json(transport.revisions[0].spec)
        series += [transport.series(f"decoder/{site}/variance", at=0) for site in BRANCHES]
        assert not any("after the step" in note or "batch=" in note for note in spec.notes)

    assert torch._dynamo.utils.counters["graph_break"] == {}
    assert (
        spec.stacks["decoder"].blocks
        == describe(built()[0], batch(0)[:, :-1]).stacks["decoder"].blocks
    )
    assert np.isfinite(plain).all()
    np.testing.assert_allclose(compiled, plain, rtol=1e-4)


def test_a_batch_the_model_cannot_run_on_is_named(tmp_path: Path) -> None:
    model, _ = built()

    with pytest.raises(WatchError, match=r"batch: .* give what its forward takes"):
        watch(model, project="p", run="r", spool_dir=tmp_path, batch={"words": batch(0)})
    assert not any(module._forward_hooks for module in model.modules())


# torch.compile looks at a block's input in a way that torch itself warns of.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("with_batch", [True, False])
def test_a_model_of_compiled_blocks_is_described_where_a_batch_is_given(
    tmp_path: Path, with_batch: bool
) -> None:
    torch._dynamo.reset()
    model, _ = built()
    agent, transport = recorded(model, tmp_path)
    if with_batch:
        agent.prepare((batch(1)[:, :-1],), {})
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)

    loss_of(model, batch(1)).backward()
    agent.step(loss=1.0)
    agent.close()

    spec = spec_from_json(transport.revisions[0].spec)
    expected = describe(built()[0], batch(1)[:, :-1])
    stack, as_described = spec.stacks["decoder"], expected.stacks["decoder"]
    assert stack.blocks == (as_described.blocks if with_batch else (None,) * LAYERS)
    assert [missing.what for missing in spec.missing] == ([] if with_batch else ["compiled code"])
    assert stack.input_kernel.diagonal == pytest.approx(
        as_described.input_kernel.diagonal, rel=1e-5
    )
    assert stack.top_gradient_kernel is not None
    assert spec.notes == ()
    assert np.isfinite(transport.series("decoder/stream_gradient/variance")).all()
