"""Other people's schemes on real models, and forms that a model is more even without."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import dslm
from tests.trainer_agent.deepscale_lm.test_deepscale import bert, gpt2
from tests.trainer_agent.deepscale_lm.test_deepscale_families import Encoder
from tests.trainer_agent.description.test_encoder_decoder import bart, pairs
from trainer_agent import deepscale, describe
from trainer_agent.deepscale_lm import DeepScaleError


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def is_as_it_was(model: nn.Module, before: dict[str, Tensor]) -> bool:
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return hooks == 0 and all(value.equal(before[n]) for n, value in model.state_dict().items())


def stds(model: nn.Module, name: str) -> list[float]:
    """Of the parameters whose name ends so, block by block."""
    return [p.std().item() for n, p in model.named_parameters() if n.endswith(name)]


def test_deepnorm_on_a_post_ln_encoder_is_its_written_form() -> None:
    torch.manual_seed(0)
    model = Encoder(norm_first=False).eval()
    report = deepscale(model, form="deepnorm", force=True)
    alpha, beta = 16**0.25, 64**-0.25
    ids = torch.randint(0, 50, (2, 9))

    x = model.tokens(ids)
    for layer in model.layers.layers:
        x = layer.norm1(alpha * x + layer._sa_block(x, None, None) * alpha)
        x = layer.norm2(alpha * x + layer._ff_block(x) * alpha)

    assert report.stacks[0].lam == pytest.approx(alpha)
    # The stack keeps its skip at one: its branches are divided by alpha, which the norm undoes.
    torch.testing.assert_close(model(ids), x, rtol=1e-4, atol=1e-4)
    first = model.layers.layers[0]
    assert first.linear1.weight.std().item() == pytest.approx(beta * math.sqrt(2 / 96), rel=0.05)
    query, _, value = first.self_attn.in_proj_weight.chunk(3)
    assert query.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.1)
    assert value.std().item() == pytest.approx(beta * math.sqrt(2 / 64), rel=0.1)


def test_deepnorm_of_an_encoder_decoder_takes_both_depths() -> None:
    torch.manual_seed(0)
    model = bart(layers=4)
    report = deepscale(model, pairs(), form="deepnorm", force=True)

    encoder, decoder = report.stacks
    assert encoder.lam == pytest.approx(0.81 * (4**4 * 4) ** (1 / 16))
    assert decoder.lam == pytest.approx(12**0.25)
    assert {change.branch for change in report.residuals} == {"attention", "cross", "feed_forward"}


def test_gpt2s_scheme_draws_all_weights_with_its_deviations() -> None:
    torch.manual_seed(0)
    model = gpt2()
    report = deepscale(model, form="gpt2", force=True)

    small = 0.02 / math.sqrt(2 * 8)
    assert stds(model, "wte.weight") == pytest.approx([0.02], rel=0.05)
    assert stds(model, "mlp.c_fc.weight") == pytest.approx([0.02] * 8, rel=0.05)
    assert stds(model, "mlp.c_proj.weight") == pytest.approx([small] * 8, rel=0.05)
    assert stds(model, "attn.c_proj.weight") == pytest.approx([small] * 8, rel=0.05)
    assert not any(stds(model, "attn.c_attn.bias"))
    assert report.expected[0].replaced == "GPT-2's 1/√(2N)"
    assert report.stacks[0].residual == "nothing"


def test_depth_mup_scales_branches_and_leaves_weights() -> None:
    torch.manual_seed(0)
    model = gpt2()
    before = state(model)
    report = deepscale(model, form="depth_mup", force=True)

    assert {r.new_lam for r in report.residuals} == {1.0}
    assert [r.new_beta for r in report.residuals] == pytest.approx([0.25] * 16)
    assert not report.changes
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_layernorm_scaling_sets_gains_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = gpt2()
    before = state(model)
    deepscale(model, form="layernorm_scaling", force=True)

    for number, block in enumerate(model.transformer.h, start=1):
        for norm in (block.ln_1, block.ln_2):
            torch.testing.assert_close(norm.weight, torch.full((64,), number**-0.5))
    others = (n for n in before if ".ln_" not in n)
    assert all(model.state_dict()[name].equal(before[name]) for name in others)


def test_admin_weighs_the_stream_more_from_branch_to_branch() -> None:
    torch.manual_seed(0)
    model = Encoder(norm_first=False)
    report = deepscale(model, form="admin", force=True)

    omegas = [change.new_lam / change.new_beta for change in report.residuals]
    assert omegas[0] == pytest.approx(1.0)
    assert omegas == sorted(omegas)
    assert omegas[-1] > 1.2


@pytest.mark.parametrize(
    ("build", "form", "why"),
    [
        (gpt2, "deepnorm", "deepnorm is for post, not pre"),
        (bert, "depth_mup", "depth_mup is for pre and parallel, not post"),
        (bert, "kernel", "The model is more even as it is"),
        (bert, "simplified", "The model is more even as it is"),
    ],
)
def test_a_form_that_does_not_help_is_refused_and_nothing_changes(
    build: object, form: str, why: str
) -> None:
    torch.manual_seed(0)
    model = build()  # type: ignore[operator]
    before, random = state(model), torch.get_rng_state()

    with pytest.raises(DeepScaleError, match=why):
        deepscale(model, form=form)  # type: ignore[arg-type]

    assert is_as_it_was(model, before)
    assert torch.get_rng_state().equal(random)
    assert not model.training or all(m.training for m in model.modules())


def test_what_a_form_is_expected_to_gain_is_in_the_report() -> None:
    torch.manual_seed(0)
    model = Encoder(norm_first=False)
    forced = deepscale(model, form="kernel", force=True)

    (gain,) = forced.expected
    after = dslm.evenness(describe(model, torch.randint(0, 50, (4, 64))))
    (stack,) = after.values()
    assert gain.gradient[1] == pytest.approx(stack.gradient, rel=0.3)
    assert f"gradient ×{gain.gradient[0]:.3g} → ×{gain.gradient[1]:.3g}" in str(forced)
    assert forced.as_dict()["expected"][0]["stack"] == gain.stack


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"form": "paper", "k": -1.0}, "k"),
        ({"form": "kernel", "count": "layers"}, "count"),
        ({"form": "deepnorm", "alpha": 0.5}, "alpha"),
        ({"form": "fixup"}, "form"),
    ],
)
def test_an_argument_that_cannot_be_is_named(options: dict[str, object], field: str) -> None:
    model = gpt2()
    before = state(model)

    with pytest.raises(DeepScaleError, match=field):
        deepscale(model, **options)  # type: ignore[arg-type]

    assert is_as_it_was(model, before)


@pytest.mark.parametrize("form", ["paper", "kernel", "balanced"])
def test_a_branchs_share_counts_sublayers_unless_told_otherwise(form: str) -> None:
    torch.manual_seed(0)
    report = deepscale(gpt2(), form=form, force=True)  # type: ignore[arg-type]
    doubled = deepscale(gpt2(), form=form, count="blocks", force=True)  # type: ignore[arg-type]

    assert report.beta**2 == pytest.approx(2 / 16)
    assert doubled.beta**2 == pytest.approx(2 / 8)
