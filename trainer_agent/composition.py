"""How the parts of an agent are put together: read from top to bottom, each needs those above."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from trainer_agent.capture.guard import Guard
from trainer_agent.capture.hook_manager import HookManager
from trainer_agent.capture.model_state import device_of
from trainer_agent.capture.notes import Notes
from trainer_agent.capture.overhead_account import OverheadAccount
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.token_axis import TokenAxes, sequence_first_blocks
from trainer_agent.commands.alert_actions import AlertActions
from trainer_agent.commands.dispatch import Dispatcher
from trainer_agent.delivery.intervals import ExportIntervals
from trainer_agent.delivery.sender import Sender
from trainer_agent.delivery.transport import Transport
from trainer_agent.description.hints import Hint
from trainer_agent.description.planning import plan_by_structure
from trainer_agent.description.session.describer import SelfDescription
from trainer_agent.description.session.pipeline_describer import StagedDescription
from trainer_agent.distributed import Processes, ReduceOnlySender, join
from trainer_agent.health import HealthReport
from trainer_agent.job.loss_scale import LossScale
from trainer_agent.job.optimizer import OptimizerReader
from trainer_agent.job.parameters import ParameterReader
from trainer_agent.job.resumed_state import ResumedState
from trainer_agent.job.skip_step import UpdateSkipper
from trainer_agent.model.chunks import chunks_of, joined
from trainer_agent.model.sites import CustomSite, RequestedSites
from trainer_agent.model.unwrap import unwrap
from trainer_agent.options import Options
from trainer_agent.sampling.controller import SamplingController
from trainer_agent.sampling.framing import Framing
from trainer_agent.sampling.overhead import OverheadMeter
from trainer_agent.sampling.readout import Readout
from trainer_agent.sampling.step_scalars import StepScalars


class Removable(Protocol):
    """A part that has set hooks on the job's objects."""

    def remove(self) -> None:
        """Take the hooks away."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that an `Agent` calls; each is complete.

    Attributes:
        parameters: None where no optimizer is known and nothing of parameters is requested.
        removables: what has set hooks.
    """

    guard: Guard
    account: OverheadAccount
    recorder: Recorder
    hooks: HookManager
    processes: Processes
    describer: SelfDescription | StagedDescription
    optimizer: OptimizerReader
    parameters: ParameterReader | None
    meter: OverheadMeter
    controller: SamplingController
    readout: Readout
    actions: AlertActions
    dispatcher: Dispatcher
    sender: Sender | ReduceOnlySender
    scalars: StepScalars
    resumed: ResumedState
    removables: tuple[Removable, ...]


def compose(
    model: nn.Module,
    options: Options,
    *,
    run_id: str,
    optimizers: tuple[Optimizer, ...],
    scaler: Any,
    transport: Callable[[], Transport],
    intervals: ExportIntervals | None,
    custom: tuple[CustomSite, ...],
    hints: Sequence[Hint],
    wake: Callable[[], None],
) -> Parts:
    """The parts of the agent of a run. `wake` is `Dispatcher`'s."""
    guard, account, notes = Guard(), OverheadAccount(), Notes()
    # Hooks on a wrapper would see what it adds (an all-gather, a compiled graph), not the model.
    inner = unwrap(model)
    local_stages, n_stages = options.pipeline or (None, None)
    chunks = chunks_of(model, local_stages)
    structure = joined((chunk, plan_by_structure(chunk.module, hints)) for chunk in chunks)
    requested = RequestedSites(
        options.quantities, options.sites, custom, parameters=bool(optimizers)
    )
    plan = replace(structure, requested=requested)

    blocks = (block for stack in plan.stacks for block in stack.blocks)
    axes = TokenAxes(options.token_axis, sequence_first_blocks(inner, blocks))
    recorder = Recorder(plan, device_of(inner), guard, account, notes=notes, axes=axes)
    hooks = HookManager(inner, chunks, plan, recorder, guard=guard, account=account)
    processes = join(
        guard,
        inner,
        plan,
        chunks,
        n_stages=n_stages,
        fixed_interval=options.every is not None,
        rank=options.rank,
    )
    describer: SelfDescription | StagedDescription
    if options.pipeline is None:
        describer = SelfDescription(
            inner,
            hooks,
            recorder,
            guard=guard,
            account=account,
            hints=hints,
            processes=processes,
        )
    else:
        describer = StagedDescription(
            chunks,
            hooks,
            recorder,
            guard=guard,
            account=account,
            hints=hints,
            processes=processes,
        )

    scale = LossScale(scaler)
    staged = options.pipeline is not None
    optimizer_reader = OptimizerReader(
        optimizers,
        scale,
        recorder,
        guard,
        account,
        staged=staged,
        model=inner,
        notes=notes,
    )
    parameters = None
    # Its hooks come before those that may take the gradients away: it reads what the job computed.
    if plan.parameter_places:
        parameters = ParameterReader(inner, hooks, recorder, guard, account)
        for optimizer in optimizers:
            parameters.attach(optimizer)
    skips = "skip_step" in options.on_alert
    skippers = [UpdateSkipper(optimizer, guard) for optimizer in optimizers if skips]
    hooked = describer, hooks, optimizer_reader, parameters, *skippers

    meter = OverheadMeter(account, recorder)
    controller = SamplingController(options, hooks, recorder, meter, processes)
    framing = Framing(options, processes)
    readout = Readout(
        hooks,
        recorder,
        optimizer_reader,
        scale,
        meter,
        controller,
        framing,
        processes,
        parameters,
    )

    actions = AlertActions(options.on_alert, guard)
    dispatcher = Dispatcher(describer, controller, actions, processes, wake)
    resumed = ResumedState(optimizers, guard)
    health = HealthReport(
        guard, notes, hooks, framing, meter, controller, actions, processes, resumed
    )
    # The only thread that talks to the server; on other ranks nothing does.
    sender = (
        Sender(
            options,
            run_id,
            transport=transport,
            health=health,
            on_command=dispatcher.dispatch,
            guard=guard,
            charge=meter.charge_background,
            intervals=intervals,
        )
        if processes.is_sender
        else ReduceOnlySender(guard)
    )

    def suspect() -> None:
        controller.bursts.suspect()
        wake()

    def sample() -> None:
        controller.sample_soon()
        wake()

    scalars = StepScalars(
        optimizer_reader,
        framing.declaration,
        sender.offer,
        suspect=suspect,
        sample=sample,
        guard=guard,
        account=account,
        enabled=processes.is_sender,
    )
    return Parts(
        guard=guard,
        account=account,
        recorder=recorder,
        hooks=hooks,
        processes=processes,
        describer=describer,
        optimizer=optimizer_reader,
        parameters=parameters,
        meter=meter,
        controller=controller,
        readout=readout,
        actions=actions,
        dispatcher=dispatcher,
        sender=sender,
        scalars=scalars,
        resumed=resumed,
        removables=tuple(part for part in (*hooked, scalars, resumed) if part is not None),
    )
