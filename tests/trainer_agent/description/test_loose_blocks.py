"""Layers that are tuples of parts: found by the stream's flow, described, predicted, measured."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

import dslm
import trainer_agent
from tests.trainer_agent.description.loose_blocks import Kind, LanguageModel, batch, streams
from tests.trainer_agent.recording import recorded
from trainer_agent.description import architecture
from trainer_agent.model.blocks import columns, holds, members

KINDS = get_args(Kind)


def test_a_run_of_items_holds_the_parameters_of_all_of_them() -> None:
    assert members("a.layers[2:4]") == ("a.layers.2", "a.layers.3")
    assert holds("a.layers[2:4]", "a.layers.3.0.weight")
    assert not holds("a.layers[2:4]", "a.layers.30.0.weight")
    assert holds("a.layers.3", "a.layers.3")


@pytest.mark.parametrize("kind", KINDS)
def test_every_tuple_or_pair_of_them_is_a_layer_whose_parts_are_read(kind: Kind) -> None:
    model = LanguageModel(kind)

    recognised = architecture(model, (), batch())

    assert recognised.missing == ()
    (stack,) = recognised.stacks
    assert stack.name == "decoder" and len(stack.blocks) == 4 and len(stack.edges) == 5
    assert all(parts is not None for parts in stack.parts)
    assert stack.head is not None
    last = {"pairs": "body.norm", "pairs without a final norm": "body", "triples": "body.final"}
    assert stack.edges[-1].module == last.get(kind, "body.final")
    placement = "post" if kind.endswith("post") else "pre"
    assert {parts.placement for parts in stack.parts if parts is not None} == {placement}


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_is_within_one_draws_scatter(kind: Kind) -> None:
    torch.manual_seed(3)
    model = LanguageModel(kind, depth=6, width=128)

    spec = trainer_agent.describe(model, batch(1))
    (stack,) = dslm.predict(spec).stacks.values()

    direct = streams(model, batch(1)["ids"])
    forward = np.array([x.detach().var(correction=0).item() for x in direct])
    backward = np.array([x.grad.square().mean().item() for x in direct if x.grad is not None])
    backward *= stack.backward.variance[-1] / backward[-1]
    assert np.median(np.abs(stack.forward.variance / forward - 1)) < 0.15
    assert np.median(np.abs(stack.backward.variance / backward - 1)) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_measured_numbers_are_those_of_the_streams_and_training_is_unchanged(
    kind: Kind, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    bare, watched = LanguageModel(kind), LanguageModel(kind)
    watched.load_state_dict(bare.state_dict())
    for model, folder in ((bare, None), (watched, tmp_path)):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        agent, server = None, None
        if folder is not None:
            agent, server = recorded(model, folder, optimizer=optimizer, every=1)
        for step in range(4):
            optimizer.zero_grad()
            loss = model(**batch(step))
            loss.backward()
            if step == 3 and model is bare:
                state = {name: p.detach().clone() for name, p in bare.named_parameters()}
            optimizer.step()
            if agent is not None:
                agent.step()
        if agent is not None:
            assert agent.close()

    pairs = zip(bare.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert server is not None and server.health.failures == 0
    bare.load_state_dict(state)
    bare.zero_grad()
    direct = streams(bare, batch(3)["ids"])
    variance = [x.detach().double().var(correction=0).item() for x in direct]
    gradient = [x.grad.double().var(correction=0).item() for x in direct if x.grad is not None]
    assert server.series("decoder/stream/variance") == pytest.approx(variance, rel=1e-5)
    assert server.series("decoder/stream_gradient/variance") == pytest.approx(gradient, rel=1e-4)
    assert np.isfinite(server.series("decoder/attention_logits/max")).all()
    rms = [_rms(watched, block) for block in columns(watched)[0].blocks]
    assert server.series("decoder/weights/rms") == pytest.approx(rms, rel=0.05)  # of a sample


def _rms(model: nn.Module, block: str) -> float:
    weights = [p.detach().double() for name, p in model.named_parameters() if holds(block, name)]
    return float((sum(w.square().sum() for w in weights) / sum(w.numel() for w in weights)) ** 0.5)


def test_tuples_whose_parts_never_see_the_stream_are_named() -> None:
    class Hidden(LanguageModel):
        """Normalises by a function before it calls a part: no module is given the stream."""

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.tokens(ids)
            for _, branch, _ in self.body.items:
                x = x + branch(nn.functional.layer_norm(x, x.shape[-1:]))
            return self.head(x).square().mean()

    recognised = architecture(Hidden("triples"), (), batch())

    (missing,) = recognised.missing[:1]
    assert recognised.stacks == ()
    assert missing.where == "body.items" and "no module is given" in missing.why
