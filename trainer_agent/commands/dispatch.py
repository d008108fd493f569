"""Dispatch of the server's commands: all processes of a job apply one at the same step, or none."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from trainer_agent.commands.alert_actions import AlertActions
from trainer_agent.description.session.describer import SelfDescription
from trainer_agent.description.session.pipeline_describer import StagedDescription
from trainer_agent.distributed import Processes, StepOutcome
from trainer_agent.sampling.controller import SamplingController
from wire import Command

REFUSAL = "the processes of the job would not begin at the same step"


class Dispatcher:
    """Hands each command to the part that applies it, in all processes of the job.

    `wake` is called, from any thread, when the end of the next step has something to do.
    """

    def __init__(
        self,
        describer: SelfDescription | StagedDescription,
        controller: SamplingController,
        actions: AlertActions,
        processes: Processes,
        wake: Callable[[], None],
    ) -> None:
        self._describer, self._controller, self._actions = describer, controller, actions
        self._processes, self._wake = processes, wake
        self._broadcast_ids: set[str] = set()

    def dispatch(self, command: Command) -> None:
        """Apply a command, or have all processes apply it; called from the sender's thread."""
        if command.kind == "describe" and not self._describer.together:
            self._describer.ask()
        elif self._processes.size == 1:
            self._apply(command)
        elif not self._broadcast(command):
            self._apply_alone(command)
        self.wake_if_waiting()

    def wake_if_waiting(self) -> None:
        """Call `wake` if a command waits for the end of a step; called from any thread."""
        if self._controller.bursts.waiting or self._actions.waiting:
            self._wake()

    def end_step(self, outcome: StepOutcome) -> None:
        """Apply what the processes are to apply at the end of this step."""
        for command in outcome.due:
            self._apply(msgspec.json.decode(command, type=Command))
        for command in outcome.undelivered:
            self._apply_alone(msgspec.json.decode(command, type=Command))

    def _broadcast(self, command: Command) -> bool:
        if command.id in self._broadcast_ids:
            return True
        if command.kind == "burst":
            # Cut to what the budget allows: no process could end it earlier than the others.
            steps = self._controller.affordable(command.steps)
            command = msgspec.structs.replace(command, steps=steps)
        if not self._processes.broadcast(msgspec.json.encode(command)):
            return False
        self._broadcast_ids.add(command.id)
        return True

    def _apply(self, command: Command) -> None:
        if command.kind == "describe":
            self._describer.ask()
        elif command.kind == "burst":
            self._controller.bursts.request(command)
        elif command.kind == "alert" and command.alert is not None:
            self._actions.add(command.alert, flags=self._processes.raises_flags)

    def _apply_alone(self, command: Command) -> None:
        """Apply what leaves the steps of this process those of the others."""
        if command.kind == "burst":
            self._controller.bursts.refuse(command, REFUSAL)
        elif command.kind == "describe" and not self._processes.synchronized:
            self._describer.ask()
        elif command.kind == "alert" and command.alert is not None:
            # A process that stops while the others go on would leave them waiting for ever.
            self._actions.add(command.alert, flags=False)
