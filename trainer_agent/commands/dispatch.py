"""What the server asks of a job, done in all its processes at one step or by none of them."""

from __future__ import annotations

from trainer_agent.commands.alert_actions import AlertActions
from trainer_agent.description.session.describer import SelfDescription
from trainer_agent.description.session.pipeline_describer import StagedDescription
from trainer_agent.distributed import Processes
from trainer_agent.sampling.controller import Pacing
from wire import Command

NOT_TOLD = "the processes of the job would not begin at the same step"


class Obedience:
    """Does what commands say, or sees to it that all processes of the job do."""

    def __init__(
        self,
        description: SelfDescription | StagedDescription,
        pacing: Pacing,
        actions: AlertActions,
        processes: Processes,
    ) -> None:
        self._description, self._pacing, self._actions = description, pacing, actions
        self._processes = processes
        pacing.on_word, pacing.on_lost = self._take, self._take_alone

    @property
    def waiting(self) -> bool:
        """Whether something was asked for that the end of a step has yet to begin."""
        return self._pacing.bursts.waiting or self._actions.waiting

    def obey(self, command: Command) -> None:
        """Do what the server asks; called from any thread."""
        if command.kind == "describe" and not self._description.together:
            self._description.ask()
        elif self._processes.size == 1:
            self._take(command)
        elif not self._pacing.tell_all(command):
            self._take_alone(command)

    def _take(self, command: Command) -> None:
        if command.kind == "describe":
            self._description.ask()
        elif command.kind == "burst":
            self._pacing.bursts.ask(command)
        elif command.kind == "alert" and command.alert is not None:
            self._actions.hear(command.alert, flags=self._processes.raises_flags)

    def _take_alone(self, command: Command) -> None:
        """What one process does where the others cannot be told: no step is left out of step."""
        if command.kind == "burst":
            self._pacing.bursts.refuse(command, NOT_TOLD)
        elif command.kind == "describe" and not self._processes.synchronized:
            self._description.ask()
        elif command.kind == "alert" and command.alert is not None:
            self._actions.hear(command.alert, flags=False)
