"""Layer scales, dropped paths, low-rank updates and rows of zeros, against measurement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dslm
import trainer_agent
from benchmarks.streams import measured_stacks
from tests.trainer_agent.description.home_made import (
    WIDTH,
    Block,
    FeedForward,
    Model,
    WrittenAttention,
    batch,
)
from trainer_agent.description import BlockParts, architecture


class LayerScale(nn.Module):
    """A vector times the branch, in a module of its own."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch, self.scale = branch, Gain()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.branch(x))


class Gain(nn.Module):
    """The vector."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.linspace(0.1, 0.5, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class InlineScale(LayerScale):
    """The vector times dropout of the branch, in the branch's own forward."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__(branch)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale.gamma * self.drop(self.branch(x))


class DropPath(nn.Module):
    """Drops whole sequences of a branch, as timm does."""

    def __init__(self, branch: nn.Module, p: float) -> None:
        super().__init__()
        self.branch, self.p = branch, p

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        kept = y.new_empty(len(y), 1, 1).bernoulli_(1 - self.p)
        return y.div(1 - self.p) * kept


class Adapted(nn.Module):
    """A map with an update of low rank."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base, self.drop = base, nn.Dropout(0.1)
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 2.0 * self.b(self.a(self.drop(x)))


def parts_of(model: nn.Module) -> BlockParts:
    recognised = architecture(model, (), batch())
    assert recognised.missing == ()
    parts = recognised.stacks[0].parts[0]
    assert parts is not None
    return parts


@pytest.mark.parametrize(("kind", "p_drop"), [(LayerScale, 0.1), (InlineScale, 0.28)])
def test_a_layer_scale_is_part_of_the_branchs_last_map(
    kind: type[LayerScale], p_drop: float
) -> None:
    parts = parts_of(Model(Block(kind(WrittenAttention()), kind(FeedForward()))))

    assert parts.attention.output.gain == "blocks.0.attn.scale.gamma"
    assert parts.feed_forward.down.gain == "blocks.0.mlp.scale.gamma"
    assert parts.attention_residual.p_drop == pytest.approx(p_drop)


def test_dropped_sequences_scale_the_branch_and_not_the_pairs_of_tokens() -> None:
    parts = parts_of(Model(Block(DropPath(WrittenAttention(), 0.25), FeedForward())))

    assert parts.attention_residual.beta == pytest.approx(0.75**-0.5)


def test_a_low_rank_update_is_one_map_of_the_sums_moments() -> None:
    torch.manual_seed(0)
    attention = WrittenAttention()
    adapted = attention.proj = Adapted(attention.proj)  # type: ignore[assignment]
    model = Model(Block(attention, FeedForward()))

    spec = trainer_agent.describe(model, batch())

    block = spec.stacks["decoder"].blocks[0]
    assert block is not None
    whole = adapted.base.weight + 2.0 * adapted.b.weight @ adapted.a.weight
    assert block.attention.output.weight_var == pytest.approx(
        float(whole.square().mean().detach()), rel=0.1
    )


class WithZeros(Model):
    """Its first token is a row of zeros."""

    def forward(self, ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        x = self.tokens(ids)
        x = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return {"loss": x.square().mean()}


def test_rows_of_zeros_are_predicted_as_the_model_has_them_and_named() -> None:
    torch.manual_seed(0)
    model = WithZeros(*(Block(WrittenAttention(False, 0.0), FeedForward()) for _ in range(3)))
    inputs = batch()

    spec = trainer_agent.describe(model, inputs)
    (stack,) = dslm.predict(spec).stacks.values()
    blocks = {name: tuple(f"blocks.{i}" for i in range(3)) for name in spec.stacks}
    (measured,) = measured_stacks(model, blocks, inputs).values()

    assert np.isfinite(stack.forward.variance).all() and np.isfinite(stack.backward.variance).all()
    assert np.abs(np.log10(stack.backward.variance / measured.backward)).max() < 0.5
    assert measured.backward[0] > 100 * measured.backward[1]
    assert any("exact zeros" in note and "first token 0" in note for note in spec.notes)


def test_a_model_without_a_loss_has_its_top_gradient_named_as_assumed() -> None:
    class Logits(Model):
        """Puts out logits alone."""

        def forward(self, ids: Tensor, labels: Tensor | None = None) -> Tensor:
            x = self.tokens(ids)
            for block in self.blocks:
                x = block(x)
            return x

    spec = trainer_agent.describe(Logits(Block(WrittenAttention(), FeedForward())), batch())

    (missing,) = [m for m in spec.missing if m.what == "top gradient"]
    assert missing.where == "decoder.stream[1]" and "no loss" in missing.why
