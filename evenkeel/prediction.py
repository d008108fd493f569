"""``evenkeel predict``: the theory's curves for a model that exists only as a config."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import dslm
from server.errors import StartError

HEADER = f"{'layer':>6}{'variance':>12}{'correlation':>14}{'gradient variance':>20}"
BATCH = 8


def predict_config(config: Path, *, context: int, as_json: bool, plot: Path | None) -> None:
    """Print the prediction at initialisation for a transformers config.

    Raises:
        StartError: if the config cannot be read, or names a model that cannot be built.
    """
    prediction = dslm.predict(spec_of(config, context))
    if as_json:
        print(json.dumps(as_numbers(prediction)))
    else:
        print("\n".join(table(prediction)))
    if plot is not None:
        write_plot(prediction, plot)


def spec_of(config: Path, context: int) -> dslm.ModelSpec:
    """Build the config's model with fresh weights and describe it on Zipf-distributed ids."""
    try:
        import torch
        from transformers import AutoConfig, AutoModel

        import trainer_agent
    except ModuleNotFoundError as error:
        raise StartError(
            f"predict builds the model and needs {error.name}: pip install 'evenkeel[agent]' "
            "transformers"
        ) from error
    settings = read_config(config)
    try:
        model = AutoModel.from_config(AutoConfig.for_model(**settings))
    except (ValueError, TypeError, KeyError) as error:
        reason = str(error).split(". ", maxsplit=1)[0]  # what follows lists every model there is
        raise StartError(f"{config}: transformers cannot build it: {reason}") from error
    vocabulary = int(model.config.vocab_size)
    ids = torch.from_numpy(zipf_ids(vocabulary, context))
    return trainer_agent.describe(model.train(), ids)


def read_config(config: Path) -> dict[str, Any]:
    """The config's JSON object, with its model_type."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(f"cannot read {config}: {error.strerror}") from error
    except ValueError as error:
        raise StartError(f"{config} is not JSON: {error}") from error
    if not isinstance(found, dict) or "model_type" not in found:
        raise StartError(f"{config}: model_type is missing; give a transformers config.json")
    return found


def zipf_ids(vocabulary: int, context: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Ids drawn from Zipf's law over the vocabulary, (batch, context), the same every time."""
    weights = 1.0 / np.arange(1, vocabulary + 1)
    draw = np.random.default_rng(0)
    return draw.choice(vocabulary, size=(BATCH, context), p=weights / weights.sum())


def table(prediction: dslm.Prediction) -> Iterator[str]:
    """The curves a line a layer, then what is not predicted."""
    for name, stack in prediction.stacks.items():
        yield f"{name}, at initialisation"
        yield HEADER
        forward, backward = stack.forward, stack.backward
        for layer, variance in enumerate(forward.variance):
            yield (
                f"{layer:>6}{variance:>12.4g}{forward.correlation[layer]:>14.4f}"
                f"{backward.variance[layer]:>20.4g}"
            )
    for missing in prediction.missing:
        yield f"not predicted: {missing.where} ({missing.what}): {missing.why}"


def as_numbers(prediction: dslm.Prediction) -> dict[str, Any]:
    """The prediction as JSON numbers; null where there is none."""
    curves = {
        name: {
            "stream": curve_numbers(stack.forward),
            "stream_gradient": curve_numbers(stack.backward),
        }
        for name, stack in prediction.stacks.items()
    }
    missing = [{"where": m.where, "what": m.what, "why": m.why} for m in prediction.missing]
    return {"stacks": curves, "missing": missing}


def curve_numbers(curve: dslm.Curve) -> dict[str, list[float | None]]:
    """A curve's vectors as lists; null where there is no finite value."""
    return {
        name: [value if math.isfinite(value) else None for value in getattr(curve, name).tolist()]
        for name in curve.__dataclass_fields__
    }


def write_plot(prediction: dslm.Prediction, target: Path) -> None:
    """Write the three curves of every stack as one self-contained HTML page."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=1, cols=3, subplot_titles=("forward variance", "correlation", "gradient variance")
    )
    for name, stack in prediction.stacks.items():
        values = (stack.forward.variance, stack.forward.correlation, stack.backward.variance)
        for column, value in enumerate(values, start=1):
            figure.add_scatter(y=value, name=name, row=1, col=column, showlegend=column == 1)
    figure.update_yaxes(type="log", col=1).update_yaxes(type="log", col=3)
    figure.update_xaxes(title="layer")
    try:
        figure.write_html(target, include_plotlyjs=True)
    except OSError as error:
        raise StartError(f"cannot write {target}: {error.strerror}") from error
