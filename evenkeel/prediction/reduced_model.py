"""A config's model in reduced form: the first block of each kind, and only the embeddings read.

All blocks of one kind are drawn from one distribution, so the moments of one are those of all. The
full model is built on torch's `meta` device, which holds shapes only. Blocks past the first of the
last kind to appear are then removed, and the others initialised by the model's own rule, which
sees the config's full depth. The embedding's rows have one distribution, too: ids are drawn from
Zipf's law over the full vocabulary, then renumbered, so that the table needs only the rows drawn.

Wide blocks are not built. What a block computes is read from a model of the same config that is
narrower by a whole factor; the moments of its weights come from the initialiser of the wide one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn

import dslm
import dslm.spec as theory
from dslm.masks.cell_sizes import block_cells
from evenkeel.prediction.block_kinds import BlockKinds, remove_unbuilt
from evenkeel.prediction.changed_settings import with_layers, with_small_vocabulary
from evenkeel.prediction.coverage import gaps, uncovered
from evenkeel.prediction.initial_moments import initial_moments
from evenkeel.prediction.meta_model import build_on_meta, initialise, parameter_count
from evenkeel.prediction.model_settings import Settings, reason_of, setting, text_settings
from evenkeel.prediction.narrow import Narrowing, narrowed
from evenkeel.prediction.progress import report
from evenkeel.prediction.stack_inputs import BlockOutputs, stack_inputs
from server.errors import StartError
from trainer_agent.description import architecture
from trainer_agent.description.read.parts import Architecture
from trainer_agent.description.spec.kernels import kernel
from trainer_agent.description.spec.moments import Weighed, weigh
from trainer_agent.model.blocks import columns

DEFAULT_CONTEXT = 128
MOST_BUILT = 1_200_000_000  # parameters, which take 5 GB
NARROWED_FROM = 60_000_000  # parameters of the blocks to be built
OLDEST_TRANSFORMERS = 5  # older ones lost buffers made in a constructor on the meta device
TOKEN_INPUTS = ("input_ids", "decoder_input_ids")


def describe_config(
    settings: Settings, context: int | None, layers: int | None = None
) -> tuple[dslm.ModelSpec, tuple[str, ...]]:
    """Return the spec of the config's model at initialisation, and notes on how it was made.

    Args:
        settings: the config's JSON object.
        context: tokens of a sequence; None for 128, or as many as a smaller model has positions.
        layers: a depth in place of the config's.

    Raises:
        StartError: if a field is wrong, transformers cannot build or run the model, or the theory
            does not cover its blocks.
    """
    if int(transformers.__version__.split(".")[0]) < OLDEST_TRANSFORMERS:
        raise StartError(
            f"transformers {transformers.__version__} cannot set up a model from its shapes: "
            f"pip install 'transformers>={OLDEST_TRANSFORMERS}'"
        )
    settings, notes = text_settings(settings)
    settings = with_layers(settings, layers) if layers else settings
    report("building the model's shapes")
    full = build_on_meta(settings)
    _require_covered(full)
    context = context or _default_context(full)
    small, ids = with_small_vocabulary(settings, context)
    reduced = _Reduced.of(small, ids, context)
    report("reading what its blocks compute")
    spec = replace(_spec(reduced), n_params=parameter_count(full))
    gap = gaps(spec)
    if gap:
        raise StartError(gap)
    return spec, (*notes, *reduced.notes)


def _default_context(model: nn.Module) -> int:
    positions = setting(model.config, "max_position_embeddings")
    limited = isinstance(positions, int) and positions > 1
    return min(DEFAULT_CONTEXT, positions) if limited else DEFAULT_CONTEXT


def _spec(reduced: _Reduced) -> dslm.ModelSpec:
    """Return the spec, from the full width where the narrow model cannot be run."""
    try:
        return reduced.spec()
    except StartError:
        if reduced.narrowing is None or parameter_count(reduced.model) > MOST_BUILT:
            raise
    return replace(reduced, narrowing=None).spec()


def _require_covered(model: nn.Module) -> None:
    """Refuse a model whose blocks are beyond the theory, before any of it is built."""
    name = str(getattr(model, "main_input_name", "input_ids"))
    if name not in TOKEN_INPUTS:
        kind = model.config.model_type  # type: ignore[union-attr]
        raise StartError(
            f"{kind} reads {name}, not token ids; predict takes configs of text models"
        )
    if not columns(model):
        raise StartError(
            f"{type(model).__name__} has no row of blocks that hold attention or feed-forward "
            "layers, so the theory does not cover it"
        )
    for column in columns(model):
        sentence = uncovered(model, column)
        if sentence:
            raise StartError(sentence)


@dataclass(frozen=True, slots=True)
class _Reduced:
    """The first block of each kind, as the config has it and as it is built.

    Attributes:
        model: on the meta device, as wide as the config says.
        kinds: of each column of blocks.
        narrowing: the model that is built in its place, where it is too wide.
        ids: (batch, seq) token ids.
        context: tokens of a sequence.
    """

    model: nn.Module
    kinds: tuple[BlockKinds, ...]
    narrowing: Narrowing | None
    ids: torch.Tensor
    context: int

    @classmethod
    def of(cls, settings: Settings, ids: torch.Tensor, context: int) -> _Reduced:
        model = build_on_meta(settings)
        kinds = tuple(BlockKinds.of(model, column) for column in columns(model))
        for kind in kinds:
            remove_unbuilt(model, kind)
        n_built, narrowing = parameter_count(model), None
        if n_built > NARROWED_FROM:
            narrowing = narrowed(settings, model, kinds)
        if narrowing is None and n_built > MOST_BUILT:
            raise StartError(
                f"{n_built:,} parameters must be built, over {MOST_BUILT:,}: its blocks are all of "
                "different kinds, or too wide in a way that predict cannot scale down; give a "
                "config with fewer or narrower layers"
            )
        return cls(model, kinds, narrowing, ids, context)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left unbuilt."""
        narrow = self.narrowing
        by_factor = () if narrow is None else narrow.notes
        saved = [column for column in self.kinds if column.built < len(column.first_of_kind)]
        if not saved:
            return by_factor
        built = sum(column.built for column in self.kinds)
        total = sum(len(column.first_of_kind) for column in self.kinds)
        sentence = (
            f"{built} of {total} blocks were built; the others have the moments of their kind"
        )
        return (sentence, *by_factor)

    def spec(self) -> dslm.ModelSpec:
        """Return the spec with every block; those not built equal the first of their kind."""
        narrow = self.narrowing
        real = _initialised(self.model if narrow is None else narrow.model)
        layout, outputs = self._read(real)
        weights = weigh(layout, real)
        if narrow is not None:
            layout = narrow.widened(layout)
            weights = narrow.with_moments(layout, weights, initial_moments(self.model))
        blocks = self._all_blocks(layout, weights)
        return self._assembled(layout, weights, blocks, outputs)

    def _read(self, real: nn.Module) -> tuple[Architecture, BlockOutputs]:
        """Read the architecture off a pass over one sequence, which is all it takes."""
        paths = [block for column in columns(real) for block in column.blocks]
        try:
            with BlockOutputs(real, paths) as outputs:
                return architecture(real, (), self._batch(self.ids[:1])), outputs
        except Exception as error:  # a model raises what it likes
            positions = setting(real.config, "max_position_embeddings")
            if isinstance(positions, int) and self.context > positions:
                raise StartError(
                    f"--context {self.context}: the model has {positions} positions; give at most "
                    "that"
                ) from error
            name = type(real).__name__
            reason = reason_of(error)
            raise StartError(f"{name}'s forward pass fails on token ids: {reason}") from error

    def _batch(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        two = getattr(self.model.config, "is_encoder_decoder", False)
        return {"input_ids": ids, "decoder_input_ids": ids} if two else {"input_ids": ids}

    def _all_blocks(
        self, layout: Architecture, weights: Weighed
    ) -> dict[str, tuple[theory.Block | None, ...]]:
        by_container = {column.container: column.first_of_kind for column in self.kinds}
        blocks = {}
        for stack in layout.stacks:
            built = weights.blocks()[stack.name]
            firsts = by_container.get(stack.blocks[0].rpartition(".")[0], range(len(built)))
            index = {path.rpartition(".")[2]: i for i, path in enumerate(stack.blocks)}
            blocks[stack.name] = tuple(built[index.get(str(first), first)] for first in firsts)
        return blocks

    def _assembled(
        self,
        layout: Architecture,
        weights: Weighed,
        blocks: Mapping[str, tuple[theory.Block | None, ...]],
        outputs: BlockOutputs,
    ) -> dslm.ModelSpec:
        links = weights.connections()
        firsts = {stack.name: stack.blocks[0] for stack in layout.stacks}
        inputs = stack_inputs(self.model, firsts, outputs, self._batch(self.ids))
        stacks: dict[str, Any] = {}
        for stack in layout.stacks:
            of_stack, link = blocks[stack.name], links[stack.name]
            stacks[stack.name] = theory.Stack(
                d_model=stack.d_model,
                blocks=of_stack,
                input_kernel=kernel(inputs[stack.name], None, partial(block_cells, of_stack)),
                reads=link.reads,
                final_norm=link.final_norm,
                final_p_drop=link.final_p_drop,
            )
        return dslm.ModelSpec(
            family=layout.family,
            stacks=stacks,
            missing=layout.missing,
            batch_size=len(self.ids),
            notes=layout.notes,
        )


def _initialised(model: nn.Module) -> nn.Module:
    """Return the model on the CPU, its weights and buffers set by its own rule."""
    model.to_empty(device="cpu")
    initialise(model)
    return model.train()  # predictions are of training, dropout included
