"""What is counted, how often, and that the numbers are those of the model's own tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainer_agent.recording import recorded
from tests.trainer_agent.small_gpt import LAYERS, SEQ, SmallGPT, batch, built, loss_of, train_step


def direct(model: SmallGPT, batches: list[Tensor], **kwargs: Any) -> dict[str, np.ndarray]:
    """Streams and their gradients taken out by plain hooks and measured in float64."""
    streams: list[list[Tensor]] = [[] for _ in range(LAYERS + 1)]

    def keep(index: int, x: Tensor) -> None:
        x.retain_grad()
        streams[index].append(x)

    handles = [model.blocks[0].register_forward_pre_hook(lambda _, args: keep(0, args[0]))]
    for index, block in enumerate(model.blocks):
        handles.append(block.register_forward_hook(lambda _, __, out, at=index + 1: keep(at, out)))
    for ids in batches:
        loss_of(model, ids, **kwargs).backward()
    model.zero_grad()
    for handle in handles:
        handle.remove()
    values = [torch.cat(passes).detach().double() for passes in streams]
    gradients = [torch.cat([x.grad for x in passes]).double() for passes in streams]
    return {
        "decoder/stream/mean": np.array([float(x.mean()) for x in values]),
        "decoder/stream/variance": np.array([float(x.var(correction=0)) for x in values]),
        "decoder/stream/correlation": np.array([correlation(x) for x in values]),
        "decoder/stream_gradient/variance": np.array(
            [float(g.var(correction=0)) for g in gradients]
        ),
        "decoder/stream_gradient/correlation": np.array([correlation(g) for g in gradients]),
    }


def correlation(x: Tensor) -> float:
    gram = torch.einsum("bif,bjf->ij", x, x) / (x.shape[0] * x.shape[2])
    n = len(gram)
    pairs = (gram.sum() - gram.trace()) / (n * (n - 1))
    return float((pairs - x.mean() ** 2) / x.var(correction=0))


def assert_equal(transport: Any, expected: dict[str, np.ndarray]) -> None:
    for key, values in expected.items():
        # gradients are about 1e-4: compare relative to the largest
        close = pytest.approx(values, rel=1e-4, abs=1e-4 * np.abs(values).max())
        assert transport.series(key) == close, key


def backward_only(model: nn.Module, ids: Tensor, **kwargs: Any) -> Tensor:
    loss = loss_of(model, ids, **kwargs)
    loss.backward()
    return loss


def test_streams_and_their_gradients_equal_a_direct_computation(tmp_path: Path) -> None:
    model, _ = built()
    expected = direct(model, [batch(1)])
    agent, transport = recorded(model, tmp_path)

    agent.step(loss=backward_only(model, batch(1)))
    agent.close()

    assert_equal(transport, expected)


def test_micro_batches_of_a_step_are_measured_together(tmp_path: Path) -> None:
    model, _ = built()
    batches = [batch(1, size=4), batch(2, size=4), batch(3, size=2)]
    expected = direct(model, batches)
    agent, transport = recorded(model, tmp_path)

    for ids in batches:
        backward_only(model, ids)
    agent.step()
    agent.close()

    assert_equal(transport, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_are_counted_once(tmp_path: Path, reentrant: bool) -> None:
    plain, _ = built()
    expected = direct(plain, [batch(1)])
    model, _ = built(checkpointing=reentrant)
    agent, transport = recorded(model, tmp_path)

    agent.step(loss=backward_only(model, batch(1)))
    agent.close()

    assert_equal(transport, expected)
    assert transport.health.failures == 0


def test_forward_passes_that_do_not_train_are_not_counted(tmp_path: Path) -> None:
    model, _ = built()
    expected = direct(model, [batch(1)])
    agent, transport = recorded(model, tmp_path)

    with torch.no_grad():
        model(batch(5)[:, :-1])
    model.eval()
    model(batch(6)[:, :-1])
    model.train()
    agent.step(loss=backward_only(model, batch(1)))
    agent.close()

    assert_equal(transport, expected)


def test_padding_is_left_out(tmp_path: Path) -> None:
    model, _ = built()
    ids = batch(1, size=2)
    mask = torch.ones(2, SEQ, dtype=torch.long)
    mask[:, SEQ // 2 :] = 0
    streams: list[Tensor] = []
    handle = model.blocks[-1].register_forward_hook(lambda _, __, out: streams.append(out))
    agent, transport = recorded(model, tmp_path)

    agent.step(loss=backward_only(model, ids, attention_mask=mask))
    agent.close()
    handle.remove()

    real = streams[-1][:, : SEQ // 2].detach().double()
    assert transport.series("decoder/stream/variance")[-1] == pytest.approx(
        float(real.var(correction=0)), rel=1e-5
    )
    assert transport.series("decoder/stream/correlation")[-1] == pytest.approx(
        correlation(real), abs=1e-5
    )


def test_branches_are_measured_before_the_residual_addition(tmp_path: Path) -> None:
    model, _ = built()
    outputs: dict[str, Tensor] = {}
    for name in ("out", "down"):
        getattr(model.blocks[1], name).register_forward_hook(
            lambda _, __, out, name=name: outputs.update({name: out.detach().double()})
        )
    agent, transport = recorded(model, tmp_path)

    agent.step(loss=backward_only(model, batch(1)))
    agent.close()

    attention = float(outputs["out"].var(correction=0))
    feed_forward = float(outputs["down"].var(correction=0))
    assert transport.series("decoder/attention/variance")[1] == pytest.approx(attention, rel=1e-5)
    assert transport.series("decoder/feed_forward/variance")[1] == pytest.approx(
        feed_forward, rel=1e-5
    )


def test_only_every_nth_step_is_sampled(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, every=3)

    for step in range(7):
        agent.step(loss=train_step(model, optimizer, batch(step)))
    agent.close()

    assert [frame.step for frame in transport.frames] == [0, 3, 6]
    # Between two samples lies one frame with the scalars of the steps between.
    assert [frame.seq for frame in transport.frames] == [1, 3, 5]


def test_scalars_are_those_of_the_step(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    loss = loss_of(model, batch(1))
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    optimizer.step()
    optimizer.zero_grad()
    agent.step(loss=loss, temperature=0.5)
    agent.close()

    assert transport.series("/loss/value")[0] == pytest.approx(float(loss.detach()))
    assert transport.series("/learning_rate/value")[0] == pytest.approx(1e-3)
    assert transport.series("/gradient_norm/value")[0] == pytest.approx(float(norm), rel=1e-5)
    assert transport.series("/temperature/value")[0] == 0.5
    assert 0 < transport.series("/agent/overhead")[0] <= 1


def test_a_scalar_given_later_is_declared_and_earlier_frames_keep_their_layout(
    tmp_path: Path,
) -> None:
    model, _ = built()
    agent, transport = recorded(model, tmp_path)

    agent.step(loss=1.0)
    agent.step(loss=2.0, accuracy=0.25)
    agent.step(loss=3.0)
    agent.close()

    assert transport.series("/loss/value", at=0)[0] == 1.0
    assert transport.series("/accuracy/value", at=1)[0] == 0.25
    assert np.isnan(transport.series("/accuracy/value", at=2)[0])


def test_nan_in_the_model_reaches_the_frame_as_nan(tmp_path: Path) -> None:
    model, _ = built()
    agent, transport = recorded(model, tmp_path)
    with torch.no_grad():
        model.blocks[1].down.bias[0] = float("nan")

    agent.step(loss=backward_only(model, batch(1)))
    agent.close()

    variance = transport.series("decoder/stream/variance")
    assert np.isfinite(variance[:2]).all()
    assert np.isnan(variance[2:]).all()
    assert transport.series("decoder/stream/nonfinite")[2] > 0


def test_a_compiled_model_gives_the_same_numbers_without_a_graph_break(tmp_path: Path) -> None:
    model, _ = built()
    expected = direct(model, [batch(1)])
    agent, transport = recorded(model, tmp_path)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")

    agent.step(loss=backward_only(compiled, batch(1)))
    agent.close()

    assert_equal(transport, expected)


def test_hooks_that_cannot_fire_are_named(tmp_path: Path) -> None:
    model, _ = built()
    for parameter in (*model.tokens.parameters(), *model.positions.parameters()):
        parameter.requires_grad_(False)
    agent, transport = recorded(model, tmp_path)

    agent.step(loss=backward_only(model, batch(1)))
    agent.close()

    assert transport.health.silent == ("decoder/stream_gradient[0]",)
    assert np.isnan(transport.series("decoder/stream_gradient/variance")[0])


def test_a_place_that_stops_being_measured_is_named_after_20_samples(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, _ = recorded(model, tmp_path, optimizer=optimizer)
    stopped = []
    for step in range(24):
        if step == 2:
            model.blocks[1].requires_grad_(False).eval()  # as progressive freezing does
        agent.step(loss=train_step(model, optimizer, batch(step)))
        agent._parts.sender.settle(10.0)
        stopped.append(agent._parts.sender._health().stopped)
    agent.close()

    assert not any(stopped[:20])
    assert "decoder/stream[2]" in stopped[-1]
    assert not any(place.startswith("decoder/stream[3]") for place in stopped[-1])


def test_layers_that_a_step_may_skip_have_not_stopped(tmp_path: Path) -> None:
    model, optimizer = built()
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)
    for step in range(30):
        model.blocks[1].train(step % 7 == 0)
        agent.step(loss=train_step(model, optimizer, batch(step)))
    agent.close()

    assert transport.health.stopped == ()
