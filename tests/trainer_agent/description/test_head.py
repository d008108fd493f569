"""The head and its labels, found in what a model does after its last block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import dslm
from dslm.spec import Head
from tests.trainer_agent.description.test_families import SIZES, bert, gpt2, llama, padded
from trainer_agent import describe
from trainer_agent.description.read.parts import LabelsPart
from trainer_agent.description.spec.labels import label_kernels
from trainer_agent.description.trace.replay import result_of


def head_of(model: nn.Module, batch: dict[str, Tensor]) -> Head:
    spec = describe(model.train(), batch)
    (stack,) = spec.stacks.values()
    assert spec.missing == ()
    assert stack.head is not None
    return stack.head


def labelled(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, "labels": ids}


def ids_of(batch: int = 4, seq: int = 16) -> Tensor:
    return torch.randint(0, 50, (batch, seq), generator=torch.Generator().manual_seed(1))


def test_gpt2_head_is_a_norm_and_the_tied_embedding() -> None:
    head_part = head_of(gpt2("sdpa"), labelled(ids_of()))

    assert [layer.norm is not None for layer in head_part.layers] == [True]
    assert (head_part.output.d_in, head_part.output.d_out) == (64, 50)
    assert head_part.tied == pytest.approx(1.0, abs=0.1)  # positions are random beside it
    assert head_part.labels.weight == pytest.approx(1 / (4 * 15))
    assert head_part.labels.counted.diagonal.tolist() == [1.0] * 15 + [0.0]


def test_bert_head_has_a_dense_layer_that_hides_the_tie() -> None:
    ids = ids_of()
    labels = torch.where(torch.arange(16) % 4 == 1, ids, -100)
    head_part = head_of(bert("sdpa"), {"input_ids": ids, "labels": labels})

    first, second, third = head_part.layers
    assert first.linear is not None
    assert (second.activation, third.norm is not None) == ("gelu", True)
    assert head_part.tied == 0
    assert head_part.labels.weight == pytest.approx(1 / 16)
    np.testing.assert_allclose(head_part.labels.counted.diagonal, np.arange(16) % 4 == 1)


def test_llama_head_shares_nothing() -> None:
    head_part = head_of(llama("sdpa"), labelled(ids_of()))
    assert (head_part.tied, head_part.labels.same_id) == (0.0, None)


def test_gemma2_head_is_capped() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=16, intermediate_size=96, sliding_window=8
    )
    head_part = head_of(Gemma2ForCausalLM(config), labelled(ids_of()))

    assert head_part.soft_cap == pytest.approx(30.0)
    assert head_part.tied == pytest.approx(8.0, rel=0.01)  # the embedding is times sqrt(64)


def test_vit_head_reads_the_class_token() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {k: v for k, v in SIZES.items() if k != "vocab_size"}
    config = ViTConfig(**sizes, intermediate_size=96, image_size=16, patch_size=4, num_labels=3)
    batch = {"pixel_values": torch.randn(5, 3, 16, 16), "labels": torch.tensor([0, 1, 2, 0, 0])}
    head_part = head_of(ViTForImageClassification(config), batch)

    assert head_part.output.d_out == 3
    assert head_part.labels.weight == pytest.approx(1 / 5)
    assert head_part.labels.counted.diagonal.tolist() == [1.0] + [0.0] * 16


def test_bert_pooler_is_a_dense_layer_and_tanh() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(**SIZES, intermediate_size=96, num_labels=4)
    batch = {"input_ids": ids_of(), "labels": torch.tensor([0, 1, 2, 3])}
    head_part = head_of(BertForSequenceClassification(config), batch)

    assert [layer.activation for layer in head_part.layers] == ["identity", "tanh", "identity"]
    assert head_part.layers[-1].p_drop == pytest.approx(0.1)


def test_padding_is_neither_counted_nor_compared() -> None:
    batch = padded()
    mask = batch["attention_mask"]
    labels = torch.where(mask > 0, batch["input_ids"], -100)
    head_part = head_of(llama("sdpa"), batch | {"labels": labels})

    assert head_part.labels.weight == pytest.approx(1 / (15 + 10))
    assert head_part.labels.counted.diagonal[[0, 9, 10, 14]].tolist() == [1.0, 1.0, 0.5, 1.0]


def test_label_coincidences_are_counted_by_pairs() -> None:
    labels = torch.tensor([[1, 1, -1], [1, 2, 2]])
    ids = torch.tensor([[1, 3, 3], [2, 2, 1]])
    kernels = label_kernels(LabelsPart(0.2, labels, ids), dslm.cell_sizes)

    assert kernels.counted.diagonal.tolist() == [1.0, 1.0, 0.5]
    assert kernels.same.off_diagonal[0, 1] == 0.5
    assert kernels.same.off_diagonal[1, 2] == 0.5
    assert kernels.same_id is not None and kernels.same_id.off_diagonal[0, 1] == 0.5
    assert kernels.label_is_id is not None
    assert kernels.label_is_id.diagonal.tolist() == [0.5, 0.5, 0.0]


class Tiny(nn.Module):
    """Blocks and a head around a loss to be chosen."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        from examples.byte_gpt import ByteGPT, Sizes

        self.gpt, self.loss = ByteGPT(Sizes(2, 32, 4, 16), "pre"), loss

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        logits = self.gpt(input_ids)
        return {"loss": self.loss(logits[:, :-1], input_ids[:, 1:])}


def plain(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.transpose(1, 2), labels)


def accumulated(logits: Tensor, labels: Tensor) -> Tensor:
    total = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total / 120


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.transpose(1, 2), labels, label_smoothing=0.1)


def with_penalty(logits: Tensor, labels: Tensor) -> Tensor:
    return plain(logits, labels) + 1e-4 * logits.logsumexp(-1).square().mean()


@pytest.mark.parametrize(("loss", "weight"), [(plain, 1 / 60), (accumulated, 1 / 120)])
def test_home_made_loss_is_weighed_by_its_reduction(loss: Any, weight: float) -> None:
    head_part = head_of(Tiny(loss), {"input_ids": ids_of()})

    assert head_part.labels.weight == pytest.approx(weight)
    assert head_part.labels.counted.diagonal.tolist() == [1.0] * 15 + [0.0]


@pytest.mark.parametrize("loss", [smoothed, with_penalty])
def test_other_losses_are_named_as_missing(loss: Any) -> None:
    spec = describe(Tiny(loss), {"input_ids": ids_of()})

    assert spec.stacks["decoder"].head is None
    assert [(m.where, m.what) for m in spec.missing] == [("head", "loss")]
    assert None not in spec.stacks["decoder"].blocks


def test_model_without_a_loss_has_no_head_and_says_what_is_assumed() -> None:
    spec = describe(gpt2("sdpa"), ids_of())
    assert spec.stacks["decoder"].head is None
    assert [each.what for each in spec.missing] == ["top gradient"]


@pytest.mark.parametrize("build", [gpt2, llama])
def test_gradient_scale_matches_the_measured_variance(build: Any) -> None:
    torch.manual_seed(0)
    model = build("sdpa").train()
    batch = labelled(ids_of(32, 32))
    (name,) = describe(model, batch).stacks
    predicted = dslm.predict(describe(model, batch)).stacks[name]
    tops: list[Tensor] = []
    blocks = model.transformer.h if build is gpt2 else model.model.layers
    blocks[-1].register_forward_hook(lambda _m, _a, out: tops.append(result_of(out)))
    loss = model(**batch)["loss"]
    (gradient,) = torch.autograd.grad(loss, tops)

    # rows of 64 normals: the 50 labels' squared lengths scatter by 18 %, their mean by 2.5 %
    assert predicted.gradient_scale == pytest.approx(float(gradient.var()), rel=0.1)
    assert predicted.loss == pytest.approx(float(loss.detach()), abs=0.1)
