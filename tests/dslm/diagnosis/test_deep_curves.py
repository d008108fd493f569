"""Curves of a sweep over depths are those of predictions made at these depths."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import dslm
from dslm.diagnosis.deep_curves import Curves, DeepModel
from tests.dslm.specs import block, kernel, spec_of, stack, with_input
from tests.dslm.test_attention_kinds import encoder_decoder

BIASED = replace(block().attention, position_bias=dslm.alibi(dslm.alibi_slopes(4)))
WINDOWED = replace(block().attention, window=6)
OVERFLOWING = replace(block().feed_forward, down=dslm.Linear(256, 128, 1e160))
SPECS: dict[str, dslm.ModelSpec] = {
    "gpt2": spec_of(stack(4)),
    "bert": spec_of(stack(4, placement="post", causal=False, p_drop=0.1)),
    "llama": spec_of(stack(4, gated=True, norm="rmsnorm", activation="silu")),
    "gpt-neox": spec_of(stack(4, placement="parallel")),
    "gemma 2": spec_of(
        dslm.Stack(128, (block(), replace(block(), attention=WINDOWED)) * 2, kernel(32))
    ),
    "olmo 2": spec_of(stack(4, placement="branch")),
    "bloom": spec_of(dslm.Stack(128, (replace(block(), attention=BIASED),) * 4, kernel(32))),
    "t5": encoder_decoder(),
    "one that overflows": spec_of(
        dslm.Stack(128, (replace(block(), feed_forward=OVERFLOWING),) * 4, kernel(32))
    ),
}


def deeper(spec: dslm.ModelSpec, times: Fraction) -> dslm.ModelSpec:
    """The model with its blocks repeated."""
    stacks = {
        name: replace(s, blocks=(s.blocks * 8)[: round(len(s.blocks) * times)])
        for name, s in spec.stacks.items()
    }
    return replace(spec, stacks=stacks)


def assert_predicted(curves: Curves, spec: dslm.ModelSpec, times: Fraction) -> None:
    plain = dslm.predict(deeper(spec, times)).stacks
    assert curves.keys() == plain.keys()
    for name, curve in curves.items():
        forward, backward = plain[name].forward, plain[name].backward
        np.testing.assert_allclose(curve.variance, forward.variance, rtol=1e-9)
        np.testing.assert_allclose(curve.correlation, forward.correlation, rtol=1e-9)
        np.testing.assert_allclose(curve.gradient, backward.variance, rtol=1e-9)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("depths", [(2, 4, Fraction(11, 4)), (4, 2)])
def test_curves_equal_predictions_at_each_depth(name: str, depths: tuple[Fraction, ...]) -> None:
    model = DeepModel(SPECS[name])

    for depth in depths:  # layers of one depth serve the next, deeper or shallower
        times = Fraction(depth)
        assert_predicted(model.curves(times), SPECS[name], times)


def test_a_gradient_is_that_of_its_depth() -> None:
    spec = SPECS["bert"]
    model = DeepModel(spec)

    gradient = model.gradient_at("decoder", 7)

    plain = dslm.predict(dslm.with_depth(spec, 7)).stacks["decoder"].backward.variance
    np.testing.assert_allclose(gradient, plain, rtol=1e-9)


def test_wide_cells_are_kept() -> None:
    sizes = np.array([1] * 16 + [4] * 4, dtype=np.int64)
    coarse = dslm.Kernel(np.ones(20), np.full((20, 20), 0.3), sizes)
    spec = spec_of(with_input(stack(4), coarse))

    assert_predicted(DeepModel(spec).curves(Fraction(2)), spec, Fraction(2))
