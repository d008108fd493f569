"""A watched model runs as often as its job runs it: what counts, draws or remembers is the same."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dslm import spec_from_json
from tests.trainer_agent.recording import RecordingTransport, recorded
from tests.trainer_agent.small_gpt import LAYERS, WIDTH, SmallGPT, batch, loss_of, train_step

STEPS = 4


class DrawingFromPython(SmallGPT):
    """Scales what goes into the blocks by a number of Python's own generator."""

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return super().forward(ids, attention_mask) * (1 + 0.1 * random.random())


class DrawingFromNumpy(SmallGPT):
    """The same with numpy's global generator."""

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return super().forward(ids, attention_mask) * (1 + 0.1 * np.random.random())


class Counting(SmallGPT):
    """Warms up over its calls, which it counts in an attribute."""

    calls = 0

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().forward(ids, attention_mask) * min(1.0, self.calls / STEPS)


class Remembering(SmallGPT):
    """Adds what it has put out before, as a memory bank does."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.bank: list[Tensor] = []

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits = super().forward(ids, attention_mask)
        self.bank.append(logits.detach().mean(0))
        return logits + 0.1 * torch.stack(self.bank).mean(0)


class InBlocks(SmallGPT):
    """Counts inside each block, in a buffer that its output depends on."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        for block in self.blocks:
            block.register_buffer("seen", torch.zeros(()))
            block.register_forward_pre_hook(_count)
            block.register_forward_hook(_scale)


def _count(block: nn.Module, _args: object) -> None:
    block.seen.add_(1)


def _scale(block: nn.Module, _args: object, output: Tensor) -> Tensor:
    return output * (1 + 0.1 * block.seen)


KINDS = [DrawingFromPython, DrawingFromNumpy, Counting, Remembering, InBlocks]


def trained(kind: type[SmallGPT], folder: Path | None) -> tuple[SmallGPT, RecordingTransport]:
    """The model after some steps, watched where there is a folder."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    model = kind(p_drop=0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    agent, transport = None, RecordingTransport()
    if folder is not None:
        agent, transport = recorded(model, folder, optimizer=optimizer, sites="norm_inputs")
    for step in range(STEPS):
        loss = train_step(model, optimizer, batch(step))
        if agent is not None:
            agent.step(loss=loss)
    if agent is not None:
        agent.close()
    return model, transport


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_a_state_of_its_own_trains_the_same(
    kind: type[SmallGPT], tmp_path: Path
) -> None:
    bare, _ = trained(kind, None)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    watched, transport = trained(kind, tmp_path)

    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.get_rng_state().tolist() == states[2]
    assert transport.health.failures == 0
    for name, value in bare.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_a_state_of_its_own_is_described(kind: type[SmallGPT], tmp_path: Path) -> None:
    _, transport = trained(kind, tmp_path)

    spec = spec_from_json(transport.revisions[0].spec)
    stack = spec.stacks["decoder"]
    assert len(stack.blocks) == LAYERS and stack.d_model == WIDTH
    if kind is not InBlocks:  # a number that differs from step to step is no residual scale
        assert spec.missing == () and None not in stack.blocks


def test_the_job_s_own_counters_and_memories_are_those_of_its_calls(tmp_path: Path) -> None:
    counting, _ = trained(Counting, tmp_path / "counting")
    remembering, _ = trained(Remembering, tmp_path / "remembering")
    in_blocks, _ = trained(InBlocks, tmp_path / "blocks")

    assert isinstance(counting, Counting) and counting.calls == STEPS
    assert isinstance(remembering, Remembering) and len(remembering.bank) == STEPS
    assert [int(block.seen) for block in in_blocks.blocks] == [STEPS] * LAYERS


def test_the_job_s_own_hooks_are_called_once_a_call(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SmallGPT()
    calls: dict[str, int] = {}

    def counting(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] = calls.get(name, 0) + 1

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(counting(name))
        module.register_forward_pre_hook(counting(f"before {name}"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer)

    for step in range(STEPS):
        agent.step(loss=train_step(model, optimizer, batch(step)))
    agent.close()

    called = {n for n, m in model.named_modules() if not isinstance(m, nn.ModuleList)}
    times = {name: 2 * STEPS if "dropout" in name else STEPS for name in called}
    assert calls == times | {f"before {name}": n for name, n in times.items()}
    assert spec_from_json(transport.revisions[0].spec).missing == ()


def test_no_tensor_of_a_step_is_held_after_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SmallGPT(p_drop=0.2)
    made: list[weakref.ref[Tensor]] = []

    def remember(_module: nn.Module, _args: object, output: Tensor) -> None:
        made.append(weakref.ref(output))

    for module in model.modules():
        if not isinstance(module, nn.ModuleList):
            module.register_forward_hook(remember)
    agent, transport = recorded(model, tmp_path)

    loss = loss_of(model, batch(0))
    loss.backward()
    agent.step(loss=loss.item())
    del loss
    gc.collect()

    assert made and not any(reference() is not None for reference in made)
    agent.close()
    assert spec_from_json(transport.revisions[0].spec).missing == ()


def test_the_graph_of_a_step_is_that_of_the_job(tmp_path: Path) -> None:
    shapes = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = SmallGPT(p_drop=0.2)
        agent = recorded(model, tmp_path)[0] if watched else None
        shapes.append(nodes_of(loss_of(model, batch(0))))
        if agent is not None:
            agent.close()

    assert shapes[0] == shapes[1]


def nodes_of(loss: Tensor) -> list[str]:
    """The autograd nodes that a loss hangs on, by name."""
    pending, names, visited = [loss.grad_fn], [], set()
    while pending:
        node = pending.pop()
        if node is not None and node not in visited:
            visited.add(node)
            names.append(node.name())
            pending += [following for following, _ in node.next_functions]
    return sorted(names)
