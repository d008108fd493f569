"""DeepScaleLM as its authors give it: the formulas of their tables, and moments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dslm
from dslm import BranchShare, SpecError
from tests.dslm.specs import kernel, predict, stack, with_input


def deviations_of_the_paper(n_blocks: int, d: int, p: float) -> list[float]:
    """sigma_v = sigma_o layer by layer, from the recursion of r for a stream of unit variance."""
    beta2 = 2 / (2 * n_blocks)
    r, deviations = 0.221 * (1 - p), []
    for _ in range(n_blocks):
        deviations.append(((1 - p) / r) ** 0.25 / d**0.5)
        r = (1 - beta2) * r + beta2 * (1 - p)
        rectified = r + (math.sqrt(1 - r * r) - r * math.acos(r)) / math.pi
        r = (1 - beta2) * r + beta2 * (1 - p) * rectified
    return deviations


@pytest.mark.parametrize("n_blocks", [12, 96, 192, 1000])
@pytest.mark.parametrize("p_drop", [0.0, 0.1])
def test_every_deviation_and_scale_is_the_papers(n_blocks: int, p_drop: float) -> None:
    d, d_ff = 64, 128
    decoder = stack(n_blocks, 16, d, activation="relu", p_drop=p_drop, causal=False)

    scaling = dslm.deepscale(decoder, form="paper", n_embedding_tables=3, p_embedding_drop=p_drop)

    assert scaling.beta**2 == pytest.approx(1 / n_blocks, rel=1e-9)
    assert scaling.lam**2 == pytest.approx(1 - 1 / n_blocks, rel=1e-9)
    values = [block.value for block in scaling.blocks]
    assert values == pytest.approx(deviations_of_the_paper(n_blocks, d, p_drop), rel=1e-3)
    assert [block.output for block in scaling.blocks] == values
    first = scaling.blocks[0]
    assert (first.query, first.key) == pytest.approx((d**-0.5, d**-0.5))
    assert first.up == first.down
    assert d * d_ff * first.up**4 == pytest.approx(2 * (1 - p_drop), rel=1e-9)
    assert scaling.embedding == pytest.approx(math.sqrt((1 - p_drop) / 3))
    assert scaling.tied_head_input == pytest.approx(1 / math.sqrt(d * (1 - p_drop) / 3))


@pytest.mark.parametrize("n_blocks", [24, 96])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_moments_stay_near_one_on_the_papers_assumptions(n_blocks: int, placement: str) -> None:
    unmasked = stack(n_blocks, 64, 256, placement=placement, activation="relu", causal=False)
    decoder = with_input(unmasked, kernel(64, corr=0.221))

    predicted = predict(dslm.apply_scaling(decoder, dslm.deepscale(decoder, form="paper")))

    np.testing.assert_allclose(predicted.forward.variance, 1.0, atol=0.2)
    # Gradients of tokens are independent at the top here: attention passes r_g / r of them.
    assert predicted.backward.variance.max() / predicted.backward.variance.min() < 2.5


SHARES = st.builds(
    BranchShare,
    k=st.floats(0.1, 8.0),
    alpha=st.floats(0.0, 2.0),
    count=st.sampled_from(["blocks", "sublayers"]),
)


@given(
    share=SHARES,
    n_blocks=st.integers(1, 1000),
    n_branches=st.integers(1, 3),
    parallel=st.booleans(),
)
def test_a_step_keeps_unit_variance_whatever_the_rule(
    share: BranchShare, n_blocks: int, n_branches: int, parallel: bool
) -> None:
    lam, beta = share.amplitudes(n_blocks, n_branches, parallel=parallel)

    joined = n_branches if parallel else 1
    assert lam**2 + joined * beta**2 == pytest.approx(1.0)
    assert 0 < beta**2 <= 0.5 + 1e-12


def test_counting_sublayers_halves_the_share_of_a_branch() -> None:
    blocks, sublayers = BranchShare(count="blocks"), BranchShare()

    assert blocks.amplitudes(192)[1] ** 2 == pytest.approx(2 / 192)
    assert sublayers.amplitudes(192)[1] ** 2 == pytest.approx(2 / 384)
    assert BranchShare(k=1.0, alpha=0.5).amplitudes(50)[1] ** 2 == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"k": 0.0}, "k"),
        ({"k": math.nan}, "k"),
        ({"alpha": -1.0}, "alpha"),
        ({"count": "layers"}, "count"),
    ],
)
def test_a_rule_that_is_none_is_refused(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(SpecError) as refused:
        dslm.residual_amplitudes(12, **arguments)  # type: ignore[arg-type]

    assert refused.value.field == field
