"""Blocks whose graphs are alike are read once; what is said of them is what reading each says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any
from weakref import ref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.trainer_agent.description.home_made import (
    SEQ,
    VOCAB,
    WIDTH,
    WindowedAttention,
    WrittenAttention,
)
from tests.trainer_agent.description.more_families import BUILDERS, batch_for
from trainer_agent.description import Architecture, architecture
from trainer_agent.description.read.alike import Constant, ReadBlocks, renamed

DIFFERENCES = (
    "none",
    "eps",
    "offset",
    "activation",
    "activation of a module",
    "dropout",
    "window",
    "all tokens",
    "factor",
    "learned factor",
    "post-norm",
    "no bias",
    "weights of the first block",
)


class Norm(nn.Module):
    """An RMSNorm whose arithmetic no call of torch with an epsilon shows."""

    def __init__(self, eps: float, offset: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((WIDTH,), 1.0 - offset))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:
        return (
            x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * (self.offset + self.weight)
        )


class Activation(nn.Module):
    """A function that a module holds."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Block(nn.Module):
    """Pre-LN, but for one difference."""

    def __init__(self, difference: str) -> None:
        super().__init__()
        eps, offset = (1e-2 if difference == "eps" else 1e-6), float(difference == "offset")
        self.norm_1, self.norm_2 = Norm(eps, offset), Norm(eps, offset)
        window = difference == "window"
        causal = difference != "all tokens"
        self.attention = (WindowedAttention if window else WrittenAttention)(causal)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=difference != "no bias")
        self.drop = nn.Dropout(0.3 if difference == "dropout" else 0.1)
        of_module = difference == "activation of a module"
        # Called so, a function of torch is seen by no function mode: its module alone shows it.
        self.module = Activation(torch.ops.aten.silu if of_module else torch.ops.aten.gelu)
        self.relu = difference == "activation"
        self.factor: float | nn.Parameter = 0.5 if difference == "factor" else 1.0
        if difference == "learned factor":
            self.factor = nn.Parameter(torch.rand(1) + 0.5)
        self.post = difference == "post-norm"

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.norm_1(x + self.attention(x))
            return self.norm_2(x + self.drop(self.down(self.module(self.up(x)))))
        x = x + self.factor * self.attention(self.norm_1(x))
        hidden = self.up(self.norm_2(x))
        hidden = functional.relu(hidden) if self.relu else self.module(hidden)
        return x + self.drop(self.down(hidden))


class Model(nn.Module):
    """A stack of such blocks."""

    def __init__(self, differences: list[str]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block(difference) for difference in differences)
        for block, difference in zip(self.blocks, differences, strict=True):
            if difference == "weights of the first block":
                block.up.weight = self.blocks[0].up.weight
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@dataclass
class Finds:
    """Whether blocks read before are looked at, and how many were taken from them."""

    looks: bool = True
    taken: int = 0


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> Finds:
    """Turns the looking on and off, and counts."""
    state, original = Finds(), ReadBlocks.find

    def find(self: ReadBlocks, graph: object) -> object:
        reading = original(self, graph) if state.looks else None  # type: ignore[arg-type]
        state.taken += reading is not None
        return reading

    monkeypatch.setattr(ReadBlocks, "find", find)
    return state


def assert_equal(a: Any, b: Any) -> None:
    """Equal, but for the last digits of what is told from a pass's numbers."""
    assert type(a) is type(b)
    if is_dataclass(a):
        for field in fields(a):
            assert_equal(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for pair in zip(a, b, strict=True):
            assert_equal(*pair)
    else:
        assert a == (pytest.approx(b, rel=1e-4, abs=1e-6) if isinstance(b, float) else b)


def both_ways(finds: Finds, read: Callable[[], Architecture]) -> Architecture:
    """What is read of each block by itself, after it was held against what is read in turn."""
    finds.looks, finds.taken = True, 0
    architecture = read()
    finds.looks = False
    alone = read()
    assert architecture.missing == alone.missing
    for stack, stack_alone in zip(architecture.stacks, alone.stacks, strict=True):
        for pair in zip(stack.parts, stack_alone.parts, strict=True):
            assert_equal(*pair)
        assert stack.added == stack_alone.added
    assert architecture.notes == alone.notes
    return alone


@pytest.mark.parametrize("name", BUILDERS)
def test_models_of_alike_blocks_are_read_as_if_each_block_was(name: str, finds: Finds) -> None:
    model, batch = BUILDERS[name](5, 64), batch_for(name)

    alone = both_ways(finds, lambda: architecture(model, (), batch))

    assert alone.missing == ()
    assert finds.taken >= 3  # of five; where they alternate, three
    assert len({parts for stack in alone.stacks for parts in stack.parts}) == 5


@settings(max_examples=30, deadline=None)
@given(differences=st.lists(st.sampled_from(DIFFERENCES), min_size=2, max_size=5))
def test_blocks_that_differ_are_read_each_by_itself(differences: list[str]) -> None:
    torch.manual_seed(0)
    model, ids = Model(differences), torch.randint(VOCAB, (2, SEQ))

    with pytest.MonkeyPatch.context() as monkeypatch:
        state, original = Finds(), ReadBlocks.find
        monkeypatch.setattr(
            ReadBlocks, "find", lambda self, g: original(self, g) if state.looks else None
        )
        both_ways(state, lambda: architecture(model, (ids,)))


@pytest.mark.parametrize("difference", DIFFERENCES[1:])
def test_no_difference_is_overlooked(difference: str, finds: Finds) -> None:
    """Each by itself beside three equal blocks, so that a reading taken over would be seen."""
    torch.manual_seed(0)
    model = Model(["none", "none", difference, "none"])
    ids = torch.randint(VOCAB, (2, SEQ))

    both_ways(finds, lambda: architecture(model, (ids,)))
    finds.looks = True
    finds.taken = 0
    architecture(model, (ids,))

    assert finds.taken == 2


def test_numbers_of_a_mask_written_between_two_blocks_are_read_anew(finds: Finds) -> None:
    class Narrowing(Model):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.embedding(ids)
            for block in self.blocks:
                x = block(x)
                with torch.no_grad():
                    shared.copy_(shared & torch.ones(SEQ, SEQ).triu(-2).bool())
            shared.copy_(torch.ones(SEQ, SEQ).tril().bool())
            return self.head(x)

    torch.manual_seed(0)
    model, shared = Narrowing(["none"] * 3), torch.ones(SEQ, SEQ).tril().bool()
    for block in model.blocks:
        block.attention.mask = shared
    ids = torch.randint(VOCAB, (2, SEQ))

    alone = both_ways(finds, lambda: architecture(model, (ids,)))

    windows = [parts and parts.attention.window for parts in alone.stacks[0].parts]
    assert windows == [None, 3, 3]


def test_constants_without_memory_are_no_reason_to_take_blocks_as_alike() -> None:
    a, b = torch.ones(4), torch.ones(4)
    constants = [Constant(ref(t), t._version) for t in (a, b)]
    assert constants[0].equals(constants[1])

    a.untyped_storage().resize_(0)  # as FSDP does; reading it would end the process

    assert not constants[0].equals(constants[1])


def test_names_are_renamed_inside_a_block_alone() -> None:
    before = {"a": ("h.1.w", "h.1", "h.10.w", "head", None, 3)}

    assert renamed(before, "h.1", "h.2") == {"a": ("h.2.w", "h.2", "h.10.w", "head", None, 3)}
