"""A config's model without its weight: one block of each kind, and only the embeddings read.

All blocks of one kind are drawn from one distribution, so the moments of one are those of all. The
whole model is laid out on torch's `meta` device, which holds shapes only; blocks past the first of
the last kind to appear are taken out, and the rest is initialised by the model's own rule, which
sees the config's full depth. Rows of the embedding are alike too: ids are drawn from Zipf's law
over the whole vocabulary, then numbered anew, so that the table needs only the rows drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

import dslm
import trainer_agent
from evenkeel.prediction.config import SPECIAL_IDS, zipf_ids
from server.errors import StartError
from trainer_agent.description import architecture
from trainer_agent.model.blocks import Column, columns

MOST_BUILT = 4_000_000_000  # parameters: 16 GB
OLDEST_TRANSFORMERS = 5  # before, buffers made in a constructor were lost on the meta device
FEW_IDS = 4096  # vocabularies up to this are built as they are
DEPTH_SETTINGS = ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
Settings = dict[str, Any]


def described(
    settings: Settings, context: int, layers: int | None = None
) -> tuple[dslm.ModelSpec, tuple[str, ...]]:
    """The spec of the config's model at initialisation, and notes on how it was made.

    Raises:
        StartError: if transformers cannot build the model or run it, or it is too large to.
    """
    if int(transformers.__version__.split(".")[0]) < OLDEST_TRANSFORMERS:
        raise StartError(
            f"transformers {transformers.__version__} cannot set up a model from its shapes: "
            f"pip install 'transformers>={OLDEST_TRANSFORMERS}'"
        )
    settings = with_layers(settings, layers) if layers else settings
    n_params = _count(laid_out(settings))
    small, ids = with_few_ids(settings, context)
    model = laid_out(small)
    kinds = [_Kinds.of(model, column) for column in columns(model)]
    for kind in kinds:
        _keep(model, kind)
    if _count(model) > MOST_BUILT:
        raise StartError(
            f"{_count(model):,} parameters must be built, over {MOST_BUILT:,}: its blocks are all "
            "of different kinds, or too wide; give a config with fewer or narrower layers"
        )
    spec = _whole(_described(_initialised(model), ids, context), kinds)
    return replace(spec, n_params=n_params), _notes(kinds)


def laid_out(settings: Settings) -> nn.Module:
    """The config's model on the meta device, float32."""
    try:
        config = transformers.AutoConfig.for_model(**settings)
        with _hushed(), torch.device("meta"):
            model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        reason = str(error).split(". ", maxsplit=1)[0]  # what follows lists every model there is
        raise StartError(f"transformers cannot build it: {reason}") from error
    assert isinstance(model, nn.Module)
    return model


def with_layers(settings: Settings, layers: int) -> Settings:
    """The settings of a model of another depth; lists of one entry a layer go on in a cycle."""
    config = transformers.AutoConfig.for_model(**settings)
    renamed = getattr(config, "attribute_map", {})
    changed = dict(settings)
    for name in DEPTH_SETTINGS:
        depth = getattr(config, name, None)
        if isinstance(depth, int):
            changed[renamed.get(name, name)] = layers
            for key, value in settings.items():
                if isinstance(value, list) and len(value) == depth:
                    changed[key] = [value[i % depth] for i in range(layers)]
    return changed


def with_few_ids(settings: Settings, context: int) -> tuple[Settings, torch.Tensor]:
    """The settings with a vocabulary of the ids drawn and the marks, and those ids.

    Raises:
        StartError: if the config has no vocabulary.
    """
    config = transformers.AutoConfig.for_model(**settings)
    vocabulary = getattr(config, "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise StartError("vocab_size is missing; predict takes configs of text models")
    marks = {name: getattr(config, name, None) for name in SPECIAL_IDS}
    low = [one for one in marks.values() if isinstance(one, int) and 0 <= one < vocabulary]
    ids = zipf_ids(vocabulary, context, low)
    if vocabulary <= FEW_IDS:
        return settings, torch.from_numpy(ids)
    first = 1 + max((one for one in low if one < FEW_IDS), default=-1)
    drawn, numbers = np.unique(ids, return_inverse=True)
    last = first + len(drawn)  # stands for marks past the end
    moved = {name: last for name, one in marks.items() if isinstance(one, int) and one >= last}
    few = settings | moved | {"vocab_size": last + 1}
    return few, torch.from_numpy(first + numbers.reshape(ids.shape))


@dataclass(frozen=True, slots=True)
class _Kinds:
    """Which blocks of a column are alike: for each block, the first one of its kind."""

    container: str
    alike: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, column: Column) -> _Kinds:
        firsts: dict[object, int] = {}
        for number, path in enumerate(column.blocks):
            firsts.setdefault(_kind(model.get_submodule(path), number), number)
        alike = tuple(
            firsts[_kind(model.get_submodule(path), number)]
            for number, path in enumerate(column.blocks)
        )
        return cls(column.container, alike)

    @property
    def built(self) -> int:
        """Blocks that must be built: up to the first of the last kind."""
        return max(self.alike) + 1


def _kind(block: nn.Module, number: int) -> object:
    """What two blocks that are drawn and computed alike have in common."""
    parts = []
    for path, module in block.named_modules():
        plain = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, int | float | str | None) and "layer_idx" not in name
        }
        shapes = tuple((name, tuple(p.shape)) for name, p in module.named_parameters(recurse=False))
        parts.append((path, type(module), tuple(sorted(plain.items(), key=str)), shapes))
        if any(value is True for name, value in vars(module).items() if "layer_idx" in name):
            parts.append((path, type(module), (), (("depends on its layer", (number,)),)))
    return tuple(parts)


def _keep(model: nn.Module, kinds: _Kinds) -> None:
    """Take the blocks out that need not be built."""
    container = model.get_submodule(kinds.container)
    if isinstance(container, nn.ModuleList) and len(container) == len(kinds.alike):
        del container[kinds.built :]


def _initialised(model: nn.Module) -> nn.Module:
    """The model on the CPU, its weights and buffers set by its own rule."""
    with torch.random.fork_rng([]), _hushed():
        torch.manual_seed(0)
        model.to_empty(device="cpu")
        model.initialize_weights()  # type: ignore[operator]
    return model.train()


@dataclass(frozen=True, slots=True)
class _Described:
    """The spec of a model as far as it was built, and the containers its stacks' blocks are in."""

    spec: dslm.ModelSpec
    containers: Mapping[str, str]


def _described(model: nn.Module, ids: torch.Tensor, context: int) -> _Described:
    config = model.config
    both = {"input_ids": ids, "decoder_input_ids": ids}
    batch = both if getattr(config, "is_encoder_decoder", False) else {"input_ids": ids}
    try:
        spec = trainer_agent.describe(model, batch)
    except ValueError as error:
        positions = getattr(config, "max_position_embeddings", None)
        if isinstance(positions, int) and context > positions:
            fix = f"--context {context}: the model has {positions} positions; give at most that"
            raise StartError(fix) from error
        raise StartError(str(error)) from error
    if len(spec.stacks) == 1:  # one column is one stack: no need to look for it
        return _Described(spec, dict.fromkeys(spec.stacks, columns(model)[0].container))
    found = architecture(model, (), batch).stacks
    return _Described(spec, {one.name: one.blocks[0].rpartition(".")[0] for one in found})


def _whole(found: _Described, kinds: list[_Kinds]) -> dslm.ModelSpec:
    """The spec with every block; those not built are as the first of their kind."""
    alike = {one.container: one.alike for one in kinds}
    stacks = {}
    for name, stack in found.spec.stacks.items():
        firsts = alike[found.containers[name]]
        stacks[name] = replace(stack, blocks=tuple(stack.blocks[first] for first in firsts))
    return replace(found.spec, stacks=stacks)


def _notes(kinds: list[_Kinds]) -> tuple[str, ...]:
    saved = [one for one in kinds if one.built < len(one.alike)]
    if not saved:
        return ()
    built = sum(one.built for one in kinds)
    total = sum(len(one.alike) for one in kinds)
    return (f"{built} of {total} blocks were built; the others have the moments of their kind",)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep transformers' advice about configs off a terminal that shows a table."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
