"""Specs of whole models from their sizes, without torch: what `describe` finds in real ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import dslm
from dslm import Attention, Block, FeedForward, Kernel, Linear, ModelSpec, Norm, Residual, Stack
from dslm.spec import Floats

WIDTH, D_HEAD, BATCH = 768, 64, 8
TOKEN_VAR, POSITION_VAR = 4e-4, 1e-4  # embeddings of std 0.02 and 0.01
VOCABULARY = 50_257

BlockOf = Callable[[float, int | None], Block]


def gpt2(std: float = 0.02, window: int | None = None) -> Block:
    """Pre-LN, causal, dropout 0.1."""
    return _plain(std, window, causal=True)


def bert(std: float = 0.02, window: int | None = None) -> Block:
    """Post-LN, every token sees all, dropout 0.1."""
    return _plain(std, window, causal=False)


def llama(std: float = 0.02, window: int | None = None) -> Block:
    """RMSNorm, rotary embeddings, grouped keys and values, a gate."""
    heads, narrow, hidden = WIDTH // D_HEAD, WIDTH // 4, 2048
    attention = Attention(
        query=_linear(WIDTH, WIDTH, std),
        key=_linear(WIDTH, narrow, std),
        value=_linear(WIDTH, narrow, std),
        output=_linear(WIDTH, WIDTH, std),
        n_heads=heads,
        n_kv_heads=heads // 4,
        d_head=D_HEAD,
        causal=True,
        score_scale=D_HEAD**-0.5,
        rotary=dslm.Rotary(),
        window=window,
    )
    up, down = _linear(WIDTH, hidden, std), _linear(hidden, WIDTH, std)
    feed_forward = FeedForward(up, down, "silu", gate=up)
    norm, residual = Norm("rmsnorm"), Residual()
    return Block("pre", attention, norm, residual, feed_forward, norm, residual)


def _plain(std: float, window: int | None, *, causal: bool) -> Block:
    square = _linear(WIDTH, WIDTH, std)
    attention = Attention(
        *(square,) * 4,
        n_heads=WIDTH // D_HEAD,
        n_kv_heads=WIDTH // D_HEAD,
        d_head=D_HEAD,
        causal=causal,
        score_scale=D_HEAD**-0.5,
        p_drop=0.1,
        window=window,
    )
    up, down = _linear(WIDTH, 4 * WIDTH, std), _linear(4 * WIDTH, WIDTH, std)
    feed_forward = FeedForward(up, down, "gelu_tanh" if causal else "gelu")
    norm, residual = Norm("layernorm"), Residual(p_drop=0.1)
    how = "pre" if causal else "post"
    return Block(how, attention, norm, residual, feed_forward, norm, residual)  # type: ignore[arg-type]


def _linear(d_in: int, d_out: int, std: float) -> Linear:
    return Linear(d_in, d_out, std**2)


def spec_of(
    block: Block, n_layers: int, kernel: Kernel, top_gradient: Kernel | None = None
) -> ModelSpec:
    """A stack of equal blocks."""
    stack = Stack(WIDTH, (block,) * n_layers, kernel, top_gradient)
    return ModelSpec("custom", {"stack": stack}, batch_size=BATCH)


def expected_kernel(seq_len: int, *, causal: bool) -> Kernel:
    """The kernel of Zipf-distributed ids in expectation, on the cells an agent would measure."""
    sizes = dslm.cell_sizes(seq_len, causal=causal)
    alike = dslm.same_token_probability(VOCABULARY) * TOKEN_VAR
    diagonal = np.full(len(sizes), TOKEN_VAR + POSITION_VAR)
    return Kernel(diagonal, np.full((len(sizes),) * 2, alike), sizes)


def drawn_kernel(seq_len: int, seed: int = 0) -> Kernel:
    """The kernel of one batch of Zipf-distributed ids, token by token."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, VOCABULARY + 1)
    ids = rng.choice(VOCABULARY, size=(BATCH, seq_len), p=weights / weights.sum())
    same = (ids[:, :, None] == ids[:, None, :]).mean(0) * TOKEN_VAR
    return _scattered(same + POSITION_VAR * np.eye(seq_len), TOKEN_VAR, rng)


def drawn_gradient(seq_len: int, seed: int = 1) -> Kernel:
    """The kernel of a batch's gradient: tokens nearly independent."""
    matrix = np.full((seq_len, seq_len), 0.02)
    np.fill_diagonal(matrix, 1.0)
    return _scattered(matrix, 1.0, np.random.default_rng(seed))


def _scattered(matrix: Floats, scale: float, rng: np.random.Generator) -> Kernel:
    """Between any two tokens, the scatter that inner products of `WIDTH` features have."""
    n = len(matrix)
    noise = rng.standard_normal((n, n)) * scale / np.sqrt(WIDTH * BATCH)
    noise = (noise + noise.T) / np.sqrt(2)
    np.fill_diagonal(noise, 0.0)
    matrix = matrix + noise
    return Kernel(np.diagonal(matrix).copy(), matrix, np.ones(n, dtype=np.int64))
