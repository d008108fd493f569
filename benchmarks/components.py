"""Component formulas against simulation, beside the errors the reference published.

Each row draws Gaussian signals and weights and runs the component itself. Two means keep the
simulation's own noise below the reference's errors: base normals with the sample moments of a
normal (`standard`), mirrored for gradients, and for attention the known moments of the same draw
with uniform weights as a control variate (`one_head`). Settings of one component share their base
normals.

Run: python -m benchmarks.components [component ...]
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

import dslm.components as theory
from dslm.components import GradMoments, Head, Moments

Floats = NDArray[np.float64]
Errors = dict[str, float]

COLUMNS = ("x mean", "x var", "g var", "x cov", "g cov")
REFERENCE = {
    "linear": ("0/0.4/1.3", "0.4/1.4/2.8", "0.2/1.0/2.2", "0.4/1.4/2.8", "0.2/1.0/2.2"),
    "relu": ("0.3/1.3/2.3", "0.5/1.9/3.4", "0.6/1.5/2.6", "0.3/1.6/3.1", "0.2/1.1/2.3"),
    "gelu": ("0.1/1.0/2.4", "0.2/0.6/1.3", "0.2/0.6/1.1", "0.1/0.5/1.2", "0.1/0.4/0.9"),
    "layer_norm": ("0/0/0", "0/0/0", "0.4/1.5/3.2", "0.1/0.5/1.0", "0.2/0.9/2.2"),
    "dropout": ("0/0.1/0.5", "0.1/0.5/1.5", "0.1/0.7/1.5", "0/0.4/1.3", "0.1/0.5/1.2"),
    "softmax": ("0/0/0", "0.2/0.9/4.0", "0.1/0.6/4.5", "-", "-"),
    "attention": ("0.2/1.0/2.5", "1.4/4.1/7.8", "2.2/13.3/44.5", "1.3/3.9/7.4", "1.6/4.5/8.2"),
}
SCALES = (10**-0.5, 1.0, 10**0.5)
VARIANCES = (10**-0.5, 1.0, 10**0.5)
MEANS = (-10.0, 0.0, 10.0)
CORRELATIONS = (0.0, 1 / 3, 2 / 3)
FINE_SCALES = tuple(np.logspace(-0.5, 0.5, 21))
FINE_CORRELATIONS = (0.0, 0.2, 0.4, 0.6, 0.8)
DROPS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
WIDTHS = ((100, 316), (100, 1000), (316, 100), (316, 316), (316, 1000), (1000, 100), (1000, 316))
ZERO = 1e-12
PAIRS = 500_000  # of tokens, for what acts on each entry
FEATURES = 250_000  # draws of the weights times the narrower width
HEAD_DRAWS = 6


def standard(rng: np.random.Generator, n: int) -> Floats:
    """(3, n) normals whose sample means are 0, variances 1 and covariances 0.

    The part that two tokens share, then their own parts.
    """
    z = rng.standard_normal((3, n))
    z -= z.mean(axis=1, keepdims=True)
    return np.asarray(np.linalg.solve(np.linalg.cholesky(z @ z.T / n), z))


def mirrored(base: Floats) -> Floats:
    """(3, 4, n): with every sign of the two own parts, whose products then cancel."""
    signs = np.array([(1, a, b) for a in (1, -1) for b in (1, -1)]).T
    return np.asarray(signs[:, :, None] * base[:, None])


def pair(base: Floats, x: Moments | GradMoments) -> Floats:
    """Two tokens of the given moments from (3, ...) base normals: (2, ...)."""
    mean = x.mean if isinstance(x, Moments) else 0.0
    mixed = np.sqrt(x.corr_l) * base[:1] + np.sqrt(1 - x.corr_l) * base[1:]
    return np.asarray(mean + np.sqrt(x.var) * mixed)


def measured(x: Floats, mean: float = 0.0) -> Floats:
    """Mean, and variance and covariance between tokens around `mean`, of (tokens, ...)."""
    centred, n = x - mean, x.shape[0]
    square = np.square(centred).mean()
    total = np.square(centred.sum(axis=0)).mean()
    return np.array([x.mean(), square, (total / n - square) / (n - 1)])


def compare(x: Floats, x_theory: Moments, g: Floats, g_theory: GradMoments) -> Errors:
    """Relative errors in percent of measured moments; none where theory says exactly zero."""
    pairs = {
        "x mean": (x[0], x_theory.mean),
        "x var": (x[1], x_theory.var),
        "g var": (g[1], g_theory.var),
        "x cov": (x[2], x_theory.cov_l),
        "g cov": (g[2], g_theory.cov_l),
    }
    return {k: 100 * abs(m - p) / abs(m) for k, (m, p) in pairs.items() if abs(p) > ZERO}


def moments_grid(means: tuple[float, ...] = (0.0,)) -> Iterator[tuple[Moments, GradMoments]]:
    grid = itertools.product(SCALES, means, CORRELATIONS, CORRELATIONS)
    for scale, mean, r, r_g in grid:
        yield Moments(mean, scale**2, r), GradMoments(1.0, r_g)


def linear(rng: np.random.Generator) -> Iterator[Errors]:
    """A dense layer maps the parts of its input one by one: each setting only mixes them."""
    for d_in, d_out in WIDTHS:
        forward, constant, backward = mapped_parts(rng, d_in, d_out)
        for x, g in moments_grid(MEANS):
            y = pair(forward, Moments(0.0, x.var, x.corr_l)) + x.mean * constant
            below = theory.linear_backward(g, d_out=d_out, weight_var=1 / d_in)
            above = theory.linear(x, d_in=d_in, weight_var=1 / d_in)
            yield compare(measured(y), above, measured(pair(backward, g)), below)


def mapped_parts(rng: np.random.Generator, d_in: int, d_out: int) -> tuple[Floats, Floats, Floats]:
    """For fresh weights in each draw: W of three random parts, W of ones, Wᵀ of three parts."""
    found: list[list[Floats]] = [[], [], []]
    for _ in range(FEATURES // min(d_in, d_out)):
        w = rng.standard_normal((d_in, d_out), dtype=np.float32) / np.float32(np.sqrt(d_in))
        parts = rng.standard_normal((3, d_in), dtype=np.float32)
        found[0].append(parts @ w)
        found[1].append(w.sum(axis=0, keepdims=True))
        found[2].append(rng.standard_normal((3, d_out), dtype=np.float32) @ w.T)
    forward, constant, backward = (np.stack(f, axis=1).astype(np.float64) for f in found)
    return forward, constant, backward


def dropout(rng: np.random.Generator) -> Iterator[Errors]:
    """Each pair of tokens meets all four outcomes of its two masks, weighted by their chance.

    Drawn masks would hide a covariance of 0.1 behind the scatter of a mean of 10.
    """
    u, h = standard(rng, PAIRS // 2), standard(rng, PAIRS // 2)
    for p in DROPS:
        for x, g in moments_grid(MEANS):
            above, below = theory.dropout(x, p_drop=p), theory.dropout_backward(g, p_drop=p)
            y = over_masks(pair(u, x), p, above.mean)
            yield compare(y, above, over_masks(pair(h, g), p, 0.0), below)


def over_masks(x: Floats, p: float, mean: float) -> Floats:
    """What `measured` gives for (2, n) tokens after dropout, averaged over its two masks."""
    outcomes = itertools.product(((0.0, p), (1 / (1 - p), 1 - p)), repeat=2)
    found = [
        first_chance * second_chance * measured(x * np.array([[first], [second]]), mean)
        for (first, first_chance), (second, second_chance) in outcomes
    ]
    return np.asarray(np.sum(found, axis=0))


def relu(rng: np.random.Generator) -> Iterator[Errors]:
    def value_and_slope(u: Floats) -> tuple[Floats, Floats]:
        return np.maximum(u, 0), (u > 0).astype(np.float64)

    yield from pointwise(rng, value_and_slope, theory.relu, theory.relu_backward)


def gelu(rng: np.random.Generator) -> Iterator[Errors]:
    def value_and_slope(u: Floats) -> tuple[Floats, Floats]:
        phi = normal_distribution(u)
        return u * phi, phi + u * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)

    yield from pointwise(rng, value_and_slope, theory.gelu, theory.gelu_backward)


def pointwise(
    rng: np.random.Generator,
    function: Callable[[Floats], tuple[Floats, Floats]],
    forward: Callable[[Moments], Moments],
    backward: Callable[[GradMoments, Moments], GradMoments],
) -> Iterator[Errors]:
    u, h = standard(rng, PAIRS)[:, None], mirrored(standard(rng, PAIRS))
    for scale, r in itertools.product(FINE_SCALES, FINE_CORRELATIONS):
        x = Moments(0.0, scale**2, r)
        above, (y, slope) = forward(x), function(pair(u, x))
        seen = measured(y, above.mean)
        for r_g in FINE_CORRELATIONS:
            g = GradMoments(1.0, r_g)
            yield compare(seen, above, measured(pair(h, g) * slope), backward(g, x))


def normal_distribution(u: Floats) -> Floats:
    """Φ(u), interpolated on a fine grid; within 1e-6."""
    grid = np.linspace(-8.0, 8.0, 4001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    steps = (density[1:] + density[:-1]) / 2 * (grid[1] - grid[0])
    return np.asarray(np.interp(u, grid, np.concatenate([[0.0], np.cumsum(steps)])))


def layer_norm(rng: np.random.Generator) -> Iterator[Errors]:
    for d in (100, 316, 1000):
        shape = (3, PAIRS // 3 // d, d)
        base, base_g = (standard(rng, shape[1] * d).reshape(shape) for _ in range(2))
        for scale, r in itertools.product(SCALES, np.arange(0, 1, 0.125)):
            x = Moments(0.0, scale**2, float(r))
            u = pair(base, x)
            centred = u - u.mean(axis=-1, keepdims=True)
            s = centred.std(axis=-1, keepdims=True)
            y = centred / s
            above, seen = theory.layer_norm(x, d_model=d), measured(y)
            for r_g in np.arange(0, 1, 0.125):
                g = GradMoments(1.0, float(r_g))
                h = pair(base_g, g)
                removed = h.mean(axis=-1, keepdims=True) + y * (h * y).mean(axis=-1, keepdims=True)
                below = theory.layer_norm_backward(g, x, d_model=d)
                yield compare(seen, above, measured((h - removed) / s), below)


def softmax(rng: np.random.Generator) -> Iterator[Errors]:
    g = GradMoments(1.0, 0.0)
    for n in (300, 1000, 3000, 10_000):
        rows = 600_000 // n
        shared, own, h = (rng.standard_normal((rows, m)) for m in (1, n, n))
        for std, r in itertools.product(np.logspace(-2, 0, 16), np.arange(0, 1, 0.125)):
            x = Moments(0.0, float(std**2), float(r))
            a = softmax_rows(std * (np.sqrt(r) * shared + np.sqrt(1 - r) * own))
            g_z = a * (h - (a * h).sum(axis=-1, keepdims=True))
            a_theory, below = theory.softmax(x, seq_len=n), theory.softmax_backward(g, x, seq_len=n)
            pairs = {
                "x mean": (a.mean(), a_theory.mean),
                "x var": (a.var(), a_theory.var),
                "g var": (g_z.var(), below.var),
            }
            yield {k: 100 * abs(m - p) / abs(m) for k, (m, p) in pairs.items()}


def softmax_rows(z: Floats) -> Floats:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def attention(rng: np.random.Generator) -> Iterator[Errors]:
    grid = itertools.product(
        VARIANCES, CORRELATIONS, CORRELATIONS, (0.1, 0.35, 0.6), (0.0, 1 / 3, 2 / 3), (32, 64, 128)
    )
    for var, r, r_g, query_std, p, d_key in grid:
        x, g = Moments(0.0, var, r), GradMoments(1.0, r_g)
        d, n = 100, 300
        head = Head(n, d, d_key, d, query_std**2 / d, query_std**2 / d, 1 / d, p)
        cold = Head(n, d, d_key, d, 0.0, 0.0, 1 / d, p)
        known = theory.attention(x, cold), theory.attention_backward(g, x, cold)
        draws = np.mean([one_head(rng, head, x, g) for _ in range(HEAD_DRAWS)], axis=0)
        y, g_x = (draws[i] + np.array([0.0, known[i].var, known[i].cov_l]) for i in range(2))
        below = theory.attention_backward(g, x, head)
        yield compare(y, theory.attention(x, head), g_x, below)


def tokens(rng: np.random.Generator, x: Moments | GradMoments, n: int, d: int) -> Floats:
    """(n, d) Gaussian tokens that share a part."""
    shared, own = (rng.standard_normal((m, d), dtype=np.float32) for m in (1, n))
    return np.asarray(np.sqrt(x.var) * (np.sqrt(x.corr_l) * shared + np.sqrt(1 - x.corr_l) * own))


def one_head(rng: np.random.Generator, head: Head, x: Moments, g: GradMoments) -> Floats:
    """Moments of one draw's output and input gradient, less those with uniform weights."""
    n, d, scale = head.seq_len, head.d_model, np.float32(head.d_key**-0.5)
    u, h = tokens(rng, x, n, d).astype(np.float32), tokens(rng, g, n, d).astype(np.float32)
    sizes = ((head.d_key, head.query_var), (head.d_key, head.key_var), (d, head.value_var))
    w_q, w_k, w_v = (
        rng.standard_normal((d, m), dtype=np.float32) * np.float32(np.sqrt(v)) for m, v in sizes
    )
    q, k, v = u @ w_q, u @ w_k, u @ w_v
    a = softmax_rows(q @ k.T * scale)
    mask = (rng.random(a.shape, dtype=np.float32) >= head.p_drop) / np.float32(1 - head.p_drop)
    e = (h @ v.T) * mask
    s = a * (e - (a * e).sum(axis=-1, keepdims=True)) * scale
    through_scores = s @ k @ w_q.T + s.T @ q @ w_k.T
    kept = a * mask
    y, y_cold = kept @ v, mask @ v / n
    g_x, g_cold = kept.T @ h @ w_v.T + through_scores, mask.T @ h @ w_v.T / n
    pairs = ((y, y_cold), (g_x, g_cold))
    return np.array([measured(hot.astype(np.float64)) - measured(cold) for hot, cold in pairs])


COMPONENTS: dict[str, Callable[[np.random.Generator], Iterator[Errors]]] = {
    "linear": linear,
    "relu": relu,
    "gelu": gelu,
    "layer_norm": layer_norm,
    "dropout": dropout,
    "softmax": softmax,
    "attention": attention,
}


def percentiles(errors: list[Errors], column: str) -> str:
    found = [e[column] for e in errors if column in e]
    if not found:
        return "0/0/0" if column == "x mean" else "-"
    return "/".join(f"{value:.1f}" for value in np.percentile(found, (50, 90, 99)))


def main() -> None:
    print("50th/90th/99th percentile of |measured - predicted| / |measured|, in percent")
    print(f"{'component':<12}{'':<11}" + "".join(f"{column:>16}" for column in COLUMNS))
    chosen = {n: f for n, f in COMPONENTS.items() if not sys.argv[1:] or n in sys.argv[1:]}
    for name, simulate in chosen.items():
        errors = list(simulate(np.random.default_rng(0)))
        ours = [percentiles(errors, column) for column in COLUMNS]
        print(f"{name:<12}{'ours':<11}" + "".join(f"{cell:>16}" for cell in ours))
        published = "".join(f"{cell:>16}" for cell in REFERENCE[name])
        print(f"{f'({len(errors)})':<12}{'reference':<11}{published}", flush=True)


if __name__ == "__main__":
    main()
