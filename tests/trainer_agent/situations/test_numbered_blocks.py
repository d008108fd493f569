"""Blocks that are attributes with a number, and models inside others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import trainer_agent
from trainer_agent.model.blocks import columns


def block() -> nn.Module:
    return nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)


class Numbered(nn.Module):
    """Blocks by the names layer1 to layer11, and a head whose two maps are called so, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        for number in range(1, 12):
            setattr(self, f"layer{number}", block())
        self.out_layer1, self.out_layer2 = nn.Linear(32, 32), nn.Linear(32, 50)

    def forward(self, ids: Tensor) -> Tensor:
        x: Tensor = self.embed(ids)
        for number in range(1, 12):
            x = getattr(self, f"layer{number}")(x)
        logits: Tensor = self.out_layer2(self.out_layer1(x))
        return logits


class Wrapper(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.backbone(ids)
        return logits


class Pairs(nn.Module):
    """Blocks of parts that are called layers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Pair() for _ in range(3))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2 = block(), block()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer2(self.layer1(x))
        return y


def test_numbered_attributes_are_a_row_in_the_order_of_their_numbers() -> None:
    (column,) = columns(Wrapper(Numbered()))

    assert column.blocks == tuple(f"backbone.layer{n}" for n in range(1, 12))


def test_numbered_parts_of_a_block_are_no_row_of_their_own() -> None:
    (column,) = columns(Pairs())

    assert column.blocks == ("blocks.0", "blocks.1", "blocks.2")


def test_a_number_that_is_missing_makes_no_row() -> None:
    model = Numbered()
    del model.layer5

    assert columns(model) == ()


def test_numbered_blocks_are_described() -> None:
    torch.manual_seed(0)

    spec = trainer_agent.describe(Numbered(), torch.randint(50, (2, 8)))

    ((_, stack),) = spec.stacks.items()
    assert len(stack.blocks) == 11 and None not in stack.blocks
