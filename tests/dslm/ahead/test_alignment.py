"""The cosine of a branch and its stream, from variances, beside the tensors themselves."""

from __future__ import annotations

import numpy as np
import pytest

from dslm.ahead import alignment, block_alignment

SIZE = 200_000


def tensors(rng: np.random.Generator, rho: float) -> tuple[np.ndarray, np.ndarray]:
    x, e = rng.standard_normal((2, SIZE))
    return 3 * x + 1.0, 0.5 * (rho * x + (1 - rho**2) ** 0.5 * e)


@pytest.mark.parametrize("rho", [-0.9, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("lam", [1.0, 0.8])
def test_alignment_is_the_tensors_own(rng: np.random.Generator, rho: float, lam: float):
    x, f = tensors(rng, rho)
    total = (lam * x + f).var()

    computed = alignment(np.array(x.var()), np.array(f.var()), np.array(total), lam=lam, p_drop=0.0)

    assert computed == pytest.approx(np.corrcoef(x, f)[0, 1], abs=1e-9)


def test_dropout_behind_the_branch_does_not_change_it(rng: np.random.Generator):
    x, f = tensors(rng, 0.4)
    dropped = f * (rng.random(SIZE) >= 0.2) / 0.8

    computed = alignment(
        np.array(x.var()), np.array(f.var()), np.array((x + dropped).var()), lam=1.0, p_drop=0.2
    )

    # the dropout's own draw: 0.25 of the branch's variance over 200,000 entries
    assert computed == pytest.approx(0.4, abs=0.01)


def test_block_has_the_mean_cosine_of_its_parts(rng: np.random.Generator):
    x, a = tensors(rng, 0.3)
    f = 0.2 * x + 0.1 * a + 0.7 * rng.standard_normal(SIZE)
    parts = [0.81 * x, 0.9 * a, f]
    pairs = [(0, 1), (0, 2), (1, 2)]
    sizes = [parts[i].std() * parts[j].std() for i, j in pairs]
    cosines = [np.corrcoef(parts[i], parts[j])[0, 1] for i, j in pairs]

    computed = block_alignment(
        np.array(x.var()),
        np.array(a.var()),
        np.array(f.var()),
        np.array(sum(parts).var()),
        lam=0.81,
        attention_lam=0.9,
        p_drop=(0.0, 0.0),
    )

    assert computed == pytest.approx(np.average(cosines, weights=sizes), abs=1e-9)


def test_branch_of_zero_has_no_direction():
    computed = alignment(np.ones(2), np.array([0.0, np.nan]), np.ones(2), lam=1.0, p_drop=0.0)

    assert np.isnan(computed).all()
