"""Other people's schemes for deep stacks: their formulas, their moments, and telling them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import dslm
from dslm import Amplitudes, CrossAttention, ModelSpec, Residual, SpecError
from dslm.schemes import PLACEMENTS, apply_scheme, name_of_scheme, scheme
from tests.dslm.specs import spec_of, stack

DEEP = 24, 96


def wanted(name: str, n_blocks: int, *, p_drop: float = 0.0) -> tuple[ModelSpec, ModelSpec]:
    """A model in a placement that the scheme is for, and what the scheme makes of it."""
    placement = PLACEMENTS[name][0]
    std = math.sqrt(2 / (128 + 128))  # Xavier's, of square maps
    plain = spec_of(
        stack(n_blocks, 32, 128, placement=placement, std=std, p_drop=p_drop, causal=False)
    )
    return plain, apply_scheme(plain, scheme(plain, name))  # type: ignore[arg-type]


def spread(spec: ModelSpec) -> tuple[float, float]:
    found = dslm.evenness(spec)["decoder"]
    return found.stream, found.gradient


def test_deepnorm_has_the_factors_of_its_table() -> None:
    for n in DEEP:
        plain, _ = wanted("deepnorm", n)
        found = scheme(plain, "deepnorm")["decoder"].blocks[0]

        alpha, beta = (2 * n) ** 0.25, (8 * n) ** -0.25
        assert found.residuals == (Amplitudes(alpha, 1.0),) * 2
        assert found.stds["query"] == found.stds["key"] == pytest.approx(math.sqrt(2 / 256))
        assert (
            found.stds["value"] == found.stds["output"] == pytest.approx(beta * math.sqrt(2 / 256))
        )
        assert found.stds["up"] == found.stds["down"] == pytest.approx(beta * math.sqrt(2 / 384))


def test_deepnorm_of_an_encoder_under_a_decoder_has_factors_of_both_depths() -> None:
    encoder = stack(6, 16, 64, placement="post", causal=False)
    decoder = stack(3, 16, 64, placement="post")
    (block, *_) = decoder.blocks
    assert block is not None
    cross = CrossAttention(block.attention, block.feed_forward_norm, Residual())
    blocks = tuple(replace(block, cross=cross) for block in decoder.blocks)
    spec = ModelSpec(
        "custom",
        {"encoder": encoder, "decoder": replace(decoder, blocks=blocks, reads="encoder")},
        batch_size=4,
    )

    found = scheme(spec, "deepnorm")

    below = 0.81 * (6**4 * 3) ** (1 / 16)
    assert found["encoder"].blocks[0].residuals == (Amplitudes(below, 1.0),) * 2
    assert found["decoder"].blocks[0].residuals == (Amplitudes(9**0.25, 1.0),) * 3
    assert found["decoder"].blocks[0].stds["cross value"] == pytest.approx(
        36**-0.25 * math.sqrt(2 / 128)
    )
    assert name_of_scheme(apply_scheme(spec, found).stacks["decoder"]) == "DeepNorm"


def test_gpt2_writes_to_the_stream_with_weights_smaller_by_the_root_of_its_steps() -> None:
    plain, _ = wanted("gpt2", 24)
    found = scheme(plain, "gpt2")["decoder"]

    assert found.tables == 0.02
    assert found.blocks[5].stds == pytest.approx(
        dict.fromkeys(("query", "key", "value", "up"), 0.02)
        | dict.fromkeys(("output", "down"), 0.02 / math.sqrt(48))
    )


def test_depth_mup_divides_every_branch_by_the_root_of_the_steps() -> None:
    plain, _ = wanted("depth_mup", 24)
    found = scheme(plain, "depth_mup")["decoder"].blocks

    steps = [step for block in found for step in block.residuals]
    assert {step.lam for step in steps} == {1.0}
    assert [step.beta for step in steps] == pytest.approx([48**-0.5] * 48)
    assert not found[0].stds
    assert found[0].norm_gain is None


def test_layernorm_scaling_divides_the_norms_by_the_root_of_the_blocks_number() -> None:
    plain, scaled = wanted("layernorm_scaling", 24)

    gains = [
        block.feed_forward_norm.gain_mean for block in scaled.stacks["decoder"].blocks if block
    ]
    assert gains == pytest.approx([number**-0.5 for number in range(1, 25)])
    assert scheme(plain, "layernorm_scaling")["decoder"].blocks[0].norm_gain == 1.0


def test_admin_weighs_the_stream_by_what_the_branches_below_add() -> None:
    plain, _ = wanted("admin", 24)
    predicted = dslm.predict(plain).stacks["decoder"]
    added = np.column_stack([predicted.attention_variance, predicted.feed_forward_variance]).ravel()

    omegas = [step.lam for b in scheme(plain, "admin")["decoder"].blocks for step in b.residuals]

    assert omegas[0] == 1.0
    np.testing.assert_allclose(omegas[1:], np.sqrt(1 + np.cumsum(added)[:-1]), rtol=1e-6)


@pytest.mark.parametrize("n_blocks", DEEP)
@pytest.mark.parametrize("name", list(PLACEMENTS))
def test_each_scheme_keeps_deep_stacks_more_even_than_plain(name: str, n_blocks: int) -> None:
    plain, scaled = wanted(name, n_blocks)

    before, after = spread(plain), spread(scaled)

    assert max(after) < max(before)
    if name != "layernorm_scaling":  # which lets the stream grow, more slowly
        assert max(after) < 6.0


def test_deepnorm_and_depth_mup_do_not_get_worse_with_depth() -> None:
    for name in ("deepnorm", "depth_mup"):
        shallow, deep = (max(spread(wanted(name, n)[1])) for n in DEEP)
        assert deep < 1.1 * shallow


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("deepnorm", "DeepNorm"),
        ("gpt2", "GPT-2's 1/√(2N)"),
        ("depth_mup", "depth-µP, one over the root of the depth"),
        ("layernorm_scaling", "LayerNorm scaling"),
    ],
)
def test_a_scheme_is_told_by_name_where_it_stands(name: str, told: str) -> None:
    plain, scaled = wanted(name, 24)

    assert name_of_scheme(plain.stacks["decoder"]) == ""
    assert name_of_scheme(scaled.stacks["decoder"]) == told


def test_deepscalelm_and_plain_multipliers_are_told_too() -> None:
    decoder = stack(12, 16, 64)
    scaled = dslm.apply_scaling(decoder, dslm.deepscale(decoder))
    (block, *_) = decoder.blocks
    assert block is not None

    def with_beta(beta: float) -> dslm.Stack:
        step = Residual(1.0, beta)
        made = replace(block, attention_residual=step, feed_forward_residual=step)
        return replace(decoder, blocks=(made,) * 12)

    assert name_of_scheme(scaled) == "DeepScaleLM"
    assert name_of_scheme(with_beta(0.22)) == "a residual multiplier of 0.22"
    assert name_of_scheme(with_beta(0.0)) == "ReZero or SkipInit"
    assert name_of_scheme(replace(decoder, blocks=(None, *decoder.blocks))) == ""


@pytest.mark.parametrize("name", list(PLACEMENTS))
def test_a_placement_that_a_scheme_is_not_for_is_refused_by_name(name: str) -> None:
    spec = spec_of(stack(3, 8, 32, placement="sandwich"))

    with pytest.raises(SpecError, match=f"{name} is for") as refused:
        scheme(spec, name)  # type: ignore[arg-type]

    assert refused.value.field == "stacks.decoder.blocks[0].placement"


def test_what_no_scheme_can_take_is_refused() -> None:
    decoder = stack(2, 8, 32)
    with pytest.raises(SpecError, match="form: use one of deepnorm"):
        scheme(spec_of(decoder), "fixup")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="not understood"):
        scheme(spec_of(replace(decoder, blocks=(None,))), "gpt2")
    with pytest.raises(SpecError, match="at least one block"):
        scheme(spec_of(replace(decoder, blocks=())), "gpt2")
