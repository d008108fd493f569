"""This process's plan and sums as those of the whole model."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_agent.capture.statistics.sums import Sums
from trainer_agent.distributed.pipeline import PipelineLayout
from trainer_agent.distributed.stage_layout import dropped_sites
from trainer_agent.model.plan import Plan


class GlobalPlan:
    """Widens plans to all stages of a pipeline, once the stages are known.

    Without a pipeline, and until then, every process's plan is that of the whole model.

    Attributes:
        layout: the pipeline, None without one.
        dropped_sites: sites that cannot be measured in all stages, each with the reason.
    """

    def __init__(self) -> None:
        self.layout: PipelineLayout | None = None
        self.dropped_sites: tuple[str, ...] = ()
        self._widened: tuple[Plan, Plan] | None = None

    def settle(self, layout: PipelineLayout | None, plan: Plan) -> None:
        """Take the layout that holds for all processes.

        Raises:
            LayoutMismatch: where this process's plan is another than it announced.
        """
        if layout is not None:
            layout.check(plan)
            self.dropped_sites = dropped_sites(layout.stages, plan.requested.sites)
        self.layout = layout

    def check(self, plan: Plan) -> None:
        """Raise `LayoutMismatch` where `plan` is not what the other processes count on."""
        if self.layout is not None:
            self.layout.check(plan)

    def of(self, plan: Plan) -> Plan:
        """The plan of the whole model, for this process's plan."""
        if self.layout is None:
            return plan
        # Asked for with every sample, and over the paths of all blocks.
        if self._widened is None or self._widened[0] is not plan:
            self._widened = plan, self.layout.global_plan(plan)
        return self._widened[1]

    def place(self, plan: Plan, sums: Sums) -> Sums:
        """Sums of this process's plan in the rows of the whole model's."""
        return sums if self.layout is None else self.layout.place(plan, sums)

    def layers_before(self, plan: Plan) -> Mapping[str, int]:
        """By stack of this process, how many of its layers lie in earlier stages."""
        return {} if self.layout is None else self.layout.layers_before(plan)
