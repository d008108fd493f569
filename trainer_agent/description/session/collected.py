"""What one sampled step has shown of a model, and the spec that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import dslm
from dslm.spec import Head, Kernel, Missing, ModelSpec, Stack
from trainer_agent.model.plan import Plan, StackPlan

if TYPE_CHECKING:
    from trainer_agent.description import Architecture, Connection, Weighed


@dataclass(slots=True)
class Observations:
    """What one sampled step has shown so far.

    Attributes:
        weights: moments of the weights, where the architecture says which those are.
        inputs, gradients: kernels of the stream into each stack, and of its gradient at the top.
        widths: features of each stack's stream.
        batch_size: sequences of the largest batch.
        notes: what makes a prediction doubtful though nothing is missing.
    """

    weights: Weighed | None = None
    inputs: dict[str, Kernel] = field(default_factory=dict)
    gradients: dict[str, Kernel] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    batch_size: int = 1
    notes: tuple[str, ...] = ()

    def rename(self, stacks: dict[str, str]) -> None:
        """Call stacks by other names; what belongs to one that has none is dropped."""
        self.inputs = {stacks[name]: x for name, x in self.inputs.items() if name in stacks}
        self.gradients = {stacks[name]: g for name, g in self.gradients.items() if name in stacks}
        self.widths = {stacks[name]: n for name, n in self.widths.items() if name in stacks}


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

    weights = observations.weights
    blocks = weights.blocks() if weights else {}
    links = weights.connections() if weights else {}
    spec = ModelSpec(
        family=architecture.family if architecture else "custom",
        stacks={
            s.name: _stack(s, observations, blocks.get(s.name), links.get(s.name, Connection()))
            for s in plan.stacks
            if s.name in observations.inputs
        },
        missing=(architecture.missing if architecture else ()) + tuple(failures),
        batch_size=observations.batch_size,
        n_params=n_params,
        notes=(architecture.notes if architecture else ()) + observations.notes,
    )
    return spec_to_json(spec)


def _stack(plan: StackPlan, observations: Observations, blocks: Any, link: Connection) -> Stack:
    return Stack(
        d_model=observations.widths[plan.name],
        blocks=(None,) * len(plan.blocks) if blocks is None else blocks,
        input_kernel=observations.inputs[plan.name],
        top_gradient_kernel=observations.gradients.get(plan.name),
        reads=link.reads,
        final_norm=link.final_norm,
        final_p_drop=link.final_p_drop,
        head=_head(link, observations.inputs[plan.name]),
    )


def _head(link: Connection, x: Kernel) -> Head | None:
    """The head with the labels of the batch it was read on; None where that was of another
    length than the one described now.
    """
    head = None if link.head is None else link.head.on(dslm.cell_sizes)
    same = head is not None and np.array_equal(head.labels.counted.cell_sizes, x.cell_sizes)
    return head if same else None
