"""The stream's course from the weights and the directions they read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dslm
from tests.trainer_agent.description.test_families import bert, gpt2, llama, padded
from trainer_agent import describe, mean_field
from trainer_agent.description import architecture
from trainer_agent.description.trace.replay import result_of, stream_of


def batch_of() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    odds = 1 / torch.arange(1.0, 51)
    return {"input_ids": torch.multinomial(odds, 32 * 24, True, generator=draw).reshape(32, 24)}


def measured(model: nn.Module, batch: dict[str, Tensor]) -> np.ndarray[Any, Any]:
    streams: list[Tensor] = []
    blocks = architecture(model, (), batch).stacks[0].blocks
    modules = [model.get_submodule(b) for b in blocks]

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        stream = stream_of(args, kwargs)
        assert stream is not None
        streams.append(stream)

    handles: list[Any] = [modules[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [
        m.register_forward_hook(lambda _m, _a, out: streams.append(result_of(out))) for m in modules
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return np.array([float(x.double().var(correction=0)) for x in streams])


def aligned(model: nn.Module, batch: dict[str, Tensor]) -> nn.Module:
    """Train the model a little, fast: its weights line up with what they read."""
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model(**batch, labels=batch["input_ids"])["loss"].backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("build", [gpt2, bert])
def test_course_follows_a_fresh_model(build: Any) -> None:
    torch.manual_seed(0)
    model = build("sdpa").eval()
    field = mean_field(model, batch_of())
    (course,) = field.stacks.values()

    assert field.missing == ()
    np.testing.assert_allclose(course.variance, measured(model, batch_of()), rtol=0.1)


def test_course_follows_trained_weights_where_their_moments_do_not() -> None:
    torch.manual_seed(0)
    model = aligned(gpt2("sdpa"), batch_of()).eval()
    measurement = measured(model, batch_of())
    (course,) = mean_field(model, batch_of()).stacks.values()
    moments = dslm.predict(describe(model, batch_of())).stacks["decoder"].forward.variance

    assert np.abs(moments / measurement - 1).max() > 0.5
    assert np.abs(course.variance / measurement - 1).max() < 0.25


def test_padding_is_left_out() -> None:
    torch.manual_seed(0)
    model = gpt2("sdpa").eval()
    batch = padded()
    other = dict(batch, input_ids=torch.where(batch["attention_mask"] > 0, batch["input_ids"], 7))
    a, b = (mean_field(model, tokens).stacks["decoder"].variance for tokens in (batch, other))
    np.testing.assert_allclose(a, b)


def test_what_is_not_covered_is_named() -> None:
    field = mean_field(llama("sdpa"), batch_of())
    assert field.stacks == {}
    assert "attention" in field.missing[0].what


def test_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = gpt2("sdpa").train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    mean_field(model, batch_of())

    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_no_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="groups"):
        mean_field(gpt2("sdpa"), batch_of(), groups=0)
