"""What one sampled step has shown of a model, and the spec that follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

import dslm
from dslm.flows import BlockFlow
from dslm.spec import Head, Kernel, Missing, ModelSpec, Stack
from trainer_agent.model.plan import Plan, StackPlan

if TYPE_CHECKING:
    from trainer_agent.description import Architecture, Connection, KernelSums, Weighed
    from trainer_agent.description.flow.sums import FlowSums

# Below this share of the tokens, those of other lengths are spoken of.
PREDICTED_SHARE = 0.75


@dataclass(slots=True)
class Observations:
    """What one sampled step has shown so far.

    Attributes:
        weights: moments of the weights, where the architecture says which those are.
        inputs, gradients: sums over the step's passes of the stream into each stack, and of its
            gradient at the top.
        widths: features of each stack's stream.
        batch_size: sequences of the largest batch.
        notes: what makes a prediction doubtful though nothing is missing.
        flow: what was measured inside the blocks.
    """

    weights: Weighed | None = None
    inputs: dict[str, KernelSums] = field(default_factory=dict)
    gradients: dict[str, KernelSums] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    batch_size: int = 1
    notes: tuple[str, ...] = ()
    flow: FlowSums | None = None

    def add_input(self, stack: str, x: Tensor, mask: Tensor | None) -> None:
        """Add what enters a stack in one pass, (batch, seq, features), and its padding mask."""
        _sums_of(self.inputs, stack).add(x, mask)
        self.widths[stack] = x.shape[-1]
        self.batch_size = max(self.batch_size, x.shape[0])

    def add_gradient(self, stack: str, g: Tensor, mask: Tensor | None) -> None:
        """Add the gradient at the top of a stack of one pass, shaped as the stream."""
        _sums_of(self.gradients, stack).add(g, mask)

    def rename(self, stacks: dict[str, str]) -> None:
        """Call stacks by other names; what belongs to one that has none is dropped."""
        self.inputs = {stacks[name]: x for name, x in self.inputs.items() if name in stacks}
        self.gradients = {stacks[name]: g for name, g in self.gradients.items() if name in stacks}
        self.widths = {stacks[name]: n for name, n in self.widths.items() if name in stacks}


def _sums_of(sums: dict[str, KernelSums], stack: str) -> KernelSums:
    from trainer_agent.description import KernelSums

    return sums.setdefault(stack, KernelSums())


def packed_spec(
    plan: Plan,
    architecture: Architecture | None,
    observations: Observations,
    n_params: int,
    failures: Sequence[Missing],
) -> dict[str, Any]:
    """The `ModelSpec` of a step, as JSON holds it."""
    from dslm import spec_to_json
    from trainer_agent.description import Connection
    from trainer_agent.description.spec.carried import carried
    from trainer_agent.description.spec.doubts import assumed_gradients, zero_rows

    weights = observations.weights
    blocks = weights.blocks() if weights else {}
    links = weights.connections() if weights else {}
    flows = {} if observations.flow is None else _flows(plan, observations.flow, blocks)
    spec = ModelSpec(
        family=architecture.family if architecture else "custom",
        stacks={
            s.name: replace(
                _stack(s, observations, blocks.get(s.name), links.get(s.name, Connection())),
                carried=carried(blocks.get(s.name, ()), flows.get(s.name, ())),
            )
            for s in plan.stacks
            if s.name in observations.inputs
        },
        missing=(architecture.missing if architecture else ()) + tuple(failures),
        batch_size=observations.batch_size,
        n_params=n_params,
        notes=(
            *(architecture.notes if architecture else ()),
            *observations.notes,
            *_lengths(plan, observations),
        ),
        flows=flows,
    )
    spec = replace(
        spec,
        missing=(*spec.missing, *assumed_gradients(spec.stacks)),
        notes=(*spec.notes, *zero_rows(spec.stacks)),
    )
    return spec_to_json(spec)


def _lengths(plan: Plan, observations: Observations) -> Iterator[str]:
    """Says of which sequences a prediction is, where those of other lengths are many."""
    for stack in plan.stacks:
        sums = observations.inputs.get(stack.name)
        if sums is not None and sums.share < PREDICTED_SHARE:
            yield (
                f"{stack.name}: the prediction is of sequences of {sums.length} tokens, which "
                f"hold {sums.share:.0%} of the step's tokens; what is measured is of all lengths"
            )


def _flows(
    plan: Plan, flow: FlowSums, blocks: Mapping[str, Any]
) -> dict[str, tuple[BlockFlow | None, ...]]:
    flows = {s.name: flow.flows(s.blocks) for s in plan.stacks if s.name in blocks}
    return flows if any(any(of_stack) for of_stack in flows.values()) else {}


def _stack(plan: StackPlan, observations: Observations, blocks: Any, link: Connection) -> Stack:
    sums, gradients = observations.inputs[plan.name], observations.gradients.get(plan.name)
    input_kernel = sums.kernel()
    return Stack(
        d_model=observations.widths[plan.name],
        blocks=(None,) * len(plan.blocks) if blocks is None else blocks,
        input_kernel=input_kernel,
        top_gradient_kernel=None if gradients is None else gradients.of_length(sums.length),
        reads=link.reads,
        final_norm=link.final_norm,
        final_p_drop=link.final_p_drop,
        head=_head(link, input_kernel),
    )


def _head(link: Connection, x: Kernel) -> Head | None:
    """The head with the labels of the batch it was read on; None where that was of another
    length than the one described now.
    """
    head = None if link.head is None else link.head.on(dslm.cell_sizes)
    same = head is not None and np.array_equal(head.labels.counted.cell_sizes, x.cell_sizes)
    return head if same else None
