"""Giving the stream into block 0 unit variance, and the head's output too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from trainer_agent.deepscale_lm.drawing import draw_whole, scale_whole, zero
from trainer_agent.deepscale_lm.report import Change, DeepScaleError
from trainer_agent.deepscale_lm.residual_scales import scale_input, scale_output
from trainer_agent.deepscale_lm.surroundings import Entrance, Source, Surroundings

SAME_VARIANCE = 1.5  # a small table's draw, and positions seen by few tokens, scatter
SAME_SIZE = 1.25  # the root of that, and dropout
Look = Callable[[], Surroundings]


@dataclass(slots=True)
class Drawn:
    """Parameters drawn, by name: what was changed, and the deviation they were drawn with."""

    changes: dict[str, Change] = field(default_factory=dict)
    stds: dict[str, float] = field(default_factory=dict)


def unit_inputs(
    model: nn.Module, widths: Mapping[str, int], look: Look
) -> tuple[Surroundings, Drawn]:
    """Draw what the streams are made of; returns what is around the blocks then, and changes.

    Where a model multiplies its embeddings (Gemma by sqrt(d)), they are drawn smaller by that.
    `widths` holds d by stack.
    """
    drawn = Drawn()
    for entrance in look().entrances.values():
        _draw(model, entrance, drawn)
    around = look()
    if any(_is_off(entrance) for entrance in around.entrances.values()):
        for name, entrance in around.entrances.items():
            _correct(model, entrance, widths[name], drawn)
        around = look()
    for name, entrance in around.entrances.items():
        if _is_off(entrance):
            raise DeepScaleError(f"{name}: {_why(entrance)}")
    return around, drawn


def _draw(model: nn.Module, entrance: Entrance, drawn: Drawn) -> None:
    drawn_parameters = {model.get_parameter(name) for name in drawn.stds}
    for source in entrance.sources:
        if source.drawn and model.get_parameter(source.name) not in drawn_parameters:
            std = entrance.source_std / math.sqrt(source.fan_in)
            drawn.stds[source.name] = std
            drawn.changes[source.name] = draw_whole(model, _role(source), source.name, std)
            if source.bias is not None:
                drawn.changes[source.bias] = zero(model, "embedding bias", source.bias)


def _role(source: Source) -> str:
    return "projection" if source.is_map else "embedding"


def _is_off(entrance: Entrance) -> bool:
    return not 1 / SAME_VARIANCE < entrance.variance < SAME_VARIANCE


def _correct(model: nn.Module, entrance: Entrance, d_model: int, drawn: Drawn) -> None:
    """Divide an entrance's sources by what its stream is off; those shared once."""
    if not _is_off(entrance) or not entrance.variance > 0:
        return
    factor = _near(entrance.variance**-0.5, d_model)
    for source in entrance.sources:
        if source.name in drawn.stds:
            drawn.stds[source.name] *= factor
            std = scale_whole(model, source.name, factor)
            drawn.changes[source.name] = replace(drawn.changes[source.name], new_std=std)


def _near(size: float, d_model: int) -> float:
    """1, sqrt(d) or its inverse where `size` scatters around it.

    What is not in the state dict must not depend on the draw.
    """
    usual = (1.0, math.sqrt(d_model), 1 / math.sqrt(d_model))
    near = [u for u in usual if 1 / SAME_SIZE < size / u < SAME_SIZE]
    return near[0] if near else size


def _why(entrance: Entrance) -> str:
    problem = f"the stream into its first block has variance {entrance.variance:.3g}, not 1"
    if not any(source.drawn for source in entrance.sources):
        return f"{problem}, and no embedding or projection of this model makes it: scale the input"
    return (
        f"{problem}, with embeddings of standard deviation {entrance.source_std:.3g}: something "
        "else scales it or is added to it"
    )


def unit_head(
    model: nn.Module, around: Surroundings, drawn: Drawn
) -> tuple[list[Change], tuple[str, ...]]:
    """Unit variance of the head's output; a head tied to an embedding has its input scaled."""
    path = around.head
    if path is None or not around.head_input > 0:
        return [], ()
    weight = model.get_parameter(f"{path}.weight")
    d_in = weight.shape[1]
    target_std = 1 / (_near(around.head_input, d_in) * math.sqrt(d_in))
    tied = [std for name, std in drawn.stds.items() if weight is model.get_parameter(name)]
    if not tied:
        return [draw_whole(model, "head", f"{path}.weight", target_std)], ()
    head, factor = model.get_submodule(path), target_std / tied[0]
    # with a bias, a factor on the logits is one that `describe` knows
    biased = getattr(head, "bias", None) is not None
    (scale_output if biased else scale_input)(head, factor)
    side = "output" if biased else "input"
    return [], (f"head {path}: tied to the embedding; {side} scaled by {factor:.4g}",)
