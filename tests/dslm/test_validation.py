"""Impossible specs: each is refused by an error that names the field and the fix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dslm
from dslm import Block, CrossAttention, Kernel, Linear, ModelSpec, Norm, Rotary, SpecError
from tests.dslm.specs import kernel, spec_of, stack

AT = "stacks.decoder"
BLOCK = f"{AT}.blocks[0]"
NAN, INF = float("nan"), float("inf")


def changed(part: Any, path: str, value: Any) -> Any:
    """A copy of nested dataclasses with one field, `a.b.c`, replaced."""
    first, _, deeper = path.partition(".")
    return replace(
        part, **{first: changed(getattr(part, first), deeper, value) if deeper else value}
    )


def with_block(path: str, value: Any, **how: Any) -> ModelSpec:
    decoder = stack(1, 6, 16, **how)
    return spec_of(replace(decoder, blocks=(changed(decoder.blocks[0], path, value),)))


IN_BLOCK: list[tuple[str, Any, str]] = [  # field changed, its value, field named
    ("placement", "middle", "placement"),
    ("attention.n_heads", 0, "attention.n_heads"),
    ("attention.n_kv_heads", 0, "attention.n_kv_heads"),
    ("attention.n_kv_heads", 3, "attention.n_kv_heads"),
    ("attention.d_head", 0, "attention.d_head"),
    ("attention.n_heads", 8, "attention.query.d_out"),
    ("attention.query.d_in", 17, "attention.query.d_in"),
    ("attention.query.d_in", 0, "attention.query.d_in"),
    ("attention.query.d_out", 0, "attention.query.d_out"),
    ("attention.key.d_out", 12, "attention.key.d_out"),
    ("attention.value.weight_var", -1.0, "attention.value.weight_var"),
    ("attention.value.bias_var", -1.0, "attention.value.bias_var"),
    ("attention.output.d_out", 15, "attention.output.d_out"),
    ("attention.score_scale", INF, "attention.score_scale"),
    ("attention.score_scale", NAN, "attention.score_scale"),
    ("attention.p_drop", 1.0, "attention.p_drop"),
    ("attention.p_drop", NAN, "attention.p_drop"),
    ("attention.soft_cap", 0.0, "attention.soft_cap"),
    ("attention.window", 0, "attention.window"),
    ("attention.rotary", Rotary(theta=0.0), "attention.rotary.theta"),
    ("attention.rotary", Rotary(fraction=1.5), "attention.rotary.fraction"),
    ("attention.query_norm", Norm("rmsnorm", eps=-1.0), "attention.query_norm.eps"),
    ("attention.key_norm", Norm("rmsnorm", gain_var=-1.0), "attention.key_norm.gain_var"),
    ("attention_norm", Norm("batchnorm"), "attention_norm.kind"),  # type: ignore[arg-type]
    ("attention_norm.gain_var", -1.0, "attention_norm.gain_var"),
    ("feed_forward_norm", None, "feed_forward_norm"),
    ("feed_forward_norm.bias_var", -1.0, "feed_forward_norm.bias_var"),
    ("attention_residual.lam", INF, "attention_residual.lam"),
    ("attention_residual.beta", NAN, "attention_residual.beta"),
    ("feed_forward_residual.p_drop", 1.0, "feed_forward_residual.p_drop"),
    ("feed_forward_residual.p_drop", -0.1, "feed_forward_residual.p_drop"),
    ("attention_out_norm", Norm("rmsnorm"), "attention_out_norm"),
    ("feed_forward.activation", "swish", "feed_forward.activation"),
    ("feed_forward.up.d_in", 0, "feed_forward.up.d_in"),
    ("feed_forward.up.d_out", 0, "feed_forward.up.d_out"),
    ("feed_forward.down.d_in", 31, "feed_forward.down.d_in"),
    ("feed_forward.down.d_out", 17, "feed_forward.down.d_out"),
    ("feed_forward.gate", Linear(16, 31, 1.0), "feed_forward.gate.d_out"),
    ("feed_forward.p_drop", 2.0, "feed_forward.p_drop"),
]


@pytest.mark.parametrize(("path", "value", "named"), IN_BLOCK)
def test_impossible_block_is_refused_by_field(path: str, value: Any, named: str) -> None:
    with pytest.raises(SpecError) as raised:
        dslm.predict(with_block(path, value))

    assert raised.value.field == f"{BLOCK}.{named}"
    assert raised.value.fix and str(raised.value).startswith(raised.value.field)


@pytest.mark.parametrize(
    ("path", "value", "placement"),
    [
        ("attention_out_norm", None, "sandwich"),
        ("feed_forward_out_norm", None, "sandwich"),
        ("feed_forward_residual.lam", 0.5, "parallel"),
        ("attention_norm", None, "post"),
        ("attention_norm", None, "parallel"),
    ],
)
def test_norms_and_scales_that_do_not_fit_the_placement_are_refused(
    path: str, value: Any, placement: str
) -> None:
    with pytest.raises(SpecError) as raised:
        dslm.predict(with_block(path, value, placement=placement))
    assert raised.value.field == f"{BLOCK}.{path}"


def cells(diagonal: Any, off: Any, sizes: Any) -> Kernel:
    return Kernel(np.array(diagonal), np.array(off), np.array(sizes, dtype=np.int64))


EMPTY = cells(np.ones(0), np.ones((0, 0)), [])
KERNELS: list[tuple[Kernel, str]] = [
    (EMPTY, "cell_sizes"),
    (cells([1.0], [[1.0]], [0]), "cell_sizes"),
    (cells([1.0, 1.0], np.ones((2, 2)), [[1], [1]]), "cell_sizes"),
    (cells([1.0], np.ones((2, 2)), [1, 1]), "diagonal"),
    (cells([1.0, 1.0], np.ones((2, 3)), [1, 1]), "off_diagonal"),
    (cells([1.0, -1.0], np.ones((2, 2)), [1, 1]), "diagonal"),
]


@pytest.mark.parametrize(("broken", "named"), KERNELS)
@pytest.mark.parametrize("field", ["input_kernel", "top_gradient_kernel"])
def test_impossible_kernel_is_refused_by_field(broken: Kernel, named: str, field: str) -> None:
    with pytest.raises(SpecError) as raised:
        dslm.predict(spec_of(replace(stack(1, 6, 16), **{field: broken})))
    assert raised.value.field == f"{AT}.{field}.{named}"


def of_stack(**how: Any) -> ModelSpec:
    return spec_of(replace(stack(1, 6, 16), **how))


def reading(crossing: Block, **how: Any) -> ModelSpec:
    """A decoder of one block that reads an encoder."""
    encoder = stack(1, 6, 16, causal=False)
    plain = stack(1, 6, 16)
    decoder = replace(plain, **{"blocks": (crossing,), "reads": "encoder", **how})
    return ModelSpec("custom", {"encoder": encoder, "decoder": decoder})


def crossed(**how: Any) -> Block:
    block = stack(1, 6, 16).blocks[0]
    assert block is not None
    attention = replace(block.attention, causal=False)
    cross = CrossAttention(attention, block.attention_norm, block.attention_residual)
    return replace(block, cross=replace(cross, **how))


def attention_of(**how: Any) -> Any:
    cross = crossed().cross
    assert cross is not None
    return replace(cross.attention, **how)


WHOLE: dict[str, tuple[ModelSpec, str]] = {
    "empty batch": (spec_of(stack(1, 6, 16), batch_size=0), "batch_size"),
    "zero width": (of_stack(d_model=0), f"{AT}.d_model"),
    "final dropout": (of_stack(final_p_drop=1.0), f"{AT}.final_p_drop"),
    "final norm": (of_stack(final_norm=Norm("rmsnorm", eps=-1.0)), f"{AT}.final_norm.eps"),
    "other cells at the top": (
        of_stack(top_gradient_kernel=kernel(5)),
        f"{AT}.top_gradient_kernel.cell_sizes",
    ),
    "nothing to read": (reading(crossed(), reads=None), f"{AT}.reads"),
    "unknown stack": (reading(crossed(), reads="other"), f"{AT}.reads"),
    "reads itself": (reading(crossed(), reads="decoder"), f"{AT}.reads"),
    "causal cross": (
        reading(crossed(attention=attention_of(causal=True))),
        f"{BLOCK}.cross.attention",
    ),
    "cross window": (
        reading(crossed(attention=attention_of(window=3))),
        f"{BLOCK}.cross.attention",
    ),
    "cross rotation": (
        reading(crossed(attention=attention_of(rotary=Rotary()))),
        f"{BLOCK}.cross.attention",
    ),
    "cross heads": (
        reading(crossed(attention=attention_of(n_kv_heads=3))),
        f"{BLOCK}.cross.attention.n_kv_heads",
    ),
    "cross norm": (
        reading(crossed(norm=Norm("layernorm", eps=-1.0))),
        f"{BLOCK}.cross.norm.eps",
    ),
    "cross output norm": (
        reading(crossed(out_norm=Norm("layernorm"))),
        f"{BLOCK}.cross.out_norm",
    ),
    "parallel cross": (
        reading(replace(crossed(), placement="parallel")),
        f"{BLOCK}.cross",
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_impossible_model_is_refused_by_field(name: str) -> None:
    spec, named = WHOLE[name]

    with pytest.raises(SpecError) as raised:
        dslm.predict(spec)

    assert raised.value.field == named


def test_possible_models_are_not_refused() -> None:
    dslm.validate(reading(crossed()))
    for placement in ("pre", "post", "sandwich", "branch", "parallel"):
        dslm.validate(spec_of(stack(2, 6, 16, placement=placement)))
