"""Which specs describe a possible model, and what to change in those that do not."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import numpy as np

from dslm.errors import SpecError
from dslm.spec import (
    Activation,
    Attention,
    Block,
    Experts,
    FeedForward,
    Gate,
    Head,
    Kernel,
    Labels,
    Linear,
    ModelSpec,
    Norm,
    NormKind,
    Placement,
    PositionBias,
    Residual,
    Rotary,
    Stack,
)


def validate(spec: ModelSpec) -> None:
    """Check every size, probability and array shape of `spec`.

    Raises:
        SpecError: naming the first impossible field and what it should hold.
    """
    _require(spec.batch_size >= 1, "batch_size", "give at least one sequence")
    for name, stack in spec.stacks.items():
        _validate_stack(stack, f"stacks.{name}")
        _validate_reading(spec, stack, f"stacks.{name}")


def _validate_stack(stack: Stack, path: str) -> None:
    _require(stack.d_model >= 1, f"{path}.d_model", "give a width of at least 1")
    _validate_kernel(stack.input_kernel, f"{path}.input_kernel")
    if stack.final_norm is not None:
        _validate_norm(stack.final_norm, f"{path}.final_norm")
    _validate_probability(stack.final_p_drop, f"{path}.final_p_drop")
    if stack.top_gradient_kernel is not None:
        _validate_kernel(stack.top_gradient_kernel, f"{path}.top_gradient_kernel")
        same = np.array_equal(stack.top_gradient_kernel.cell_sizes, stack.input_kernel.cell_sizes)
        field = f"{path}.top_gradient_kernel.cell_sizes"
        _require(same, field, "use the cells of the input kernel")
    if stack.head is not None:
        _validate_head(stack.head, stack, f"{path}.head")
    fits = len(stack.carried) in {0, len(stack.blocks)}
    _require(fits, f"{path}.carried", "give one a block, or none")
    for index, carried in enumerate(stack.carried):
        if carried is not None:
            where = f"{path}.carried[{index}]"
            _require(stack.blocks[index] is None, where, "give it where the block is None alone")
            _require(0 <= carried.mean_square < math.inf, f"{where}.mean_square", "give E[x²]")
            for name in ("common_before", "common_behind"):
                share = getattr(carried, name)
                _require(0 <= share <= 1, f"{where}.{name}", "give a share from 0 to 1")
    for index, block in enumerate(stack.blocks):
        if block is not None:
            _validate_block(block, stack.d_model, f"{path}.blocks[{index}]")


def _validate_head(head: Head, stack: Stack, path: str) -> None:
    width = stack.d_model
    for index, layer in enumerate(head.layers):
        where = f"{path}.layers[{index}]"
        if layer.linear is not None:
            _validate_linear(layer.linear, width, layer.linear.d_out, f"{where}.linear")
            width = layer.linear.d_out
        _validate_choice(layer.activation, get_args(Activation), f"{where}.activation")
        if layer.norm is not None:
            _validate_norm(layer.norm, f"{where}.norm")
        _validate_probability(layer.p_drop, f"{where}.p_drop")
    _validate_linear(head.output, width, head.output.d_out, f"{path}.output")
    _require(head.output.d_out >= 2, f"{path}.output.d_out", "give at least two classes")
    cap = head.soft_cap
    _require(cap is None or cap > 0, f"{path}.soft_cap", "give a positive cap or None")
    for name in ("scale", "tied"):
        _require(math.isfinite(getattr(head, name)), f"{path}.{name}", "give a finite number")
    _validate_labels(head.labels, stack.input_kernel, f"{path}.labels")


def _validate_labels(labels: Labels, x: Kernel, path: str) -> None:
    _require(labels.weight > 0, f"{path}.weight", "give 1 / labels for a mean over them")
    for name in ("counted", "same", "same_id", "label_is_id"):
        kernel = getattr(labels, name)
        if kernel is not None:
            _validate_kernel(kernel, f"{path}.{name}")
            same = np.array_equal(kernel.cell_sizes, x.cell_sizes)
            _require(same, f"{path}.{name}.cell_sizes", "use the cells of the input kernel")
    _require(bool(labels.counted.diagonal.any()), f"{path}.counted", "label at least one token")


def _validate_reading(spec: ModelSpec, stack: Stack, path: str) -> None:
    crosses = any(block is not None and block.cross is not None for block in stack.blocks)
    _require(not crosses or stack.reads is not None, f"{path}.reads", "name the stack it reads")
    if stack.reads is None:
        return
    read = spec.stacks.get(stack.reads)
    fix = "name a stack of this model that reads no other itself"
    _require(read is not None and read.reads is None, f"{path}.reads", fix)
    for index, block in enumerate(stack.blocks):
        if block is not None and block.cross is not None and read is not None:
            _validate_cross(block, stack, read, f"{path}.blocks[{index}].cross")


def _validate_cross(block: Block, stack: Stack, read: Stack, path: str) -> None:
    cross = block.cross
    assert cross is not None
    attention = cross.attention
    _validate_attention(attention, stack.d_model, f"{path}.attention", read.d_model)
    serial = not attention.causal and attention.window is None
    serial = serial and attention.rotary is None and attention.position_bias is None
    fix = "cross-attention has no mask, window, rotation or position bias"
    _require(serial, f"{path}.attention", fix)
    _require(block.placement != "parallel", path, "use serial blocks around cross-attention")
    _validate_norm(cross.norm, f"{path}.norm")
    _validate_residual(cross.residual, f"{path}.residual")
    matches_placement = (cross.out_norm is not None) == (block.placement == "sandwich")
    _require(matches_placement, f"{path}.out_norm", "give it in a sandwich and only there")


def _validate_kernel(kernel: Kernel, path: str) -> None:
    n_cells = len(kernel.cell_sizes) if kernel.cell_sizes.ndim == 1 else 0
    _require(n_cells >= 1, f"{path}.cell_sizes", "give a vector of at least one cell")
    _require(bool(np.all(kernel.cell_sizes >= 1)), f"{path}.cell_sizes", "no cell may be empty")
    shape_ok = kernel.diagonal.shape == (n_cells,)
    _require(shape_ok, f"{path}.diagonal", f"give {n_cells} values, one a cell")
    shape_ok = kernel.off_diagonal.shape == (n_cells, n_cells)
    _require(shape_ok, f"{path}.off_diagonal", f"give a {n_cells} by {n_cells} matrix")
    non_negative = not bool(np.any(kernel.diagonal < 0))
    _require(non_negative, f"{path}.diagonal", "second moments cannot be negative")


def _validate_block(block: Block, d_model: int, path: str) -> None:
    _validate_choice(block.placement, get_args(Placement), f"{path}.placement")
    _validate_attention(block.attention, d_model, f"{path}.attention")
    _validate_feed_forward(block.feed_forward, d_model, f"{path}.feed_forward")
    for name in ("attention", "feed_forward"):
        norm: Norm | None = getattr(block, f"{name}_norm")
        if norm is not None:
            _validate_norm(norm, f"{path}.{name}_norm")
        may_lack = name == "attention" and block.placement == "pre"
        fix = 'give a norm; only attention in a "pre" block may lack it'
        _require(norm is not None or may_lack, f"{path}.{name}_norm", fix)
        _validate_residual(getattr(block, f"{name}_residual"), f"{path}.{name}_residual")
        _validate_out_norm(block, f"{name}_out_norm", path)
    single_stream = block.placement != "parallel" or block.feed_forward_residual.lam == 1
    fix = "use 1: parallel branches share one stream, scaled by attention_residual.lam"
    _require(single_stream, f"{path}.feed_forward_residual.lam", fix)


def _validate_out_norm(block: Block, name: str, path: str) -> None:
    norm: Norm | None = getattr(block, name)
    is_sandwich = block.placement == "sandwich"
    fix = "give the norm on the branch's output" if is_sandwich else "use None but in a sandwich"
    _require((norm is not None) == is_sandwich, f"{path}.{name}", fix)
    if norm is not None:
        _validate_norm(norm, f"{path}.{name}")


def _validate_attention(
    attention: Attention, d_model: int, path: str, d_memory: int | None = None
) -> None:
    d_memory = d_memory or d_model
    n, n_kv, d_head = attention.n_heads, attention.n_kv_heads, attention.d_head
    for name, size in (("n_heads", n), ("n_kv_heads", n_kv), ("d_head", d_head)):
        _require(size >= 1, f"{path}.{name}", "give at least 1")
    _require(n % n_kv == 0, f"{path}.n_kv_heads", f"use a divisor of n_heads = {n}")
    _validate_linear(attention.query, d_model, n * d_head, f"{path}.query")
    _validate_linear(attention.key, d_memory, n_kv * d_head, f"{path}.key")
    d_value = max(attention.output.d_in // n, 1)
    _validate_linear(attention.value, d_memory, n_kv * d_value, f"{path}.value")
    _validate_linear(attention.output, n * d_value, d_model, f"{path}.output")
    _require(math.isfinite(attention.score_scale), f"{path}.score_scale", "give a finite factor")
    _validate_probability(attention.p_drop, f"{path}.p_drop")
    _validate_score_shape(attention, path)


def _validate_score_shape(attention: Attention, path: str) -> None:
    for name in ("query_norm", "key_norm"):
        norm: Norm | None = getattr(attention, name)
        if norm is not None:
            _validate_norm(norm, f"{path}.{name}")
    cap, window = attention.soft_cap, attention.window
    _require(cap is None or cap > 0, f"{path}.soft_cap", "give a positive cap or None")
    _require(window is None or window >= 1, f"{path}.window", "give at least 1 token or None")
    fix = "give a number of tokens, of a causal attention without a window, or 0"
    unmasked = attention.causal and window is None
    _require(0 <= attention.sink < math.inf, f"{path}.sink", "give e^b of the sink's logit, or 0")
    prefixed = attention.prefix == 0 or (attention.prefix > 0 and unmasked)
    _require(prefixed, f"{path}.prefix", fix)
    if attention.rotary is not None:
        _validate_rotary(attention.rotary, attention.d_head, f"{path}.rotary")
    if attention.position_bias is not None:
        _validate_bias(attention.position_bias, attention.n_heads, f"{path}.position_bias")


def _validate_rotary(rotary: Rotary, d_head: int, path: str) -> None:
    _require(rotary.theta > 0, f"{path}.theta", "give a positive base")
    _require(0 <= rotary.fraction <= 1, f"{path}.fraction", "give a share from 0 to 1")
    _require(math.isfinite(rotary.scale), f"{path}.scale", "give a finite factor")
    if rotary.frequencies is not None:
        n = max(int(rotary.fraction * d_head) // 2, 1)
        good = len(rotary.frequencies) == n and all(map(math.isfinite, rotary.frequencies))
        _require(good, f"{path}.frequencies", f"give {n} finite numbers, one a pair of features")


def _validate_bias(bias: PositionBias, n_heads: int, path: str) -> None:
    distances, n = bias.distances, len(bias.distances)
    rising = n >= 1 and all(a < b for a, b in pairwise(distances))
    _require(rising, f"{path}.distances", "give at least one distance, in increasing order")
    n_groups = len(bias.heads)
    counted = all(h >= 1 for h in bias.heads) and sum(bias.heads) == n_heads
    _require(counted, f"{path}.heads", f"give numbers of heads that add up to {n_heads}")
    shaped = len(bias.values) == n_groups and all(len(row) == n for row in bias.values)
    finite = all(math.isfinite(value) for row in bias.values for value in row)
    fix = f"give {n_groups} rows of {n} finite numbers"
    _require(shaped and finite, f"{path}.values", fix)


def _validate_feed_forward(ff: FeedForward, d_model: int, path: str) -> None:
    _validate_choice(ff.activation, get_args(Activation), f"{path}.activation")
    _validate_linear(ff.up, d_model, ff.up.d_out, f"{path}.up")
    _validate_linear(ff.down, ff.up.d_out, d_model, f"{path}.down")
    if ff.gate is not None:
        _validate_linear(ff.gate, d_model, ff.up.d_out, f"{path}.gate")
    _validate_probability(ff.p_drop, f"{path}.p_drop")
    _require(math.isfinite(ff.up_offset), f"{path}.up_offset", "give a finite number")
    if ff.experts is not None:
        _validate_experts(ff.experts, d_model, f"{path}.experts")


def _validate_experts(experts: Experts, d_model: int, path: str) -> None:
    n, groups = experts.router.d_out, experts.groups
    _validate_linear(experts.router, d_model, n, f"{path}.router")
    _validate_choice(experts.gate, get_args(Gate), f"{path}.gate")
    _require(1 <= experts.top_k <= n, f"{path}.top_k", f"give 1 to {n}, the number of experts")
    _require(math.isfinite(experts.scale), f"{path}.scale", "give a finite factor")
    _require(groups >= 1 and n % groups == 0, f"{path}.groups", f"use a divisor of {n}")
    few = f"give 1 to {groups}, the number of groups"
    _require(1 <= experts.top_groups <= groups, f"{path}.top_groups", few)
    enough = experts.top_k * groups <= experts.top_groups * n
    _require(enough, f"{path}.top_k", "give no more experts than the best groups hold")
    if experts.shared is not None:
        _require(experts.shared.experts is None, f"{path}.shared.experts", "use None")
        _validate_feed_forward(experts.shared, d_model, f"{path}.shared")
    if experts.shared_gate is not None:
        fix = "give the shared layer that it multiplies"
        _require(experts.shared is not None, f"{path}.shared", fix)
        _validate_linear(experts.shared_gate, d_model, 1, f"{path}.shared_gate")


def _validate_linear(linear: Linear, d_in: int, d_out: int, path: str) -> None:
    # moments may be NaN or infinite: a diverged model's are, and `missing` then says where
    _require(linear.d_in >= 1, f"{path}.d_in", "give a width of at least 1")
    _require(linear.d_out >= 1, f"{path}.d_out", "give a width of at least 1")
    _require(linear.d_in == d_in, f"{path}.d_in", f"use {d_in}, the width of its input")
    _require(linear.d_out == d_out, f"{path}.d_out", f"use {d_out}, the width of its output")
    _require(not linear.weight_var < 0, f"{path}.weight_var", "E[w²] cannot be negative")
    _require(not linear.bias_var < 0, f"{path}.bias_var", "E[b²] cannot be negative")


def _validate_norm(norm: Norm, path: str) -> None:
    _validate_choice(norm.kind, get_args(NormKind), f"{path}.kind")
    for name in ("gain_var", "bias_var", "eps"):
        _require(not getattr(norm, name) < 0, f"{path}.{name}", "it cannot be negative")


def _validate_residual(residual: Residual, path: str) -> None:
    _require(math.isfinite(residual.lam), f"{path}.lam", "give a finite amplitude")
    _require(math.isfinite(residual.beta), f"{path}.beta", "give a finite amplitude")
    _validate_probability(residual.p_drop, f"{path}.p_drop")


def _validate_probability(p_drop: float, path: str) -> None:
    _require(0 <= p_drop < 1, path, "give a dropout probability from 0 to below 1")


def _validate_choice(value: str, choices: tuple[str, ...], path: str) -> None:
    _require(value in choices, path, f"use one of {', '.join(choices)}")


def _require(holds: bool, field: str, fix: str) -> None:
    if not holds:
        raise SpecError(field, fix)
