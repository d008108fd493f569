"""What-if transformations: what they change, what they keep, what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import dslm
from dslm.kernels.grid import mean_diagonal
from tests.dslm.diagnosis.test_diagnose import with_head
from tests.dslm.specs import block, kernel, spec_of, stack, with_input


def decoder(spec: dslm.ModelSpec) -> dslm.Stack:
    return spec.stacks["decoder"]


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_placement_and_back_keeps_weights_and_norms(placement: str) -> None:
    other = "post" if placement == "pre" else "pre"
    spec = spec_of(stack(placement=placement))

    moved = dslm.with_placement(spec, other)  # type: ignore[arg-type]
    back = dslm.with_placement(moved, placement)  # type: ignore[arg-type]

    assert {b.placement for b in decoder(moved).blocks if b} == {other}
    assert decoder(back).blocks == decoder(spec).blocks


def test_stream_that_becomes_post_ln_starts_at_unit_variance() -> None:
    spec = spec_of(with_input(stack(), kernel(32, var=4e-4, corr=0.2)))

    moved = decoder(dslm.with_placement(spec, "post"))

    assert mean_diagonal(moved.input_kernel) == pytest.approx(1.0)
    assert moved.input_kernel.off_diagonal[0, 1] == pytest.approx(0.2)


def test_same_placement_changes_nothing() -> None:
    spec = spec_of(with_input(stack(placement="post"), kernel(32, var=4e-4)))

    assert decoder(dslm.with_placement(spec, "post")) == decoder(spec)


def test_depth_repeats_the_pattern_of_blocks() -> None:
    local, wide = block(), block(std=0.1)
    spec = spec_of(replace(stack(), blocks=(local, wide)))

    assert decoder(dslm.with_depth(spec, 5)).blocks == (local, wide, local, wide, local)
    assert decoder(dslm.with_depth(spec, 1)).blocks == (local,)


def test_deeper_stack_begins_as_the_shallow_one() -> None:
    spec = spec_of(stack(3))

    deep = dslm.predict(dslm.with_depth(spec, 12)).stacks["decoder"].forward.variance

    np.testing.assert_array_equal(deep[:4], dslm.predict(spec).stacks["decoder"].forward.variance)


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_deepscale_keeps_the_stream_and_its_gradient_near_one(placement: str) -> None:
    deep = spec_of(with_input(stack(48, placement=placement), kernel(32, var=4e-4)))

    scaled = dslm.predict(dslm.with_deepscale(deep)).stacks["decoder"]

    # unscaled, layers 1 to 48 change the stream up to 70-fold, its gradient up to 25-fold
    assert scaled.forward.variance.max() < 2 and scaled.forward.variance.min() > 0.5
    assert scaled.backward.variance.max() < 3 and scaled.backward.variance.min() > 0.3


@pytest.mark.parametrize("n_layers", [0, -3, 10_001])
def test_impossible_depth_names_layers(n_layers: int) -> None:
    with pytest.raises(dslm.SpecError, match=r"^layers: .*10,000"):
        dslm.with_depth(spec_of(stack()), n_layers)


def test_sandwich_has_no_post_ln_form() -> None:
    with pytest.raises(dslm.SpecError, match=r"blocks\[0\]\.placement.*sandwich"):
        dslm.with_placement(spec_of(stack(placement="sandwich")), "post")


def test_block_that_is_not_understood_is_named() -> None:
    gap = spec_of(replace(stack(), blocks=(block(), None)))

    for change in (
        lambda: dslm.with_placement(gap, "post"),
        lambda: dslm.with_depth(gap, 12),
        lambda: dslm.with_deepscale(gap),
    ):
        with pytest.raises(dslm.SpecError, match=r"stacks\.decoder\.blocks\[1\]"):
            change()


def test_cross_attention_is_refused_where_it_makes_no_sense() -> None:
    attention, norm = block(causal=False).attention, dslm.Norm("layernorm")
    crossing = replace(block(), cross=dslm.CrossAttention(attention, norm, dslm.Residual()))
    encoder = stack(2, causal=False)
    spec = dslm.ModelSpec(
        "custom",
        {"encoder": encoder, "decoder": replace(stack(), blocks=(crossing,), reads="encoder")},
    )

    with pytest.raises(dslm.SpecError, match=r"decoder\.blocks\[0\]\.cross"):
        dslm.with_placement(spec, "post")
    assert len(dslm.with_depth(spec, 7).stacks["encoder"].blocks) == 7
    scaled = dslm.predict(dslm.with_deepscale(spec)).stacks["decoder"].forward.variance
    np.testing.assert_allclose(scaled, 1.0, atol=0.1)


def test_final_norm_leaves_the_head_of_a_stack_that_becomes_post_ln() -> None:
    spec = spec_of(replace(with_head(stack()), top_gradient_kernel=kernel(32)))

    moved = decoder(dslm.with_placement(spec, "post"))

    assert moved.head is not None and moved.head.layers == ()
    assert moved.top_gradient_kernel is None  # measured under the other placement
    assert decoder(dslm.with_placement(spec, "pre")) == decoder(spec)


def test_deepscale_gives_the_head_its_scale() -> None:
    loud = with_head(stack())
    assert loud.head is not None
    output = replace(loud.head.output, weight_var=9.0)
    loud = replace(loud, head=replace(loud.head, output=output))

    scaled = dslm.predict(dslm.with_deepscale(spec_of(loud))).stacks["decoder"]

    assert scaled.logit_variance == pytest.approx(1.0, rel=0.05)


def test_a_scheme_of_others_leaves_the_input_and_gives_the_head_its_deviation() -> None:
    loud = with_head(stack())

    small = decoder(dslm.with_deepscale(spec_of(loud), "gpt2"))
    scaled = decoder(dslm.with_deepscale(spec_of(loud), "depth_mup"))

    assert small.head is not None
    assert small.head.output.weight_var == pytest.approx(0.02**2)
    assert scaled.head == loud.head
    assert small.input_kernel == scaled.input_kernel == loud.input_kernel
    assert scaled.blocks[0].attention_residual.beta == pytest.approx(  # type: ignore[union-attr]
        (2 * len(loud.blocks)) ** -0.5
    )
