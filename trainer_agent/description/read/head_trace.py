"""What a forward pass shows of the head: embeddings' ids, what enters the stacks, how it ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from dslm.spec import Missing
from trainer_agent.description.read.head import Embedded, head_of
from trainer_agent.description.read.parts import HeadPart, LabelsPart
from trainer_agent.description.trace.graph import UnrecognisedError
from trainer_agent.description.trace.tracer import Node, Trace

MAX_NODES = 256  # of what comes after the last block

logger = logging.getLogger("evenkeel")


@dataclass(slots=True)
class HeadTrace:
    """Traces the last stack's output to the loss.

    Attributes:
        missing: what of it was not understood.
    """

    model: nn.Module
    firsts: frozenset[str]
    missing: tuple[Missing, ...] = ()
    _ids: dict[str, Tensor] = field(default_factory=dict)
    _shares: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _after: tuple[str, Node] | None = None
    _parts: dict[str, HeadPart] = field(default_factory=dict)

    def note_input(self, block: str, stream: Tensor, trace: Trace) -> None:
        """Compare what enters a stack with the rows that embeddings have looked up for it."""
        if block not in self.firsts:
            return
        x = stream
        if trace.undropped is not None and trace.undropped[0] is stream:
            x = trace.undropped[1]  # a batch's own dropout would blur the share
        self._shares[block] = {
            weight: _share(x.detach(), rows)
            for weight, (_, rows) in trace.embeddings.items()
            if rows.shape == x.shape
        }
        self._ids |= {weight: ids for weight, (ids, _) in trace.embeddings.items()}
        # Rows are as large as the stream: nothing of them is held while the blocks run.
        trace.embeddings, trace.undropped = {}, None

    def trace_from(self, block: str, output: Tensor, trace: Trace) -> None:
        """Trace what becomes of the last stack's output."""
        self._after = (block, trace.begin(block, output, limit=MAX_NODES))

    def read(self, output: Any, mask: Tensor | None, trace: Trace) -> None:
        """Read the head off the trace, at the end of the pass; never raises."""
        if self._after is None or self._after[1] not in trace.nodes[:1]:
            return
        block, stream = self._after
        embeddings = [Embedded(weight, ids) for weight, ids in self._ids.items()]
        try:
            part = head_of(trace.nodes, stream, output, self.model, embeddings)
        except UnrecognisedError as error:
            # calls outside any module carry the name of the block that the trace began with
            where = "head" if error.where == block else error.where
            self.missing = (Missing(where, error.what, error.why),)
        except Exception:  # reading numbers off a foreign graph: it must not stop the rest
            logger.debug("evenkeel cannot read the head", exc_info=True)
            why = "what follows the blocks could not be followed"
            self.missing = (Missing("head", "loss and logits", why),)
        else:
            if part is not None:
                self._parts[block] = replace(part, labels=_masked(part.labels, mask))

    def of(self, first: str, last: str) -> HeadPart | None:
        """The head of the stack between these blocks, None where it has none."""
        part = self._parts.get(last)
        share = None if part is None else self._shares.get(first, {}).get(part.output.weight)
        if part is None or part.labels.ids is None or share is None:
            return part
        return replace(part, tied=float(share))


def _share(x: Tensor, rows: Tensor) -> Tensor:
    """How often a stream holds each token's own row of the embedding: x·w/(w·w)."""
    x, rows = x.float(), rows.to(x.device).float()
    return (x * rows).sum() / rows.square().sum().clamp_min(1e-30)


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
