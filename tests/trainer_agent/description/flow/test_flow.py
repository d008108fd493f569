"""What is measured inside blocks is what plain hooks see there, and training does not notice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dslm
from dslm import BlockFlow, spec_from_json
from tests.trainer_agent.description import more_families
from tests.trainer_agent.description.test_encoder_decoder import bart, pairs
from tests.trainer_agent.description.test_families import bert, gpt2, llama
from tests.trainer_agent.recording import RecordingTransport, recorded
from trainer_agent import describe
from trainer_agent.description import architecture
from wire import SpecRevision

BUILDS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": lambda: gpt2("sdpa"),
    "bert": lambda: bert("sdpa"),
    "llama": lambda: llama("eager"),
}


def labelled(size: int = 4, seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(0, 50, (size, 16), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = BUILDS[name]()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def flows_of(revision: SpecRevision) -> tuple[BlockFlow | None, ...]:
    body = {**revision.spec, "flows": revision.flows} if revision.flows else revision.spec
    (flows,) = spec_from_json(body).flows.values()
    return flows


def trained(
    model: nn.Module, folder: Path, steps: int, ask_at: int, **how: Any
) -> RecordingTransport:
    """A job of some steps, described at the first and at `ask_at`."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    agent, transport = recorded(model, folder, optimizer=optimizer, every=1)
    for step in range(steps):
        if step == ask_at:
            agent._parts.describer.ask()
        optimizer.zero_grad()
        for part in range(how.get("passes", 1)):
            model(**labelled(seed=10 * step + part))["loss"].backward()
        agent.step()
        optimizer.step()
    agent.close()
    return transport


class Watcher:
    """Plain hooks that keep what a module takes in and puts out, with gradients."""

    def __init__(self, module: nn.Module) -> None:
        self.tensors: dict[str, Tensor] = {}
        module.register_forward_pre_hook(self._before, with_kwargs=True)
        module.register_forward_hook(self._after)

    def _before(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        self._keep("in", (*args, *kwargs.values())[0])

    def _after(self, _: nn.Module, _args: Any, output: Any) -> None:
        self._keep("out", output[0] if isinstance(output, tuple) else output)

    def _keep(self, end: str, x: Tensor) -> None:
        if x.requires_grad:
            x.retain_grad()
        self.tensors[end] = x

    def square(self, end: str, features: slice = slice(None)) -> float:
        return float(self.tensors[end].detach()[..., features].square().mean())

    def gradient(self, end: str, features: slice = slice(None)) -> float:
        grad = self.tensors[end].grad
        assert grad is not None
        return float(grad[..., features].square().mean())


# By family: block 1, and (module, end, features) of some of its sites.
PLACES: dict[str, tuple[str, dict[str, tuple[str, str, slice]]]] = {
    "gpt2": (
        "transformer.h.1",
        {
            "in": ("", "in", slice(None)),
            "out": ("", "out", slice(None)),
            "attention.in": ("attn.c_attn", "in", slice(None)),
            "attention.key": ("attn.c_attn", "out", slice(64, 128)),
            "attention.value": ("attn.c_attn", "out", slice(128, 192)),
            "attention.mixed": ("attn.c_proj", "in", slice(None)),
            "attention.output": ("attn.c_proj", "out", slice(None)),
            "attention.stream": ("ln_2", "in", slice(None)),
            "feed_forward.hidden": ("mlp.c_proj", "in", slice(None)),
        },
    ),
    "bert": (
        "bert.encoder.layer.1",
        {
            "attention.value": ("attention.self.value", "out", slice(None)),
            "attention.sum": ("attention.output.LayerNorm", "in", slice(None)),
            "attention.stream": ("intermediate.dense", "in", slice(None)),
            "feed_forward.sum": ("output.LayerNorm", "in", slice(None)),
            "feed_forward.output": ("output.dense", "out", slice(None)),
        },
    ),
    "llama": (
        "model.layers.1",
        {
            "attention.query": ("self_attn.q_proj", "out", slice(None)),
            "attention.output": ("self_attn.o_proj", "out", slice(None)),
            "attention.stream": ("post_attention_layernorm", "in", slice(None)),
            "feed_forward.gate": ("mlp.gate_proj", "out", slice(None)),
            "feed_forward.hidden": ("mlp.down_proj", "in", slice(None)),
        },
    ),
}


@pytest.mark.parametrize("ask_at", [0, 2])
@pytest.mark.parametrize("name", BUILDS)
def test_sites_are_what_plain_hooks_see(name: str, ask_at: int, tmp_path: Path) -> None:
    model, twin = built(name), built(name)
    transport = trained(model, tmp_path, ask_at + 1, ask_at)
    flow = flows_of(transport.revisions[-1])[1]
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    path, places = PLACES[name]
    for step in range(ask_at + 1):
        watchers = {
            site: Watcher(twin.get_submodule(f"{path}.{module}".rstrip(".")))
            for site, (module, _, _) in places.items()
        }
        optimizer.zero_grad()
        twin(**labelled(seed=10 * step))["loss"].backward()
        optimizer.step()

    assert flow is not None and flow.missing == {}
    for site, (_, end, features) in places.items():
        watcher = watchers[site]
        square = watcher.square(end, features)
        gradient = watcher.gradient(end, features)
        assert flow.forward[site].mean_square == pytest.approx(square, rel=1e-3), site
        assert flow.backward[site].mean_square == pytest.approx(gradient, rel=1e-3), site


@pytest.mark.parametrize("name", BUILDS)
def test_a_described_step_trains_bit_for_bit_as_without(name: str, tmp_path: Path) -> None:
    watched, alone = built(name), built(name)
    trained(watched, tmp_path, 3, 2, passes=2)
    optimizer = torch.optim.SGD(alone.parameters(), 0.1)
    for step in range(3):
        optimizer.zero_grad()
        for part in range(2):
            alone(**labelled(seed=10 * step + part))["loss"].backward()
        optimizer.step()

    pairs_of = zip(watched.parameters(), alone.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs_of)


def test_no_hook_stays_behind_a_described_step(tmp_path: Path) -> None:
    model = built("gpt2")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    agent, _ = recorded(model, tmp_path, optimizer=optimizer, every=1)
    part = model.get_submodule("transformer.h.1.mlp.c_proj")
    for _ in range(2):
        model(**labelled())["loss"].backward()
        agent.step()

    assert not part._forward_pre_hooks
    assert len(part._forward_hooks) <= 1  # the branch's own
    agent.close()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_show_the_same(reentrant: bool, tmp_path: Path) -> None:
    plain, saving = built("gpt2"), built("gpt2")
    saving.activation_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]

    expected = flows_of(trained(plain, tmp_path / "plain", 3, 2).revisions[-1])
    flows = flows_of(trained(saving, tmp_path / "saving", 3, 2).revisions[-1])

    for flow, other in zip(flows, expected, strict=True):
        assert flow is not None and other is not None
        for sites, others in (
            (flow.forward, other.forward),
            (flow.backward, other.backward),
        ):
            assert sites.keys() == others.keys()
            for site, value in others.items():
                assert sites[site].mean_square == pytest.approx(value.mean_square, rel=1e-3), site


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_blocks_get_no_hooks_inside(tmp_path: Path) -> None:
    model = built("gpt2")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    agent, transport = recorded(model, tmp_path, optimizer=optimizer, every=1)
    agent.prepare((), labelled())
    for block in model.get_submodule("transformer.h").children():
        block.compile(backend="eager")
    for step in range(2):
        agent._parts.describer.ask()
        model(**labelled(seed=step))["loss"].backward()
        agent.step()
    agent.close()

    assert [revision.flows for revision in transport.revisions] == [None, None]
    assert transport.health.failures == 0
    torch.compiler.reset()


def test_padding_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = built("gpt2").eval()
    ids = labelled()["input_ids"]
    mask = (torch.arange(16) < torch.tensor([[16], [9], [12], [16]])).long()
    noisy = torch.where(mask.bool(), ids, 49 - ids)
    labels = torch.where(mask.bool(), ids, -100)

    flows = [
        describe(model, {"input_ids": x, "attention_mask": mask, "labels": labels}).flows
        for x in (ids, noisy)
    ]

    assert flows[0]["decoder"][1].forward["attention.average"].mean_square > 0
    for site, value in flows[0]["decoder"][1].forward.items():
        other = flows[1]["decoder"][1].forward[site]
        assert value.mean_square == pytest.approx(other.mean_square, rel=1e-4), site


FAMILIES = ["olmo2", "gemma2", "gpt_neox", "phi", "opt", "qwen3", "roberta", "vit"]


def family(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    if name == "bart":
        return bart().eval(), pairs()
    model = getattr(more_families, name)(2, 64).eval()
    return model, more_families.batch_for(name)


@pytest.mark.parametrize("name", [*FAMILIES, "bart"])
def test_a_rescaled_last_matrix_is_found_in_every_family(name: str) -> None:
    model, batch = family(name)
    before = describe(model, batch)
    stack_name = "decoder" if "decoder" in before.stacks else "encoder"
    assert before.stacks[stack_name].blocks[1] is not None
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in _last_matrices(changed, stack_name, batch):
            parameter.mul_(3.0)

    result = dslm.attribute(before, describe(changed, batch))

    stack = result.stacks[stack_name]
    for direction in (stack.forward, stack.backward):
        explained = np.sum(list(direction.terms.values()), axis=0)
        assert np.allclose(explained, direction.total, atol=1e-6)
        remainder = np.abs(direction.terms["remainder"])
        assert np.all(remainder <= np.maximum(0.01 * np.abs(direction.total), 1e-3))
    branch = stack.branches["feed_forward"].terms["weights"]
    after_norm = before.stacks[stack_name].blocks[1].placement in ("branch", "sandwich")
    assert branch[0] == pytest.approx(0.0, abs=1e-4)
    assert branch[1] == pytest.approx(0.0 if after_norm else 2 * np.log10(3), abs=1e-3)


def _last_matrices(model: nn.Module, stack: str, batch: dict[str, Tensor]) -> list[nn.Parameter]:
    parts = architecture(model, (), batch).stack(stack).parts[1]
    assert parts is not None
    part, parameters = parts.feed_forward.down, dict(model.named_parameters())
    return [parameters[name] for name in (part.weight, part.bias) if name]
