"""DeepScaleLM on every family whose residual steps hooks can reach, and what it tells of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trainer_agent
from benchmarks.streams import measured_stacks
from tests.trainer_agent.description.home_made import Block, FeedForward, Model, WrittenAttention
from tests.trainer_agent.description.more_families import BUILDERS, batch_for
from tests.trainer_agent.description.test_encoder_decoder import Translator, bart, pairs
from tests.trainer_agent.description.test_t5 import t5
from trainer_agent import deepscale_lm
from trainer_agent.deepscale_lm import DeepScaleError, Report
from trainer_agent.description import architecture

# Forced: how scales are put in is tested here, also where a model is even as it stands.
deepscale = partial(deepscale_lm.deepscale, force=True)
DEPTH, WIDTH = 6, 64
FAMILIES = ("mistral", "qwen3", "olmo2", "gemma2", "opt", "phi", "gpt_neox", "roberta", "vit")


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` around ``nn.MultiheadAttention``, with embeddings."""

    def __init__(self, norm_first: bool = True) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, norm_first=norm_first, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 8, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layers(self.tokens(ids))


def spans(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """By stack: the largest factor that forward and backward variance are away from 1."""
    recognised = architecture(model, (), batch)
    measurement = measured_stacks(model, {s.name: s.blocks for s in recognised.stacks}, batch)
    return {
        name: tuple(float(np.exp(np.abs(np.log(c)).max())) for c in (curves[0], curves[1]))
        for name, curves in measurement.items()
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_balanced_scales_keep_both_directions_near_one(name: str) -> None:
    torch.manual_seed(0)
    model, batch = BUILDERS[name](DEPTH, WIDTH), batch_for(name)

    report = deepscale(model, batch, form="balanced")

    ((forward, backward),) = spans(model, batch).values()
    # one draw of the weights at width 64 scatters by tens of percent
    assert forward < 1.35
    # gates gain at least a factor 2 a branch, grouped keys more; full attention loses
    assert backward < 4
    assert report.n_blocks == DEPTH


@pytest.mark.parametrize("build", [bart, Translator, lambda width, n: t5(n, width)])
def test_encoder_decoders_are_scaled_in_both_stacks(build: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    model, batch = build(WIDTH, DEPTH), pairs()

    report = deepscale(model, batch, form="balanced")

    for forward, backward in spans(model, batch).values():
        assert forward < 1.35
        assert backward < 2.6  # scatter of one draw
    assert [stack.name for stack in report.stacks] == ["encoder", "decoder"]
    assert report.stacks[0].beta ** 2 == pytest.approx(2 / (2 * DEPTH))
    assert report.stacks[1].beta ** 2 == pytest.approx(2 / (3 * DEPTH))
    assert {c.role for c in report.changes} >= {"cross query", "cross output"}


@pytest.mark.parametrize("norm_first", [True, False])
def test_multihead_attention_is_scaled_where_it_is_called(norm_first: bool) -> None:
    torch.manual_seed(0)
    model = Encoder(norm_first)

    report = deepscale(model)

    (stack,) = architecture(model.train(), (torch.arange(16).view(2, 8),)).stacks
    parts = stack.parts[0]
    assert parts is not None
    ratio = parts.attention_residual.beta / parts.attention_residual.lam
    assert ratio == pytest.approx(report.beta / report.lam)


def test_hooks_hold_in_evaluation_without_gradients() -> None:
    torch.manual_seed(0)
    model = Encoder().eval()
    deepscale(model)
    ids = torch.arange(16).view(2, 8)

    with torch.no_grad():  # where nn.TransformerEncoderLayer may take a fused path
        fast = model(ids)

    torch.testing.assert_close(fast, model(ids).detach())


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "branch", "parallel"])
@pytest.mark.parametrize("form", ["simplified", "balanced"])
def test_hooks_give_the_output_of_written_scales(placement: str, form: str) -> None:
    def build() -> Model:
        return Model(*(Block(WrittenAttention(), FeedForward(), placement) for _ in range(4)))

    torch.manual_seed(0)
    written, hooked = build(), build()
    for block in hooked.blocks:  # nothing to set: hooks have to do it
        _forget_scales(block)

    reports = []
    for model in (written, hooked):
        torch.manual_seed(1)
        reports.append(deepscale(model, form=form))

    assert reports[0].residual.startswith("attributes")
    assert reports[1].residual == "hooks"
    ids = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(2))
    expected, got = written.eval()(ids)["logits"], hooked.eval()(ids)["logits"]
    # eps of the norms, on streams of another size inside the block
    torch.testing.assert_close(got, expected, rtol=2e-3, atol=2e-3)


def _forget_scales(block: Block) -> None:
    class Plain(Block):
        """The same block with its residual steps written without factors."""

        def forward(self, x: Tensor) -> Tensor:
            if self.placement == "parallel":
                return x + self.drop(self.attn(self.ln1(x))) + self.drop(self.mlp(self.ln2(x)))
            if self.placement == "post":
                x = self.ln1(x + self.drop(self.attn(x)))
                return self.ln2(x + self.drop(self.mlp(x)))
            x = x + self.drop(self.branch(x, self.attn, self.ln1, self.ln3))
            return x + self.drop(self.branch(x, self.mlp, self.ln2, self.ln4))

    block.__class__ = Plain
    del block.lam, block.beta


def test_a_stack_without_embeddings_is_told_to_scale_its_input() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    with pytest.raises(DeepScaleError, match=r"variance .*scale the input"):
        deepscale(model, 3 * torch.randn(4, 16, 32))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())

    assert deepscale(model, torch.randn(4, 16, 32)).input_variance == pytest.approx(1, rel=0.1)


def test_a_family_that_multiplies_its_embeddings_gets_smaller_tables() -> None:
    torch.manual_seed(0)
    model = BUILDERS["gemma"](4, WIDTH)

    report = deepscale(model)

    table = next(c for c in report.changes if c.role == "embedding")
    assert table.new_std == pytest.approx(WIDTH**-0.5, rel=0.05)
    # the most frequent id's row, a sum of 64 squares, is a quarter of the batch
    assert report.input_variance == pytest.approx(1, abs=0.35)


def test_report_is_data_and_tells_every_residual_step() -> None:
    torch.manual_seed(0)
    model = BUILDERS["qwen2"](DEPTH, WIDTH)

    report: Report = trainer_agent.deepscale(model, form="balanced")

    as_json = json.loads(json.dumps(report.as_dict()))
    assert as_json["form"] == "balanced"
    assert len(as_json["residuals"]) == 2 * DEPTH
    first = as_json["residuals"][0]
    assert (first["old_lam"], first["old_beta"]) == (1.0, 1.0)
    assert first["new_lam"] ** 2 + first["new_beta"] ** 2 == pytest.approx(1)
    assert "feed_forward branch" in str(report)


def test_an_unknown_form_changes_nothing() -> None:
    model = BUILDERS["opt"](2, 32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    with pytest.raises(ValueError, match="form: 'other' is none of paper, simplified, per-layer"):
        deepscale(model, form="other")  # type: ignore[arg-type]

    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
