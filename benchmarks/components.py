"""Component formulas against simulation, beside the errors the reference published.

Run: python -m benchmarks.components
"""

from __future__ import annotations

import itertools
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
SHAPE = (2000, 6, 200)  # many independent shared parts: covariances to 0.3 %
ZERO = 1e-12
HEAD_DRAWS = 8
DRAWS = 32  # of the weights
VARIANCES = (10**-0.5, 1.0, 10**0.5)
CORRELATIONS = (0.0, 1 / 3, 2 / 3)


def signal(rng: np.random.Generator, shape: tuple[int, ...], x: Moments | GradMoments) -> Floats:
    """Gaussian (batch, seq, features) of the given moments; tokens share a part per feature."""
    batch, _, features = shape
    shared = rng.standard_normal((batch, 1, features))
    own = rng.standard_normal(shape)
    mean = x.mean if isinstance(x, Moments) else 0.0
    return np.asarray(
        mean + np.sqrt(x.var) * (np.sqrt(x.corr_l) * shared + np.sqrt(1 - x.corr_l) * own)
    )


def measured(x: Floats, mean: float = 0.0) -> tuple[float, float, float]:
    """Mean, and variance and covariance between tokens around `mean`, of (batch, seq, features)."""
    centred, n = x - mean, x.shape[1]
    square = np.square(centred).mean()
    total = np.square(centred.sum(axis=1)).mean()
    return float(x.mean()), float(square), float((total / n - square) / (n - 1))


def compare(x: Floats, x_theory: Moments, g: Floats, g_theory: GradMoments) -> Errors:
    """Relative errors in percent; none where theory says exactly zero."""
    mean, var, cov = measured(x, x_theory.mean)
    _, g_var, g_cov = measured(g)
    pairs = {
        "x mean": (mean, x_theory.mean),
        "x var": (var, x_theory.var),
        "g var": (g_var, g_theory.var),
        "x cov": (cov, x_theory.cov_l),
        "g cov": (g_cov, g_theory.cov_l),
    }
    return {k: 100 * abs(m - p) / abs(m) for k, (m, p) in pairs.items() if abs(p) > ZERO}


def moments_grid(means: tuple[float, ...] = (0.0,)) -> Iterator[tuple[Moments, GradMoments]]:
    grid = itertools.product(SCALES, means, CORRELATIONS, CORRELATIONS)
    for scale, mean, r, r_g in grid:
        yield Moments(mean, scale**2, r), GradMoments(1.0, r_g)


def drawn(rng: np.random.Generator, x: Moments | GradMoments, features: int) -> Floats:
    """(draw, batch·seq, features): one independent batch for each draw of weights."""
    return signal(rng, (DRAWS * 8, 8, features), x).reshape(DRAWS, 64, features)


def merged(y: Floats) -> Floats:
    return y.reshape(DRAWS * 8, 8, -1)


def linear(rng: np.random.Generator) -> Iterator[Errors]:
    for x, g in moments_grid((-10.0, 0.0, 10.0)):
        for d_in, d_out in ((100, 1000), (1000, 316)):
            w = rng.standard_normal((DRAWS, d_in, d_out)) / np.sqrt(d_in)
            y = drawn(rng, x, d_in) @ w
            g_x = drawn(rng, g, d_out) @ w.transpose(0, 2, 1)
            below = theory.linear_backward(g, d_out=d_out, weight_var=1 / d_in)
            above = theory.linear(x, d_in=d_in, weight_var=1 / d_in)
            yield compare(merged(y), above, merged(g_x), below)


def dropout(rng: np.random.Generator) -> Iterator[Errors]:
    for x, g in moments_grid((-10.0, 0.0, 10.0)):
        for p in (0.1, 0.5):
            shape = SHAPE
            mask = (rng.random(shape) >= p) / (1 - p)
            y, g_x = signal(rng, shape, x) * mask, signal(rng, shape, g) * mask
            below = theory.dropout_backward(g, p_drop=p)
            yield compare(y, theory.dropout(x, p_drop=p), g_x, below)


def relu(rng: np.random.Generator) -> Iterator[Errors]:
    for x, g in moments_grid():
        u, g_y = signal(rng, SHAPE, x), signal(rng, SHAPE, g)
        below = theory.relu_backward(g, x)
        yield compare(np.maximum(u, 0), theory.relu(x), g_y * (u > 0), below)


def gelu(rng: np.random.Generator) -> Iterator[Errors]:
    for x, g in moments_grid():
        u, g_y = signal(rng, SHAPE, x), signal(rng, SHAPE, g)
        phi = normal_distribution(u)
        slope = phi + u * np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
        yield compare(u * phi, theory.gelu(x), g_y * slope, theory.gelu_backward(g, x))


def normal_distribution(u: Floats) -> Floats:
    """Φ(u), interpolated on a fine grid; within 1e-6."""
    grid = np.linspace(-8.0, 8.0, 4001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    steps = (density[1:] + density[:-1]) / 2 * (grid[1] - grid[0])
    return np.asarray(np.interp(u, grid, np.concatenate([[0.0], np.cumsum(steps)])))


def layer_norm(rng: np.random.Generator) -> Iterator[Errors]:
    for x, g in moments_grid():
        for d in (100, 1000):
            u, h = signal(rng, (400, 8, d), x), signal(rng, (400, 8, d), g)
            centred = u - u.mean(axis=-1, keepdims=True)
            s = centred.std(axis=-1, keepdims=True)
            y = centred / s
            removed = h.mean(axis=-1, keepdims=True) + y * (h * y).mean(axis=-1, keepdims=True)
            below = theory.layer_norm_backward(g, x, d_model=d)
            yield compare(y, theory.layer_norm(x, d_model=d), (h - removed) / s, below)


def softmax(rng: np.random.Generator) -> Iterator[Errors]:
    g = GradMoments(1.0, 0.0)
    for std, n, r in itertools.product((0.01, 0.1, 0.3, 1.0), (300, 1000, 3000), CORRELATIONS):
        x = Moments(0.0, std**2, r)
        rows = 1_500_000 // n
        shared = rng.standard_normal((rows, 1))
        logits = std * (np.sqrt(r) * shared + np.sqrt(1 - r) * rng.standard_normal((rows, n)))
        a = softmax_rows(logits)
        h = rng.standard_normal((rows, n))
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
    grid = itertools.product(VARIANCES, CORRELATIONS, CORRELATIONS, (0.1, 0.6), (0.0, 1 / 3))
    for var, r, r_g, query_std, p in grid:
        x, g = Moments(0.0, var, r), GradMoments(1.0, r_g)
        d, d_key, n = 300, 64, 300
        head = Head(n, d, d_key, d, query_std**2 / d, query_std**2 / d, 1 / d, p)
        heads = [
            one_head(rng, head, signal(rng, (1, n, d), x), signal(rng, (1, n, d), g))
            for _ in range(HEAD_DRAWS)
        ]
        y, g_x = (np.concatenate(parts) for parts in zip(*heads, strict=True))
        below = theory.attention_backward(g, x, head)
        yield compare(y, theory.attention(x, head), g_x, below)


def one_head(rng: np.random.Generator, head: Head, x: Floats, g: Floats) -> tuple[Floats, Floats]:
    """One draw of a head: its output and the gradient of its input."""
    d, scale = head.d_model, head.d_key**-0.5
    w_q = rng.standard_normal((d, head.d_key)) * np.sqrt(head.query_var)
    w_k = rng.standard_normal((d, head.d_key)) * np.sqrt(head.key_var)
    w_v = rng.standard_normal((d, head.d_value)) * np.sqrt(head.value_var)
    q, k, v = x @ w_q, x @ w_k, x @ w_v
    a = softmax_rows(q @ k.transpose(0, 2, 1) * scale)
    mask = (rng.random(a.shape) >= head.p_drop) / (1 - head.p_drop)
    e = (g @ v.transpose(0, 2, 1)) * mask
    s = a * (e - (a * e).sum(axis=-1, keepdims=True)) * scale
    through_values = (a * mask).transpose(0, 2, 1) @ g @ w_v.T
    return (a * mask) @ v, through_values + s @ k @ w_q.T + s.transpose(0, 2, 1) @ q @ w_k.T


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
    for name, simulate in COMPONENTS.items():
        errors = list(simulate(np.random.default_rng(0)))
        ours = [percentiles(errors, column) for column in COLUMNS]
        print(f"{name:<12}{'ours':<11}" + "".join(f"{cell:>16}" for cell in ours))
        published = "".join(f"{cell:>16}" for cell in REFERENCE[name])
        print(f"{f'({len(errors)})':<12}{'reference':<11}{published}", flush=True)


if __name__ == "__main__":
    main()
