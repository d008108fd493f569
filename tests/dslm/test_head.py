"""The head and the loss: cross-entropy's gradient by simulation, limits, whole heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dslm
import dslm.components as theory
from dslm import AssumptionError, Head, HeadLayer, Linear, Norm, SpecError, Stack
from dslm.components import Moments
from tests.dslm.specs import kernel, predict, stack

Floats = np.ndarray[Any, np.dtype[np.float64]]
SEQ, D, V = 6, 64, 200


def head(d: int = D, *, std: float = 0.1, **how: Any) -> Head:
    labels = dslm.next_token_labels(how.pop("seq_len", SEQ), 4, V)
    layers = how.pop("layers", (HeadLayer(norm=Norm("layernorm")),))
    return Head(layers, Linear(d, V, std**2), labels, **how)


def headed(lm_head: Head, var: float = 0.5, corr: float = 0.4) -> Stack:
    return replace(stack(0, SEQ, D), input_kernel=kernel(SEQ, var, corr), head=lm_head)


def softmax(z: Floats) -> Floats:
    e = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def one_hot(y: Floats) -> Floats:
    return np.asarray(np.eye(V)[y])


@pytest.mark.parametrize("var", [0.05, 1.0, 6.0])
def test_cross_entropy_and_its_gradient_match_simulation(
    var: float, rng: np.random.Generator
) -> None:
    n, corr = 10_000, 0.5
    shared, single = rng.standard_normal((n, 1, V)), rng.standard_normal((n, 2, V))
    z = np.sqrt(var) * (np.sqrt(corr) * shared + np.sqrt(1 - corr) * single)
    first = rng.integers(V, size=n)
    y = np.stack([first, np.where(rng.random(n) < 0.3, first, rng.integers(V, size=n))], 1)
    p = softmax(z)
    delta = (p - one_hot(y)) / 7

    logits = Moments(0.0, var, corr)
    same = 0.3 + 0.7 / V
    g = theory.cross_entropy_backward(logits, n_classes=V, n_labels=7, same_label=same)
    loss = theory.cross_entropy(logits, n_classes=V)

    measured = -np.log(np.take_along_axis(p, y[..., None], -1)).mean()
    assert loss == pytest.approx(measured, abs=4 * np.sqrt(var / n / 2) + 1e-4)
    assert g.var == pytest.approx(np.square(delta).mean(), rel=0.01)
    # 10,000 coincidences of a third leave 0.005; D' itself is within 5 %
    assert g.corr_l == pytest.approx((delta[:, 0] * delta[:, 1]).mean() / g.var, abs=0.02)


def test_cross_entropy_of_cold_logits_is_that_of_uniform_guesses() -> None:
    logits = Moments(0.0, 1e-12, 0.3)
    g = theory.cross_entropy_backward(logits, n_classes=V, n_labels=1, same_label=1 / V)

    assert theory.cross_entropy(logits, n_classes=V) == pytest.approx(np.log(V), abs=1e-4)
    assert g.var == pytest.approx((1 - 1 / V) / V)
    assert g.corr_l == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 50), st.floats(0, 1), st.integers(2, 10**6), st.floats(0, 1))
def test_cross_entropy_gradient_is_bounded(var: float, corr: float, n: int, same: float) -> None:
    logits = Moments(0.0, var, corr)
    g = theory.cross_entropy_backward(logits, n_classes=n, n_labels=3, same_label=same)

    assert 0 <= g.var * n * 9 <= 2
    assert -1 <= g.corr_l <= 1
    assert theory.cross_entropy(logits, n_classes=n) >= np.log(n) - 1e-3


@pytest.mark.parametrize(
    "how", [{"n_classes": 1}, {"n_labels": 0}, {"same_label": 1.5}, {"mean": 0.1}]
)
def test_cross_entropy_refuses_what_it_does_not_cover(how: dict[str, Any]) -> None:
    arguments = {"n_classes": V, "n_labels": 2, "same_label": 0.1} | how
    logits = Moments(arguments.pop("mean", 0.0), 1.0, 0.2)
    with pytest.raises(AssumptionError):
        theory.cross_entropy_backward(logits, **arguments)


def simulated_top(
    lm_head: Head, rng: np.random.Generator, draws: int, var: float, corr: float
) -> Any:
    """Gradients (draws, SEQ, D) at the input of LayerNorm and head, fresh weights each draw.

    Labels as `next_token_labels` has them; with `tied` the ids' rows are in the stream.
    """
    odds = 1 / np.arange(1, V + 1)
    gradients = np.zeros((draws, SEQ, D))
    for draw in range(draws):
        w = rng.standard_normal((V, D)) * np.sqrt(lm_head.output.weight_var)
        ids = rng.choice(V, SEQ + 1, p=odds / odds.sum())
        x = np.sqrt(corr * var) * rng.standard_normal(D)
        x = x + np.sqrt((1 - corr) * var) * rng.standard_normal((SEQ, D))
        x = x + lm_head.tied * w[ids[:-1]]
        centred = x - x.mean(-1, keepdims=True)
        s = np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
        h = centred / s if lm_head.layers else x
        raw = lm_head.scale * h @ w.T
        cap = lm_head.soft_cap
        z = raw if cap is None else cap * np.tanh(raw / cap)
        delta = (softmax(z) - one_hot(ids[1:])) * lm_head.labels.weight
        delta[-1] = 0  # its label is ignored
        slope = 1.0 if cap is None else 1 - np.square(z / cap)
        g = lm_head.scale * (delta * slope) @ w
        if lm_head.layers:
            g = (g - g.mean(-1, keepdims=True) - h * (g * h).mean(-1, keepdims=True)) / s
        gradients[draw] = g
    return gradients


def moments(g: Floats) -> tuple[float, float]:
    pairs = np.square(g.sum(1)).sum(-1) - np.square(g).sum((1, 2))
    var = float(np.square(g).mean())
    return var, float(pairs.mean() / (g.shape[1] * (g.shape[1] - 1) * g.shape[2]) / var)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"std": 0.25},  # hot logits
        {"scale": 0.5},
        {"soft_cap": 2.0, "std": 0.25},
        {"layers": ()},  # no norm: the softmax's lean on the stream stays
        {"tied": 1.0},
        {"tied": 8.0},  # its own id is what a token's logits point at
    ],
    ids=str,
)
def test_top_gradient_matches_simulation(how: dict[str, Any], rng: np.random.Generator) -> None:
    lm_head, var, corr = head(**how), 0.5, 0.4
    g = simulated_top(lm_head, rng, 1000, var, corr)
    in_stream = lm_head.tied**2 * lm_head.output.weight_var
    same = dslm.same_token_probability(V)
    off = corr * var + in_stream * same
    shown = headed(lm_head, var + in_stream, off / (var + in_stream))
    p = predict(shown)

    measured = moments(g)
    # 1,000 draws leave 1 % of scatter; a row of 64 normals makes E[1/s²] uncertain by 1/64
    assert p.gradient_scale == pytest.approx(measured[0], rel=0.05)
    assert p.backward.correlation[-1] == pytest.approx(measured[1], abs=0.015)


def test_gradient_scale_falls_with_the_square_of_the_labels() -> None:
    lm_head = head()
    half = replace(lm_head, labels=replace(lm_head.labels, weight=lm_head.labels.weight / 2))
    a, b = predict(headed(lm_head)), predict(headed(half))

    assert b.gradient_scale == pytest.approx(a.gradient_scale / 4)
    np.testing.assert_allclose(a.backward.variance, b.backward.variance)


def test_gradient_scale_grows_with_the_inverse_of_the_stream_below_a_norm() -> None:
    lm_head = head()
    a, b = predict(headed(lm_head, 0.5)), predict(headed(lm_head, 50.0))
    assert a.gradient_scale / b.gradient_scale == pytest.approx(100, rel=1e-3)


def test_tokens_without_labels_get_no_gradient() -> None:
    deep = replace(stack(2, SEQ, D), head=head())
    g = dslm.kernels.head.head_pass(deep, dslm.kernels.stack.stack_forward(deep))
    assert g is not None
    assert g.gradient.diagonal[-1] == 0
    assert (g.gradient.diagonal[:-1] > 0).all()


def test_absolute_curve_is_the_relative_one_times_its_scale() -> None:
    p = predict(replace(stack(3, SEQ, D), head=head()))

    np.testing.assert_allclose(p.gradient_variance, p.backward.variance * p.gradient_scale)
    assert p.gradient_variance[-1] == p.gradient_scale > 0
    assert p.loss == pytest.approx(np.log(V), abs=0.5)


def test_without_a_head_the_scale_is_not_a_number() -> None:
    p = predict(stack(2))
    assert np.isnan(p.gradient_scale)
    assert np.isnan(p.gradient_variance).all()


def test_labels_of_a_masked_model_are_as_rare_as_asked() -> None:
    labels = dslm.masked_labels(SEQ, 8, V, share=0.25)
    assert labels.counted.diagonal == pytest.approx(0.25)
    assert labels.counted.off_diagonal == pytest.approx(0.0625)
    assert labels.weight == pytest.approx(1 / (8 * SEQ * 0.25))


def test_head_survives_json() -> None:
    spec = dslm.ModelSpec("custom", {"decoder": headed(head(soft_cap=3.0, tied=1.0))})
    back = dslm.spec_from_json(dslm.spec_to_json(spec))
    a, b = dslm.predict(spec), dslm.predict(back)
    assert b.stacks["decoder"].gradient_scale == pytest.approx(
        a.stacks["decoder"].gradient_scale, rel=1e-5
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"output": Linear(D + 1, V, 0.1)}, "output.d_in"),
        ({"output": Linear(D, 1, 0.1)}, "output.d_out"),
        ({"soft_cap": -1.0}, "soft_cap"),
        ({"scale": np.inf}, "scale"),
        ({"layers": (HeadLayer(p_drop=1.0),)}, "layers[0].p_drop"),
        ({"labels": dslm.next_token_labels(SEQ + 1, 4, V)}, "labels.counted.cell_sizes"),
        ({"labels": replace(dslm.next_token_labels(SEQ, 4, V), weight=0.0)}, "labels.weight"),
    ],
)
def test_impossible_head_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError, match=r"head\." + field.replace("[", r"\[")):
        predict(headed(replace(head(), **change)))


@pytest.mark.parametrize("make", [dslm.next_token_labels, dslm.masked_labels])
def test_labels_of_no_sequence_are_refused(make: Any) -> None:
    with pytest.raises(SpecError, match="batch_size"):
        make(8, 0, V)
