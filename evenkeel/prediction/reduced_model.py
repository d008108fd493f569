"""A config's model in reduced form: the first block of each kind, and only the embeddings read.

All blocks of one kind are drawn from one distribution, so the moments of one are those of all. The
full model is built on torch's `meta` device, which holds shapes only. Blocks past the first of the
last kind to appear are then removed, and the others initialised by the model's own rule, which
sees the config's full depth. The embedding's rows have one distribution, too: ids are drawn from
Zipf's law over the full vocabulary, then renumbered, so that the table needs only the rows drawn.
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
from evenkeel.prediction.zipf import zipf_ids
from server.errors import StartError
from trainer_agent.description import architecture
from trainer_agent.model.blocks import Column, columns

MOST_BUILT = 4_000_000_000  # parameters, which take 16 GB
OLDEST_TRANSFORMERS = 5  # older ones lost buffers made in a constructor on the meta device
FEW_IDS = 4096  # vocabularies up to this size are built in full
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
DEPTH_SETTINGS = ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
Settings = dict[str, Any]


def describe_config(
    settings: Settings, context: int, layers: int | None = None
) -> tuple[dslm.ModelSpec, tuple[str, ...]]:
    """Return the spec of the config's model at initialisation, and notes on how it was made.

    Args:
        settings: the config's JSON object.
        context: tokens of a sequence.
        layers: a depth in place of the config's.

    Raises:
        StartError: if transformers cannot build or run the model, or it is too large.
    """
    if int(transformers.__version__.split(".")[0]) < OLDEST_TRANSFORMERS:
        raise StartError(
            f"transformers {transformers.__version__} cannot set up a model from its shapes: "
            f"pip install 'transformers>={OLDEST_TRANSFORMERS}'"
        )
    settings = with_layers(settings, layers) if layers else settings
    n_params = _count(build_on_meta(settings))
    small, ids = with_small_vocabulary(settings, context)
    model = build_on_meta(small)
    kinds = [_BlockKinds.of(model, column) for column in columns(model)]
    for kind in kinds:
        _remove_unbuilt(model, kind)
    if _count(model) > MOST_BUILT:
        raise StartError(
            f"{_count(model):,} parameters must be built, over {MOST_BUILT:,}: its blocks are all "
            "of different kinds, or too wide; give a config with fewer or narrower layers"
        )
    spec = _full_spec(_described(_initialised(model), ids, context), kinds)
    return replace(spec, n_params=n_params), _notes(kinds)


def build_on_meta(settings: Settings) -> nn.Module:
    """Return the config's model on the meta device, float32."""
    try:
        config = transformers.AutoConfig.for_model(**settings)
        with _without_warnings(), torch.device("meta"):
            model = transformers.AutoModel.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        reason = str(error).split(". ", maxsplit=1)[0]  # what follows lists every model there is
        raise StartError(f"transformers cannot build it: {reason}") from error
    assert isinstance(model, nn.Module)
    return model


def with_layers(settings: Settings, layers: int) -> Settings:
    """Return the settings with another depth; lists with one entry a layer are repeated."""
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


def with_small_vocabulary(settings: Settings, context: int) -> tuple[Settings, torch.Tensor]:
    """Return the settings with a vocabulary of the drawn and the special ids, and the drawn ids.

    Raises:
        StartError: if the config has no vocabulary.
    """
    config = transformers.AutoConfig.for_model(**settings)
    vocabulary = getattr(config, "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise StartError("vocab_size is missing; predict takes configs of text models")
    numbers = {name: getattr(config, name, None) for name in SPECIAL_IDS}
    special = {name: number for name, number in numbers.items() if isinstance(number, int)}
    reserved = [number for number in special.values() if 0 <= number < vocabulary]
    ids = zipf_ids(vocabulary, context, reserved)
    if vocabulary <= FEW_IDS:
        return settings, torch.from_numpy(ids)
    # low special ids keep their numbers, as models treat some, such as padding, by number
    first = 1 + max((number for number in reserved if number < FEW_IDS), default=-1)
    drawn, renumbered = np.unique(ids, return_inverse=True)
    last = first + len(drawn)  # takes the place of special ids past the new vocabulary
    moved = {name: last for name, number in special.items() if number >= last}
    small = settings | moved | {"vocab_size": last + 1}
    return small, torch.from_numpy(first + renumbered.reshape(ids.shape))


@dataclass(frozen=True, slots=True)
class _BlockKinds:
    """The kinds of a column's blocks.

    Attributes:
        container: path of the module list that holds the blocks.
        first_of_kind: for each block, the index of the first block of its kind.
    """

    container: str
    first_of_kind: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, column: Column) -> _BlockKinds:
        firsts: dict[object, int] = {}
        for number, path in enumerate(column.blocks):
            firsts.setdefault(_kind(model.get_submodule(path), number), number)
        first_of_kind = tuple(
            firsts[_kind(model.get_submodule(path), number)]
            for number, path in enumerate(column.blocks)
        )
        return cls(column.container, first_of_kind)

    @property
    def built(self) -> int:
        """Number of blocks that must be built: up to the first of the last kind to appear."""
        return max(self.first_of_kind) + 1


def _kind(block: nn.Module, number: int) -> object:
    """Return a value that is equal for blocks with the same distribution and computation.

    It consists of the modules' types, plain attributes and parameter shapes.
    """
    parts = []
    for path, module in block.named_modules():
        plain = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, int | float | str | None) and "layer_idx" not in name
        }
        shapes = tuple((name, tuple(p.shape)) for name, p in module.named_parameters(recurse=False))
        parts.append((path, type(module), tuple(sorted(plain.items(), key=str)), shapes))
        # a flag such as "is the first layer" makes the block one of a kind
        if any(value is True for name, value in vars(module).items() if "layer_idx" in name):
            parts.append((path, type(module), (), (("depends on its layer", (number,)),)))
    return tuple(parts)


def _remove_unbuilt(model: nn.Module, kinds: _BlockKinds) -> None:
    """Remove the blocks that need not be built."""
    container = model.get_submodule(kinds.container)
    if isinstance(container, nn.ModuleList) and len(container) == len(kinds.first_of_kind):
        del container[kinds.built :]


def _initialised(model: nn.Module) -> nn.Module:
    """Return the model on the CPU, its weights and buffers set by its own rule."""
    # forked: the caller's random state is not ours to move
    with torch.random.fork_rng([]), _without_warnings():
        torch.manual_seed(0)
        model.to_empty(device="cpu")
        model.initialize_weights()  # type: ignore[operator]
    return model.train()  # predictions are of training, dropout included


@dataclass(frozen=True, slots=True)
class _ReducedSpec:
    """The spec of a reduced model, and the module lists that hold its stacks' blocks."""

    spec: dslm.ModelSpec
    containers: Mapping[str, str]


def _described(model: nn.Module, ids: torch.Tensor, context: int) -> _ReducedSpec:
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
    if len(spec.stacks) == 1:  # spares another pass: the one column is the stack
        return _ReducedSpec(spec, dict.fromkeys(spec.stacks, columns(model)[0].container))
    stacks = architecture(model, (), batch).stacks
    return _ReducedSpec(spec, {stack.name: stack.blocks[0].rpartition(".")[0] for stack in stacks})


def _full_spec(reduced: _ReducedSpec, kinds: list[_BlockKinds]) -> dslm.ModelSpec:
    """Return the spec with every block; those not built equal the first of their kind."""
    firsts_by_container = {column.container: column.first_of_kind for column in kinds}
    stacks = {}
    for name, stack in reduced.spec.stacks.items():
        firsts = firsts_by_container[reduced.containers[name]]
        stacks[name] = replace(stack, blocks=tuple(stack.blocks[first] for first in firsts))
    return replace(reduced.spec, stacks=stacks)


def _notes(kinds: list[_BlockKinds]) -> tuple[str, ...]:
    saved = [column for column in kinds if column.built < len(column.first_of_kind)]
    if not saved:
        return ()
    built = sum(column.built for column in kinds)
    total = sum(len(column.first_of_kind) for column in kinds)
    return (f"{built} of {total} blocks were built; the others have the moments of their kind",)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep transformers' advice about configs off a terminal that shows a table."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
