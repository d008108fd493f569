"""What one sampled step has shown of a model, and the spec that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import dslm
from dslm.spec import Head, Kernel, Missing, ModelSpec, Stack
from trainer_agent.model.plan import Plan, StackPlan

if TYPE_CHECKING:
    from trainer_agent.description import Architecture, Connection, Weighed


@dataclass(frozen=True, slots=True)
class Given:
    """What a forward pass was given, to be run again at the end of the step."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    autocast: Callable[[], AbstractContextManager[Any]]

    @classmethod
    def now(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any], device: torch.device) -> Given:
        """Keep the arguments, and the autocast that is in force."""
        kind = device.type
        autocast = partial(
            torch.autocast,
            kind,
            dtype=torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
        )
        return cls(args, kwargs, autocast)

    @property
    def tokens(self) -> int:
        """Tokens of the largest argument: (batch, seq), with or without features."""
        shapes = [x.shape for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor)]
        return max((int(np.prod(shape[:2])) for shape in shapes), default=1)


@dataclass(slots=True)
class Notes:
    """What one sampled step has shown so far."""

    weights: Weighed | None = None
    inputs: dict[str, Kernel] = field(default_factory=dict)
    gradients: dict[str, Kernel] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    batch_size: int = 1
    remarks: tuple[str, ...] = ()


def packed_spec(
    plan: Plan,
    known: Architecture | None,
    notes: Notes,
    n_params: int,
    failures: Sequence[Missing],
) -> dict[str, Any]:
    """The `ModelSpec` of a step, as JSON holds it."""
    from dslm import spec_to_json
    from trainer_agent.description import Connection

    blocks = notes.weights.blocks() if notes.weights else {}
    links = notes.weights.connections() if notes.weights else {}
    spec = ModelSpec(
        family=known.family if known else "custom",
        stacks={
            s.name: _stack(s, notes, blocks.get(s.name), links.get(s.name, Connection()))
            for s in plan.stacks
            if s.name in notes.inputs
        },
        missing=(known.missing if known else ()) + tuple(failures),
        batch_size=notes.batch_size,
        n_params=n_params,
        notes=(known.notes if known else ()) + notes.remarks,
    )
    return spec_to_json(spec)


def _stack(plan: StackPlan, notes: Notes, blocks: Any, link: Connection) -> Stack:
    return Stack(
        d_model=notes.widths[plan.name],
        blocks=(None,) * len(plan.blocks) if blocks is None else blocks,
        input_kernel=notes.inputs[plan.name],
        top_gradient_kernel=notes.gradients.get(plan.name),
        reads=link.reads,
        final_norm=link.final_norm,
        final_p_drop=link.final_p_drop,
        head=_head(link, notes.inputs[plan.name]),
    )


def _head(link: Connection, x: Kernel) -> Head | None:
    """The head with the labels of the batch it was found on; None where that was of another
    length than the one described now.
    """
    head = None if link.head is None else link.head.on(dslm.cell_sizes)
    same = head is not None and np.array_equal(head.labels.counted.cell_sizes, x.cell_sizes)
    return head if same else None
