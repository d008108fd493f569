"""Weights that are not independent, which the theory takes them to be: told, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer_agent.description.read.parts import Architecture, BlockParts, LinearPart
from trainer_agent.description.trace.unsharded import is_sharded
from trainer_agent.model.unwrap import unwrap

ENTRIES = 1 << 20  # of a matrix that are looked at: sums over so many tell a tenth from nothing
ALIKE = 0.1  # correlation of entries; of independent ones it is below a hundredth
ONE_SIGN = 0.03  # squared mean over mean square; of entries of both signs it is far below
OFF = "which the theory takes as independent: its curves may be off by tens of percent"


@dataclass(frozen=True, slots=True)
class _Pair:
    block: str
    names: str
    correlation: Tensor


@torch.no_grad()
def dependences(architecture: Architecture, model: nn.Module) -> tuple[str, ...]:
    """A sentence for each kind of dependence between the weights of a block.

    Matrices that follow each other (value and output, up and down) and queries and keys are
    compared entry by entry, as the trace of their product does; and each matrix's mean with the
    size of its entries. The first block that shows a kind is named, with how many do. Reads at
    most 2^20 entries a matrix and waits for the device once. Sharded weights are left out.
    """
    parameters = dict(unwrap(model).named_parameters(remove_duplicate=False))
    pairs = [
        pair
        for stack in architecture.stacks
        for path, parts in zip(stack.blocks, stack.parts, strict=True)
        if parts is not None
        for pair in _pairs(path, parts, parameters)
    ]
    if not pairs:
        return ()
    device = pairs[0].correlation.device
    values = torch.stack([pair.correlation.to(device) for pair in pairs]).tolist()
    found: dict[str, list[tuple[str, float]]] = {}
    for pair, value in zip(pairs, values, strict=True):
        limit = ONE_SIGN if pair.names.startswith("the entries") else ALIKE
        if abs(value) > limit:
            found.setdefault(pair.names, []).append((pair.block, value))
    return tuple(_sentence(names, blocks) for names, blocks in found.items())


def _sentence(names: str, blocks: list[tuple[str, float]]) -> str:
    (first, value), more = blocks[0], len(blocks) - 1
    where = first if not more else f"{first} and {more} other block{'s' if more > 1 else ''}"
    if names.startswith("the entries"):
        return (
            f"{where}: {names} are of one sign (their squared mean is {value:.0%} of their mean "
            "square), and the theory takes their mean as 0: its curves may be off by tens of "
            "percent"
        )
    return f"{where}: {names} are alike, entry by entry (correlation {value:.2f}), {OFF}"


def _pairs(path: str, parts: BlockParts, parameters: Mapping[str, Tensor]) -> Iterator[_Pair]:
    attention, layer = parts.attention, parts.feed_forward
    view = _Matrices(parameters)
    maps = {"the value map's": attention.value, "the output map's": attention.output}
    if layer.experts is None:
        maps |= {"the up map's": layer.up, "the down map's": layer.down}
        yield from _alike(path, "up and down map", view.rows(layer.up), view.columns(layer.down))
    value, output = view.rows(attention.value), view.columns(attention.output)
    yield from _alike(path, "value and output map", value, output)
    query, key = view.rows(attention.query), view.rows(attention.key)
    yield from _alike(path, "query and key map", query, key)
    for name, part in maps.items():
        rows = view.rows(part)
        if rows is not None:
            share = rows.mean().square() / rows.square().mean().clamp_min(1e-30)
            yield _Pair(path, f"the entries of {name} matrix", share)


def _alike(path: str, names: str, a: Tensor | None, b: Tensor | None) -> Iterator[_Pair]:
    if a is None or b is None or a.shape != b.shape:
        return
    size = (a.square().sum() * b.square().sum()).sqrt().clamp_min(1e-30)
    yield _Pair(path, names, (a * b).sum() / size)


@dataclass(frozen=True, slots=True)
class _Matrices:
    """The first rows and columns of maps, in float32."""

    parameters: Mapping[str, Tensor]

    def rows(self, part: LinearPart) -> Tensor | None:
        """(n, d_in): what the map's first outputs are made by."""
        weight = self._weight(part)
        if weight is None:
            return None
        by_output = weight.T if part.input_first else weight
        start, stop = part.outputs[0]
        n = min(stop - start, max(ENTRIES // by_output.shape[1], 1))
        return by_output[start : start + n].float()

    def columns(self, part: LinearPart) -> Tensor | None:
        """(n, d_out): what the map's first inputs are multiplied by."""
        weight = self._weight(part)
        if weight is None:
            return None
        by_input = weight if part.input_first else weight.T
        return by_input[: max(ENTRIES // by_input.shape[1], 1)].float()

    def _weight(self, part: LinearPart) -> Tensor | None:
        weight = self.parameters.get(part.weight)
        is_plain = weight is not None and weight.ndim == 2 and not is_sharded(weight)
        if weight is None or not is_plain or part.latent is not None or weight.numel() == 0:
            return None
        return weight.detach()
