"""What is read off a training step is what `describe` reads off a batch, whatever the family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dslm import spec_to_json
from tests.trainer_agent.description.home_made import (
    BiasedAttention,
    Block,
    CappedAttention,
    FeedForward,
    GatedFeedForward,
    Model,
    NormedAttention,
    PrefixAttention,
    RMSNorm,
    RotaryAttention,
    WindowedAttention,
    WrittenAttention,
)
from tests.trainer_agent.description.home_made import batch as home_made_batch
from tests.trainer_agent.description.more_families import BUILDERS, batch_for
from tests.trainer_agent.description.test_encoder_decoder import Translator, bart, pairs
from tests.trainer_agent.description.test_families import bert, gpt2, llama, padded
from tests.trainer_agent.description.test_t5 import batch as t5_batch
from tests.trainer_agent.description.test_t5 import t5
from tests.trainer_agent.recording import recorded
from trainer_agent import describe

Batch = dict[str, Tensor]
Build = Callable[[], nn.Module]


class Checkpointed(nn.Module):
    """Calls a block so that the backward pass runs it again."""

    def __init__(self, block: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.block, self.reentrant = block, reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


def checkpointed(reentrant: bool) -> nn.Module:
    inner = (Block(WrittenAttention(), FeedForward()) for _ in range(2))
    return Model(*(Checkpointed(block, reentrant) for block in inner))


def labelled(batch: Mapping[str, Tensor]) -> Batch:
    return {**batch, "labels": batch["input_ids"]}


def blocks(attention: type[nn.Module] = WrittenAttention, **options: Any) -> Build:
    feed_forward = options.pop("feed_forward", FeedForward)
    return lambda: Model(*(Block(attention(), feed_forward(), **options) for _ in range(2)))


HOME_MADE: dict[str, Build] = {
    "plain": blocks(),
    "rms_norm": blocks(norm=RMSNorm),
    "post": blocks(placement="post"),
    "on_branch": blocks(placement="branch"),
    "sandwich": blocks(placement="sandwich", norm=RMSNorm),
    "parallel": blocks(placement="parallel"),
    "by_hand": blocks(feed_forward=lambda: FeedForward("gelu by hand")),
    "gated": blocks(feed_forward=GatedFeedForward),
    "biased": blocks(BiasedAttention),
    "capped": blocks(CappedAttention),
    "windowed": blocks(WindowedAttention),
    "prefix": blocks(PrefixAttention),
    "normed": blocks(NormedAttention),
    "rotary": blocks(RotaryAttention),
    "checkpointed": lambda: checkpointed(reentrant=False),
    "checkpointed_reentrantly": lambda: checkpointed(reentrant=True),
}
WRITTEN = [
    (f"{name}-{how}", build, how)
    for name, build in (("gpt2", gpt2), ("bert", bert), ("llama", llama))
    for how in ("sdpa", "eager")
]
KINDS: dict[str, tuple[Build, Callable[[], Batch]]] = {
    **{name: (build, home_made_batch) for name, build in HOME_MADE.items()},
    **{
        name: (lambda build=build, how=how: build(how), lambda: labelled(padded()))  # type: ignore[misc]
        for name, build, how in WRITTEN
    },
    **{
        name: (lambda name=name: BUILDERS[name](2, 64), lambda name=name: batch_for(name))  # type: ignore[misc]
        for name in BUILDERS
    },
    "translator": (Translator, pairs),
    "bart": (bart, pairs),
    "t5": (t5, t5_batch),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_step_with_dropout_gives_the_spec_that_describe_gives(name: str, tmp_path: Path) -> None:
    build, make_batch = KINDS[name]
    torch.manual_seed(0)
    model, batch = build().train(), make_batch()
    torch.manual_seed(1)
    expected = spec_to_json(describe(model, batch))
    agent, transport = recorded(model, tmp_path)

    torch.manual_seed(1)
    loss = model(**batch)["loss"]
    loss.backward()
    agent.step(loss=loss)
    agent.close()

    revision = transport.revisions[0]
    spec = {**revision.spec, "flows": revision.flows}
    assert spec["missing"] == expected["missing"] == []
    assert transport.health.failures == 0
    if name == "checkpointed_reentrantly":  # no backward pass to the first blocks can be asked for
        for flow in (*spec["flows"]["decoder"], *expected["flows"]["decoder"]):
            del flow["backward"], flow["missing"]
    assert_close(spec, expected)


def encoder() -> nn.Module:
    """A model whose blocks look to both sides, and whose structure does not say so."""
    return Model(*(Block(WrittenAttention(causal=False), FeedForward()) for _ in range(2)))


@pytest.mark.parametrize("name", ["encoder", "checkpointed", "gpt2-eager", "bert-sdpa", "t5"])
def test_the_first_frame_is_that_of_a_model_known_before(name: str, tmp_path: Path) -> None:
    build, make_batch = KINDS.get(name, (encoder, home_made_batch))
    frames = []
    for prepared in (True, False):
        torch.manual_seed(0)
        model, batch = build().train(), make_batch()
        options = {"sites": ("norm_inputs", "attention_heads", "weights"), "quantities": "all"}
        agent, transport = recorded(model, tmp_path, **options)
        if prepared:
            agent.prepare((), batch)
        torch.manual_seed(1)
        for _ in range(2):  # micro-batches
            model(**batch)["loss"].backward()
        agent.step()
        agent.close()
        (layout,) = {
            declaration.layout.hash: declaration.layout for declaration in transport.declarations
        }.values()
        frames.append({key: transport.series(key) for key in layout.slices})

    expected, frame = frames
    assert frame.keys() == expected.keys()
    for key in expected.keys() - {"/agent/overhead"}:
        np.testing.assert_allclose(frame[key], expected[key], rtol=1e-5, atol=1e-9, err_msg=key)


def assert_close(value: Any, expected: Any, where: str = "") -> None:
    """Two specs are the same but for rounding, and for what dropout does to measured angles."""
    if isinstance(expected, dict):
        assert value.keys() == expected.keys()
        for key, item in expected.items():
            assert_close(value[key], item, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(value) == len(expected), where
        for i, (item, other) in enumerate(zip(value, expected, strict=True)):
            assert_close(item, other, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-6), where
    else:
        assert value == expected, where
