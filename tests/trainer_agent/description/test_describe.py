"""`describe` gives the theory the numbers that the model and the batch hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import dslm
import trainer_agent
from tests.trainer_agent.description.home_made import (
    SEQ,
    WIDTH,
    Block,
    Experts,
    FeedForward,
    GatedFeedForward,
    Model,
    RMSNorm,
    RotaryAttention,
    WrittenAttention,
    batch,
)
from tests.trainer_agent.description.test_families import gpt2, padded
from trainer_agent.description import Architecture, architecture, kernel, measure


def square(values: torch.Tensor) -> float:
    return float(values.detach().double().square().mean())


def test_measured_moments_equal_direct_computation_on_slices() -> None:
    torch.manual_seed(0)
    model = Model(Block(WrittenAttention(), FeedForward()))
    for norm in (model.blocks[0].ln1, model.blocks[0].ln2):
        nn.init.normal_(norm.weight, 1.1, 0.2)
        nn.init.normal_(norm.bias, 0.3, 0.2)

    (block,) = measure(architecture(model, (), batch()), model)["decoder"]

    assert block is not None
    qkv = model.blocks[0].attn.qkv
    assert block.attention.key.weight_var == pytest.approx(square(qkv.weight[32:64]), rel=1e-5)
    assert block.attention.key.bias_var == pytest.approx(square(qkv.bias[32:64]), rel=1e-5)
    up = model.blocks[0].mlp.fc
    assert block.feed_forward.up.weight_var == pytest.approx(square(up.weight), rel=1e-5)
    norm = model.blocks[0].ln2
    assert block.feed_forward_norm.gain_mean == pytest.approx(
        float(norm.weight.detach().mean()), rel=1e-5
    )
    gain_var = float(norm.weight.detach().var(correction=0))
    assert block.feed_forward_norm.gain_var == pytest.approx(gain_var, rel=1e-3)
    assert block.feed_forward_norm.bias_var == pytest.approx(square(norm.bias), rel=1e-5)


def test_measured_moments_take_columns_where_the_input_comes_first() -> None:
    torch.manual_seed(0)
    model = gpt2("sdpa")
    nn.init.normal_(model.transformer.h[1].attn.c_attn.weight[:, 64:128], 0.0, 0.5)

    blocks = measure(architecture(model, (), padded()), model)["decoder"]

    assert blocks[1] is not None
    weight = model.transformer.h[1].attn.c_attn.weight
    assert blocks[1].attention.key.weight_var == pytest.approx(square(weight[:, 64:128]), rel=1e-5)
    assert blocks[1].attention.query.weight_var == pytest.approx(square(weight[:, :64]), rel=1e-5)


def test_measured_moments_follow_the_weights_of_today() -> None:
    model = Model(Block(RotaryAttention(), GatedFeedForward(), norm=RMSNorm))
    recognised = architecture(model, (), batch())
    (before,) = measure(recognised, model)["decoder"]

    with torch.no_grad():
        model.blocks[0].mlp.gate_up.weight[:96].mul_(2)
    (after,) = measure(recognised, model)["decoder"]

    assert before is not None and after is not None
    assert before.feed_forward.gate is not None and after.feed_forward.gate is not None
    ratio = after.feed_forward.gate.weight_var / before.feed_forward.gate.weight_var
    assert ratio == pytest.approx(4.0)
    assert after.feed_forward.up == before.feed_forward.up


def test_measuring_another_model_names_the_parameter_it_lacks() -> None:
    model = Model(Block(WrittenAttention(), FeedForward()))
    recognised = architecture(model, (), batch())

    with pytest.raises(KeyError, match=r"no parameter 'blocks\.0"):
        measure(recognised, nn.Linear(2, 2))


def test_input_kernel_is_of_the_stream_into_block_0() -> None:
    torch.manual_seed(0)
    model = Model(Block(WrittenAttention(), FeedForward())).eval()
    data = batch()

    spec = trainer_agent.describe(model, data)

    stream = model.tokens(data["ids"]) + model.positions(torch.arange(SEQ))
    stack = spec.stacks["decoder"]
    np.testing.assert_allclose(stack.input_kernel.diagonal, kernel(stream).diagonal, rtol=1e-5)
    assert (stack.d_model, spec.batch_size, spec.family) == (WIDTH, 2, "custom")
    assert spec.n_params == sum(p.numel() for p in model.parameters())


def test_top_gradient_kernel_is_of_the_loss_at_the_last_block() -> None:
    torch.manual_seed(0)
    model = Model(Block(WrittenAttention(), FeedForward())).eval()
    data = batch()
    streams: list[torch.Tensor] = []
    handle = model.blocks[-1].register_forward_hook(lambda _m, _a, out: streams.append(out))
    loss = model(**data)["loss"]
    handle.remove()
    (grad,) = torch.autograd.grad(loss, streams)

    with_loss = trainer_agent.describe(model, data).stacks["decoder"].top_gradient_kernel
    without = trainer_agent.describe(model, data["ids"]).stacks["decoder"].top_gradient_kernel

    assert with_loss is not None
    np.testing.assert_allclose(with_loss.diagonal, kernel(grad).diagonal, rtol=1e-4)
    assert without is None


@pytest.mark.parametrize("form", ["tuple", "scalar"])
def test_loss_is_found_in_other_forms_of_output(form: str) -> None:
    torch.manual_seed(0)
    inner, data = Model(Block(WrittenAttention(), FeedForward())).eval(), batch()

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, **kwargs: torch.Tensor) -> object:
            output = self.inner(**kwargs)
            return (output["logits"], output["loss"]) if form == "tuple" else output["loss"]

    got = trainer_agent.describe(Other(), data).stacks["decoder"].top_gradient_kernel
    expected = trainer_agent.describe(inner, data).stacks["decoder"].top_gradient_kernel

    assert got is not None and expected is not None
    np.testing.assert_array_equal(got.diagonal, expected.diagonal)


def test_padding_of_the_batch_is_left_out_of_its_kernels() -> None:
    model, data = gpt2("sdpa").eval(), padded()

    spec = trainer_agent.describe(model, {**data, "labels": data["input_ids"]})

    streams: list[torch.Tensor] = []
    model.transformer.h[0].register_forward_pre_hook(lambda _m, args: streams.append(args[0]))
    model(**data)
    expected = kernel(streams[0], data["attention_mask"])
    got = spec.stacks["decoder"].input_kernel
    np.testing.assert_allclose(got.diagonal, expected.diagonal, rtol=1e-5)


def test_description_is_what_the_theory_predicts_from() -> None:
    torch.manual_seed(0)
    blocks = [Block(WrittenAttention(), FeedForward()) for _ in range(3)]
    blocks[1] = Block(WrittenAttention(), Experts(cubed=True))

    spec = trainer_agent.describe(Model(*blocks), batch())
    prediction = dslm.predict(spec)

    named = [(m.where, m.what) for m in prediction.missing]
    assert named == [
        ("blocks.1.mlp", "mixture of experts"),
        ("decoder.blocks[1]", "measured block"),
    ]
    carried = spec.stacks["decoder"].carried[1]
    assert carried is not None
    variance = prediction.stacks["decoder"].forward.variance
    assert np.isfinite(variance).all()
    assert variance[2] == pytest.approx(carried.mean_square, rel=0.05)


@pytest.mark.parametrize("wrong", [[1, 2], "text", None])
def test_a_batch_of_another_kind_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="batch must be a tensor, or a dict"):
        trainer_agent.describe(nn.Linear(2, 2), wrong)  # type: ignore[arg-type]


def test_an_architecture_names_its_stacks() -> None:
    recognised = architecture(Model(Block(WrittenAttention(), FeedForward())), (), batch())

    assert isinstance(recognised, Architecture)
    assert recognised.stack("decoder") is recognised.stacks[0]
    with pytest.raises(KeyError, match="encoder"):
        recognised.stack("encoder")
