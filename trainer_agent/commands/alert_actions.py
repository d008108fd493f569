"""What a job does about alerts, where its user asked for something: nothing by default."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from trainer_agent.capture.guard import Guard
from trainer_agent.errors import WatchError
from wire import AlertNotice

logger = logging.getLogger("evenkeel")
NAMED = ("stop", "checkpoint", "skip_step")

Action = str | Callable[[AlertNotice], object]


def read_actions(given: Action | Sequence[Action] | None) -> tuple[Action, ...]:
    """The actions as a tuple.

    Raises:
        WatchError: for one that is neither a name nor callable.
    """
    several = isinstance(given, Sequence) and not isinstance(given, str)
    actions: tuple[Any, ...] = () if given is None else tuple(given) if several else (given,)  # type: ignore[arg-type]
    for action in actions:
        if action not in NAMED and not callable(action):
            raise WatchError(
                "on_alert",
                f"{action!r} is no action",
                fix=f"give a function of one argument, or one of {', '.join(NAMED)}",
            )
    return actions


class AlertActions:
    """Acts on the alerts that the server tells of, in the training thread, at a step's end.

    Functions hear of every alert. ``"stop"`` and ``"checkpoint"`` raise flags for the loop, on
    critical alerts alone.

    Attributes:
        should_stop: whether the loop is asked to stop.
        should_save: whether it is asked to save a checkpoint.
        reason: the alert that asked for it, in words.
    """

    def __init__(self, actions: tuple[Action, ...], guard: Guard) -> None:
        self.should_stop = self.should_save = False
        self.reason = ""
        self._actions, self._guard = actions, guard
        self._heard: deque[tuple[AlertNotice, bool]] = deque()

    @property
    def wants(self) -> bool:
        """Whether alerts are to be told at all."""
        return bool(set(self._actions) - {"skip_step"})

    @property
    def waiting(self) -> bool:
        """Whether there are alerts that nothing has been done about."""
        return bool(self._heard)

    def hear(self, alert: AlertNotice, *, flags: bool = True) -> None:
        """Take an alert; called from any thread.

        Without `flags` functions alone hear of it: a process that stops while the others go on
        would leave them waiting for ever.
        """
        self._heard.append((alert, flags))

    def act(self) -> None:
        """Do what is to be done about the alerts heard; a function's failure is counted."""
        while self._heard:
            alert, flags = self._heard.popleft()
            for action in self._actions:
                with self._guard.at("on_alert"):
                    self._do(action, alert, flags=flags)

    def _do(self, action: Action, alert: AlertNotice, *, flags: bool) -> None:
        if not isinstance(action, str):
            action(alert)
        elif not flags:
            logger.warning("evenkeel does not ask one process of several to %s", action)
        elif alert.severity == "critical" and action != "skip_step":
            self.should_stop |= action == "stop"
            self.should_save |= action == "checkpoint"
            self.reason = f"{alert.title}: {alert.message}"
            logger.warning("evenkeel asks the job to %s: %s", action, self.reason)
