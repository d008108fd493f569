"""Where in a block the attention call is looked for: each torch call observed costs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

from torch import nn
from torch.utils.hooks import RemovableHandle

from trainer_agent.capture.hooks import Notify
from trainer_agent.model.plan import Plan, StackPlan
from trainer_agent.model.reference import refer_to


class AttentionSpans:
    """Sets hooks at the ends of the part of each block that holds its attention call.

    That part lies between the modules that make queries, keys and values and the one that makes
    the branch's output, where every block has these as modules without children; else it is the
    whole block.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, start: Callable[[], None], stop: Callable[[], None]
    ) -> None:
        self._model = refer_to(model)
        self._start, self._stop = Notify(start), Notify(stop)
        self._between_projections = _has_projections(plan, model)

    def attach(self, stack: StackPlan, index: int) -> list[RemovableHandle]:
        """Set the hooks of one block."""
        module = self._model().get_submodule
        if not self._between_projections:
            enters, leaves = stack.ends(index)
            start = module(enters.module).register_forward_pre_hook(self._start)
            if not leaves.module:  # the end of the whole pass, which stops it anyway
                return [start]
            last = module(leaves.module)
            stops = (
                last.register_forward_pre_hook if leaves.is_input else last.register_forward_hook
            )
            # Of the block before, at the same module, the hook that stops was set first.
            return [start, stops(self._stop)]
        # From any of the projections on: a fused one is all three, and their order is the model's.
        output = module(stack.attention_outputs[index] or "")
        return [
            *(module(path).register_forward_hook(self._start) for path in stack.projections[index]),
            output.register_forward_pre_hook(self._stop),
        ]


def _has_projections(plan: Plan, model: nn.Module) -> bool:
    spans = [
        (*projections, output) if projections and output else ()
        for stack in plan.stacks
        for _, projections, output in zip_longest(
            stack.blocks, stack.projections, stack.attention_outputs, fillvalue=()
        )
    ]
    ends = [model.get_submodule(path) for span in spans for path in span]
    return all(spans) and not any(any(module.children()) for module in ends)
