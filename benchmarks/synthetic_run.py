"""A run without training: measured values drawn around the theory's prediction.

It is declared and sent as an agent would, so that the server's side is real.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

import dslm
import wire

BATCH = 200
START = 1_760_000_000.0
Floats = NDArray[np.float64]


def spec(
    n_layers: int,
    *,
    placement: Literal["pre", "post"] = "pre",
    d_model: int = 64,
    seq_len: int = 16,
) -> dslm.ModelSpec:
    """A GPT-like decoder at its usual initialisation, fed with independent tokens."""
    linear = _linear(d_model, d_model)
    attention = dslm.Attention(
        query=linear,
        key=linear,
        value=linear,
        output=linear,
        n_heads=4,
        n_kv_heads=4,
        d_head=d_model // 4,
        causal=True,
        score_scale=(d_model / 4) ** -0.5,
    )
    feed_forward = dslm.FeedForward(
        up=_linear(d_model, 4 * d_model), down=_linear(4 * d_model, d_model), activation="gelu"
    )
    norm, residual = dslm.Norm("layernorm"), dslm.Residual()
    block = dslm.Block(placement, attention, norm, residual, feed_forward, norm, residual)
    kernel = dslm.Kernel(
        diagonal=np.full(seq_len, 1.0),
        off_diagonal=np.full((seq_len, seq_len), 0.1),
        cell_sizes=np.ones(seq_len, dtype=np.int64),
    )
    stack = dslm.Stack(d_model=d_model, blocks=(block,) * n_layers, input_kernel=kernel)
    n_params = 12 * n_layers * d_model**2
    return dslm.ModelSpec("custom", {"decoder": stack}, batch_size=16, n_params=n_params)


def encoder_decoder(n_encoder: int, n_decoder: int) -> dslm.ModelSpec:
    """Two stacks of different depth."""
    model = spec(n_decoder)
    encoder = spec(n_encoder).stacks["decoder"]
    return replace(model, stacks={"encoder": encoder, "decoder": model.stacks["decoder"]})


def with_a_hole(n_layers: int, at: int) -> dslm.ModelSpec:
    """A decoder whose block `at` the theory does not cover."""
    model = spec(n_layers)
    stack = model.stacks["decoder"]
    blocks = (*stack.blocks[:at], None, *stack.blocks[at + 1 :])
    why = dslm.Missing(f"decoder.blocks[{at}]", "mixture of experts", "no theory of its routing")
    return replace(model, stacks={"decoder": replace(stack, blocks=blocks)}, missing=(why,))


def _linear(d_in: int, d_out: int) -> dslm.Linear:
    return dslm.Linear(d_in, d_out, weight_var=0.6 / d_in)


@dataclass(frozen=True)
class SyntheticRun:
    """Layout, prediction and a stream of frames; the same seed gives the same values.

    A job that continues from a checkpoint sets `first_seq` past the frames of the one before.
    """

    name: str
    model: dslm.ModelSpec
    run_id: str
    seed: int = 0
    first_seq: int = 1

    @classmethod
    def new(cls, name: str, model: dslm.ModelSpec, *, seed: int = 0) -> SyntheticRun:
        """A run with a fresh id."""
        return cls(name, model, uuid.uuid4().hex, seed)

    @cached_property
    def curves(self) -> dict[str, tuple[dslm.Curve, dslm.Curve]]:
        """Forward and backward prediction of each stack."""
        stacks = dslm.predict(self.model).stacks
        return {name: (stack.forward, stack.backward) for name, stack in stacks.items()}

    @property
    def layout(self) -> wire.Layout:
        """The series an agent measures on such a model."""
        scalars = ("loss", "learning_rate", "gradient_norm")
        return wire.Layout(
            tuple(series for stack in self.model.stacks for series in self._depth_series(stack))
            + tuple(wire.Series("", name, "value", 1) for name in scalars)
        )

    def _depth_series(self, stack: str) -> list[wire.Series]:
        n = len(self.model.stacks[stack].blocks)
        depth = [
            ("stream", "variance", n + 1),
            ("stream", "correlation", n + 1),
            ("stream", "nonfinite", n + 1),
            ("stream_gradient", "variance", n + 1),
            ("attention", "variance", n),
            ("feed_forward", "variance", n),
            ("attention_logits", "max", n),
            ("attention_logits", "entropy", n),
        ]
        return [wire.Series(stack, *key) for key in depth]

    def declaration(self, *, project: str = "synthetic") -> wire.RunDeclaration:
        """The declaration that an agent sends first."""
        return wire.RunDeclaration(
            project=project,
            name=self.name,
            layout=self.layout,
            spec=dslm.spec_to_json(self.model),
            tags=("synthetic",),
            started_at=START,
            agent_version="0",
        )

    def frames(
        self, steps: Sequence[int], *, broken_from: int | None = None
    ) -> Iterator[wire.Frame]:
        """One frame a step; from `broken_from` on, NaN and Inf in the upper half."""
        layout_hash = self.layout.hash
        for step in steps:
            # seeded by step, so that a step sent twice has the same values
            rng = np.random.default_rng((self.seed, step))
            broken = broken_from is not None and step >= broken_from
            values = self._values(step, rng, broken=broken)
            seq = self.first_seq + step
            yield wire.Frame.pack(
                seq=seq, step=step, time=START + seq, layout=layout_hash, values=values
            )

    def _values(self, step: int, rng: np.random.Generator, *, broken: bool) -> NDArray[np.float32]:
        parts = [self._stack_values(stack, step, rng, broken=broken) for stack in self.model.stacks]
        loss = np.nan if broken else 2.4 + 3.1 * np.exp(-step / 120) + rng.normal(0, 0.03)
        scalars = [loss, 3e-4 * min(1.0, (step + 1) / 20), 1.0]
        return np.concatenate([*parts, scalars]).astype(np.float32)

    def _stack_values(
        self, stack: str, step: int, rng: np.random.Generator, *, broken: bool
    ) -> Floats:
        """The values of one stack; where nothing is predicted they scatter around 1."""
        forward, backward = self.curves[stack]
        n, drift = len(forward.variance) - 1, 1 - np.exp(-step / 300)
        depth = np.linspace(0, 1, n + 1)
        expected, top = (np.nan_to_num(curve.variance, nan=1.0) for curve in (forward, backward))
        variance = expected * np.exp(drift * depth + rng.normal(0, 0.03, n + 1))
        near = np.nan_to_num(forward.correlation, nan=0.5)
        correlation = np.clip(near + rng.normal(0, 0.01, n + 1), -1, 1)
        gradient = 1e-6 * top * np.exp(rng.normal(0, 0.05, n + 1))
        if broken:
            variance[n // 2 :], correlation[n // 2 :], gradient[:] = np.inf, np.nan, np.nan
        blocks = [0.3 * variance[1:], 0.5 * variance[1:], 2 + 3 * depth[1:], 3 - depth[1:]]
        measured = [variance, correlation, ~np.isfinite(variance), gradient]
        return np.concatenate([*measured, *blocks])


async def send(
    http: httpx.AsyncClient,
    run: SyntheticRun,
    steps: Sequence[int],
    *,
    declare: bool = True,
    broken_from: int | None = None,
    end: bool = False,
) -> None:
    """Declare the run and send its frames through the API, as an agent does."""
    base = f"/api/v1/runs/{run.run_id}"
    if declare:
        body = msgspec.json.encode(run.declaration())
        (await http.put(base, content=body)).raise_for_status()
    pending = list(run.frames(steps, broken_from=broken_from))
    for first in range(0, len(pending), BATCH):
        batch = wire.FrameBatch(
            0, run.first_seq, pending[first : first + BATCH], wire.Health(overhead=0.008)
        )
        headers = {"content-type": wire.MEDIA_TYPE}
        body = wire.encode_batch(batch)
        (await http.post(f"{base}/frames", content=body, headers=headers)).raise_for_status()
    if end:
        ended = msgspec.json.encode(wire.RunEnd("finished"))
        (await http.post(f"{base}/end", content=ended)).raise_for_status()
