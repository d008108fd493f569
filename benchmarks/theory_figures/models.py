"""Figures of real models, at initialisation or briefly trained, with their predictions."""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

import dslm
import trainer_agent
from benchmarks.streams import Curves, measured
from benchmarks.theory_figures.paper import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    Floats,
    errors,
    keyed,
    line,
    points,
    save,
    sheet,
    titled,
)
from benchmarks.theory_models import Case, Shape, batch_of, bert, from_config, gpt2, plain_sizes
from benchmarks.theory_trained import CASES as TRAINED
from benchmarks.theory_trained import CONTEXT as TRAINED_CONTEXT
from benchmarks.theory_trained import SIZE, STEPS, train
from dslm import Kernel, Prediction, StackPrediction
from dslm.kernels.grid import dense, mean_diagonal, mean_off_diagonal
from dslm.kernels.stack import stack_forward

DEEP, DRAWS = Shape(24, 192, 6), 3
HOT = Shape(24, 128, 4)


def described(model: nn.Module, batch: dict[str, Tensor]) -> dslm.ModelSpec:
    spec = trainer_agent.describe(model, batch)
    assert not spec.missing, spec.missing
    return spec


def measure(model: nn.Module, batch: dict[str, Tensor]) -> Curves:
    (stack,) = trainer_agent.description.architecture(model, (), batch).stacks
    return measured(model, stack.blocks, batch)


def only(prediction: Prediction) -> StackPrediction:
    (stack,) = prediction.stacks.values()
    return stack


def depth_figure() -> None:
    """Forward variance, correlation and gradient over depth, Pre-LN above Post-LN."""
    figure, axes = sheet(3, 2)
    cases = (
        Case("GPT-2 (Pre-LN)", lambda: gpt2(DEEP)),
        Case("BERT (Post-LN)", lambda: bert(DEEP), batch="masked"),
    )
    for row, case in enumerate(cases):
        three = axes[3 * row : 3 * row + 3]
        for draw in range(DRAWS):
            torch.manual_seed(draw)
            model, batch = case.build().train(), batch_of(case, draw)
            p, measured_curves = only(dslm.predict(described(model, batch))), measure(model, batch)
            _draw_depth(three, p, measured_curves, draw)
            error = errors(p.backward.variance, measured_curves.backward)
            print(f"{case.name}, draw {draw + 1}: gradient {error}", flush=True)
        named = ("forward variance", "token correlation", "gradient variance, top = 1")
        for axis, quantity in zip(three, named, strict=True):
            titled(axis, f"{case.name}: {quantity}", "layer", quantity)
    axes[3].set_ylim(0.8, 1.3)
    keyed(axes[0])
    save(figure, "depth")


def _draw_depth(axes: list[Axes], p: StackPrediction, measured_curves: Curves, draw: int) -> None:
    depth = np.arange(len(measured_curves.forward))
    curves = (
        (
            p.forward.variance_low,
            p.forward.variance,
            p.forward.variance_high,
            measured_curves.forward,
        ),
        (
            p.forward.correlation_low,
            p.forward.correlation,
            p.forward.correlation_high,
            measured_curves.correlation,
        ),
        (
            p.backward.variance_low,
            p.backward.variance,
            p.backward.variance_high,
            measured_curves.backward,
        ),
    )
    colour = COLOURS[draw]
    for axis, (low, middle, high, dots) in zip(axes, curves, strict=True):
        axis.fill_between(depth, low, high, color=colour, alpha=0.1, linewidth=0)
        line(axis, depth, middle, colour, label=f"draw {draw + 1}, predicted with its band")
        points(axis, depth, dots, colour, f"draw {draw + 1}, measured")


def mask_figure() -> None:
    """Attention's output by position, under a causal mask, over kernels and over one scalar r."""
    case, draws = Case("GPT-2", lambda: gpt2(Shape(1, 192, 6), 0.0)), 12
    outputs, kernels, inputs = [], [], []
    for draw in range(draws):
        torch.manual_seed(draw)
        model, batch = case.build().train(), batch_of(case, draw)
        stack = described(model, batch).stacks["decoder"]
        attention = stack_forward(stack)[0][0]
        kernels.append(attention.branch)
        inputs.append(attention.inner)
        outputs.append(_branch_of(model, batch))
    gain = _gain(stack)
    figure, (sizes, alike) = sheet(2)
    _draw_mask((sizes, alike), outputs, kernels, [gain * _scalar(k) for k in inputs])
    save(figure, "mask")


def _branch_of(model: nn.Module, batch: dict[str, Tensor]) -> Floats:
    """(seq, seq) second moments of the attention branch's output, over batch and features."""
    outputs: list[Tensor] = []
    layer = model.get_submodule("transformer.h.0.attn")
    handle = layer.register_forward_hook(lambda _m, _a, out: outputs.append(out[0].detach()))
    with torch.no_grad():
        model(**batch)
    handle.remove()
    (y,) = outputs
    return (torch.einsum("bid,bjd->ij", y, y) / (y.shape[0] * y.shape[2])).numpy()


def _gain(stack: dslm.Stack) -> float:
    block = stack.blocks[0]
    assert block is not None
    value, output = block.attention.value, block.attention.output
    return value.d_in * value.weight_var * output.d_in * output.weight_var


def _scalar(inner: Kernel) -> float:
    """V (r + (1 - r)/L) of the branch's input: the scalar form of uniform attention."""
    var, cov = mean_diagonal(inner), mean_off_diagonal(inner)
    return cov + (var - cov) / float(inner.cell_sizes.sum())


def _draw_mask(
    axes: tuple[Axes, Axes], outputs: list[Floats], kernels: list[Kernel], flat: list[float]
) -> None:
    sizes, alike = axes
    mean_output = np.mean(outputs, axis=0)
    cells = kernels[0].cell_sizes
    where = np.cumsum(cells) - (cells - 1) / 2
    on = np.mean([k.diagonal for k in kernels], axis=0)
    off = np.mean([dense(k) for k in kernels], axis=0)
    shown = np.unique(np.geomspace(1, len(mean_output), 40).astype(int)) - 1
    points(sizes, shown + 1, np.diagonal(mean_output)[shown], ORANGE, "measured, mean of 12 draws")
    line(sizes, where, on, BLUE, label="kernel, position by position")
    line(sizes, where, np.full(len(where), np.mean(flat)), GREY, label="scalar theory", style="--")
    sizes.set(xscale="log", yscale="log")
    titled(sizes, "Attention output under a causal mask", "position $i$", "$K_{ii}$")
    last = np.diagonal(mean_output)
    points(alike, shown + 1, (mean_output[:, -1] / np.sqrt(last * last[-1]))[shown], ORANGE)
    line(alike, where, off[:, -1] / np.sqrt(on * on[-1]), BLUE)
    alike.set(xscale="log")
    titled(alike, "Correlation with the last position", "position $i$", "$\\rho_{iL}$")
    keyed(sizes)
    print(f"attention by position: {errors(np.interp(shown + 1, where, on), last[shown])}")


def collapse_figure() -> None:
    """A Post-LN model whose tokens collapse, with and without the norms' projection."""
    figure, (tokens, gradient) = sheet(2)
    draws = []
    for draw in range(DRAWS):
        torch.manual_seed(draw)
        case = Case("BERT", _hot_bert, batch="masked")
        model, batch = case.build().train(), batch_of(case, draw)
        spec = described(model, batch)
        with mock.patch("dslm.kernels.norm._remaining_energy", lambda *_: (1.0, 1.0)):
            without = only(dslm.predict(spec))
        draws.append((only(dslm.predict(spec)), without, measure(model, batch)))
    depth = np.arange(HOT.layers + 1)
    for number, (p, _, measured_curves) in enumerate(draws):
        points(
            tokens,
            depth,
            measured_curves.correlation,
            ORANGE,
            None if number else "measured, 3 draws",
        )
        points(gradient, depth, measured_curves.backward, ORANGE)
        error = errors(p.backward.variance, measured_curves.backward)
        print(f"collapsed BERT, draw {number + 1}: gradient {error}", flush=True)
    exact = np.mean([np.log(p.backward.variance) for p, _, _ in draws], axis=0)
    plain = np.mean([np.log(q.backward.variance) for _, q, _ in draws], axis=0)
    line(tokens, depth, np.mean([p.forward.correlation for p, _, _ in draws], axis=0), BLUE)
    line(gradient, depth, np.exp(exact), BLUE, label="predicted")
    line(gradient, depth, np.exp(plain), GREY, label="without the projection", style="--")
    titled(tokens, "BERT, init std 0.06: tokens collapse", "layer", "correlation")
    title = "and gradients scatter from draw to draw"
    titled(gradient, title, "layer", "gradient variance, top = 1")
    gradient.set_yscale("log")
    keyed(tokens)
    keyed(gradient)
    save(figure, "collapse")


def _hot_bert() -> nn.Module:
    still = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    return from_config("Bert", "ForMaskedLM", **plain_sizes(HOT), **still, initializer_range=0.06)


def trained_figure() -> None:
    """Predictions from the first and from today's weights after 200 steps, and measurements."""
    figure, axes = sheet(2)
    for axis, case in zip(axes, TRAINED, strict=True):
        torch.manual_seed(0)
        model = case.build().train()
        batch = batch_of(case, 10_000, size=SIZE, context=TRAINED_CONTEXT)
        first = only(dslm.predict(described(model, batch))).forward
        train(model, case)
        today, measured_curves = (
            only(dslm.predict(described(model, batch))).forward,
            measure(model, batch),
        )
        depth = np.arange(len(measured_curves.forward))
        line(axis, depth, first.variance, GREY, label="predicted at initialisation", style="--")
        line(axis, depth, today.variance, GREEN, label="predicted from today's weights")
        points(axis, depth, measured_curves.forward, ORANGE, f"measured after {STEPS} steps")
        if measured_curves.forward.max() > 10 * measured_curves.forward.min():
            axis.set_yscale("log")
        titled(axis, f"{case.name}, {STEPS} steps", "layer", "forward variance")
        print(f"{case.name} after {STEPS} steps: {errors(today.variance, measured_curves.forward)}")
    keyed(axes[0])
    save(figure, "trained")
