"""What the architecture's pass notes for the head: embeddings' ids, inputs, the end of the pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dslm.spec import Missing
from trainer_agent.description.read.head import Embedded, head_of
from trainer_agent.description.read.parts import HeadPart, LabelsPart
from trainer_agent.description.trace.graph import UnrecognisedError
from trainer_agent.description.trace.tracer import Node, Trace

MAX_NODES = 256  # of what comes after the last block


@dataclass(slots=True)
class Heads:
    """Follows the last stack's output to the loss."""

    model: nn.Module
    firsts: frozenset[str]
    embedded: dict[str, Embedded] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    after: tuple[str, Node] | None = None
    found: dict[str, HeadPart] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()

    def hooks(self, names: Mapping[int, str]) -> list[RemovableHandle]:
        """Hooks that note what each embedding is asked for, by its parameter's name."""
        tables = [m for m in self.model.modules() if isinstance(m, nn.Embedding)]
        return [
            table.register_forward_pre_hook(self._noting(names[id(table.weight)]))
            for table in tables
            if id(table.weight) in names
        ]

    def _noting(self, weight: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                self.embedded[weight] = Embedded(weight, args[0])

        return hook

    def note_input(self, block: str, stream: Tensor) -> None:
        """Keep what enters a stack: the embeddings are in it."""
        if block in self.firsts:
            self.inputs[block] = stream

    def follow(self, block: str, output: Tensor, trace: Trace) -> None:
        """Trace what becomes of the last stack's output."""
        self.after = (block, trace.begin(block, output, limit=MAX_NODES))

    def understand(self, output: Any, mask: Tensor | None, trace: Trace) -> None:
        """Read the head off the trace, at the end of the pass; never raises."""
        if self.after is None or self.after[1] not in trace.nodes[:1]:
            return
        block, stream = self.after
        try:
            part = head_of(trace.nodes, stream, output, self.model, list(self.embedded.values()))
        except UnrecognisedError as error:
            # calls outside any module carry the name of the block that the trace began with
            where = "head" if error.where == block else error.where
            self.missing = (Missing(where, error.what, error.why),)
        except Exception as error:  # reading numbers off a foreign graph: it must not stop the rest
            what = f"{type(error).__name__}: {error}"
            self.missing = (Missing("head", what, "what follows the blocks could not be followed"),)
        else:
            if part is not None:
                self.found[block] = replace(part, labels=_masked(part.labels, mask))

    def of(self, first: str, last: str) -> HeadPart | None:
        """The head of the stack between these blocks, None where it has none."""
        part = self.found.get(last)
        if part is None or part.labels.ids is None or first not in self.inputs:
            return part
        return replace(part, tied=self._tied(part, self.inputs[first]))

    @torch.no_grad()
    def _tied(self, part: HeadPart, x: Tensor) -> float:
        """How often a stack's input holds each token's own row of the head: x·w/(w·w)."""
        assert part.labels.ids is not None
        weight = self.model.get_parameter(part.output.weight)
        rows = weight[part.labels.ids.to(weight.device)].float()
        return float((x.float() * rows).sum() / rows.square().sum().clamp_min(1e-30))


def padding_of(kwargs: Mapping[str, Any]) -> Tensor | None:
    """The batch's (batch, seq) attention mask, where it has one."""
    mask = kwargs.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _masked(labels: LabelsPart, mask: Tensor | None) -> LabelsPart:
    """The labels on the host, where they are compared in any thread."""
    fits = mask is not None and mask.shape == labels.labels.shape
    return LabelsPart(
        weight=labels.weight,
        labels=labels.labels.cpu(),
        ids=None if labels.ids is None else labels.ids.cpu(),
        mask=mask.cpu() if fits and mask is not None else None,
    )
