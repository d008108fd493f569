"""A checked model as text: what is measured of it, what is predicted, and what is not, with why."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import dslm
from trainer_agent.check.delivery import WatchedModel
from trainer_agent.model.sites import SITES

WIDTH = 100
# Site, the quantity that stands for it, and what it is.
SITES_OF_STACK = (
    ("stream", "variance", "the stream into, between and out of blocks"),
    ("stream_gradient", "variance", "the loss's gradient there"),
    ("attention", "variance", "what attention adds to the stream"),
    ("feed_forward", "variance", "what the feed-forward layer adds"),
    ("attention_logits", "variance", "attention scores before the softmax"),
)
OPTIONAL_SITES = (
    ("norm_inputs", "attention_norm_input", "variance"),
    ("attention_heads", "attention_head_0", "variance"),
    ("weights", "weights", "rms"),
    ("updates", "updates", "ratio"),
)
OF_MODEL = (
    ("gradient_norm", "value", "the norm of all gradients"),
    ("learning_rate", "value", "of the first optimizer"),
    ("log_z", "mean", 'the logits\' log partition function (sites=["log_z"])'),
)
UNMEASURED = {
    "stream": "the blocks were not called in a training step",
    "stream_gradient": "no gradient arrived there: frozen, or detached",
    "attention": "what it adds could not be told from the block's forward pass",
    "feed_forward": "what it adds could not be told from the block's forward pass",
    "attention_logits": "attention is computed by no function that can be watched (a kernel of its "
    "own, or by hand)",
    "gradient_norm": "read by the framework's callback",
    "learning_rate": "read by the framework's callback",
    "log_z": "no linear map onto classes was found behind the blocks",
}
Measured = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Row:
    """One site: how many of its places are measured, and whether a curve is predicted."""

    site: str
    measured: str
    predicted: str
    what: str

    def __str__(self) -> str:
        return f"  {self.site:<18}{self.measured:<14}{self.predicted:<12}{self.what}".rstrip()


def lines(watched: WatchedModel, spec: dslm.ModelSpec) -> Iterator[str]:
    """Yield the lines about one model."""
    prediction = dslm.predict(spec)
    yield f"{watched.model_type}, {watched.n_params:,} parameters"
    for name, stack in spec.stacks.items():
        yield ""
        yield f"{name}: {len(stack.blocks)} layers of width {stack.d_model}"
        yield str(Row("site", "measured", "predicted", ""))
        rows = list(_stack_rows(name, watched.transport.measured, prediction.stacks[name]))
        yield from map(str, rows)
        yield f"  with sites=[…]: {_optional(name, watched.transport.measured) or 'nothing more'}"
    yield ""
    yield "the whole model"
    yield from map(str, _model_rows(watched.transport.measured, prediction))
    yield from _section("not measured", _unmeasured(watched, spec))
    yield from _section("not predicted", _unpredicted(prediction))
    yield from _section("notes", (*spec.notes, *watched.transport.health.notes))


def _stack_rows(stack: str, measured: Measured, prediction: dslm.StackPrediction) -> Iterator[Row]:
    curves = {
        "stream": prediction.forward.variance,
        "stream_gradient": prediction.backward.variance,
        "attention": prediction.attention_variance,
        "feed_forward": prediction.feed_forward_variance,
        "attention_logits": prediction.score_variance,
    }
    for site, quantity, what in SITES_OF_STACK:
        places = measured.get(f"{stack}/{site}/{quantity}")
        yield Row(site, _share(places), _share(np.isfinite(curves[site])), what)


def _model_rows(measured: Measured, prediction: dslm.Prediction) -> Iterator[Row]:
    losses = [stack.loss for stack in prediction.stacks.values()]
    predicted = "yes" if np.isfinite(losses).any() else "no"
    yield Row("loss", "yes", predicted, "given to agent.step, or returned by the model")
    for site, quantity, what in OF_MODEL:
        yield Row(site, "yes" if _any(measured, f"/{site}/{quantity}") else "no", "", what)


def _share(places: NDArray[np.bool_] | None) -> str:
    if places is None or not places.any():
        return "no"
    return "yes" if places.all() else f"{int(places.sum())} of {len(places)}"


def _any(measured: Measured, key: str) -> bool:
    return key in measured and bool(measured[key].any())


def _optional(stack: str, measured: Measured) -> str:
    shown = [
        option
        for option, site, quantity in OPTIONAL_SITES
        if _any(measured, f"{stack}/{site}/{quantity}")
    ]
    assert set(shown) <= set(SITES)
    return ", ".join(shown)


def _unmeasured(watched: WatchedModel, spec: dslm.ModelSpec) -> Iterator[str]:
    measured, health = watched.transport.measured, watched.transport.health
    for stack in spec.stacks:
        for site, quantity, _ in SITES_OF_STACK:
            places = measured.get(f"{stack}/{site}/{quantity}")
            if places is None or not places.all():
                yield f"{_layers(stack, site, places)}: {UNMEASURED[site]}"
    for site, quantity, _ in OF_MODEL:
        if not _any(measured, f"/{site}/{quantity}"):
            yield f"{site}: {UNMEASURED[site]}"
    if health.first_failure:
        yield health.first_failure


def _layers(stack: str, site: str, places: NDArray[np.bool_] | None) -> str:
    if places is None or not places.any():
        return f"{stack}/{site}"
    return f"{stack}/{site}[{_ranges(np.flatnonzero(~places).tolist())}]"


def _unpredicted(prediction: dslm.Prediction) -> Iterator[str]:
    """What is missing, blocks with the same reason together."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for missing in prediction.missing:
        place = re.sub(r"\d+", "#", missing.where, count=1)
        numbers = groups.setdefault((place, missing.what, missing.why), [])
        numbers += [int(number) for number in re.findall(r"\d+", missing.where)[:1]]
    for (place, what, why), numbers in groups.items():
        where = place.replace("#", _ranges(numbers), 1) if numbers else place
        yield f"{where} ({what}): {why}"


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers as text, those in a row as their ends: ``0–3, 7``."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ", ".join("–".join(map(str, ends)) for ends in ranges)


def _section(head: str, items: Iterable[str]) -> Iterator[str]:
    sentences = tuple(dict.fromkeys(items))
    if sentences:
        yield ""
        yield head
    for sentence in sentences:
        yield from textwrap.wrap(
            sentence, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False
        )
