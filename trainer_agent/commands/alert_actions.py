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


def read_actions(argument: Action | Sequence[Action] | None) -> tuple[Action, ...]:
    """The actions as a tuple.

    Raises:
        WatchError: for one that is neither a name nor callable.
    """
    actions: tuple[Any, ...]
    if argument is None:
        actions = ()
    elif isinstance(argument, Sequence) and not isinstance(argument, str):
        actions = tuple(argument)
    else:
        actions = (argument,)
    for action in actions:
        if action not in NAMED and not callable(action):
            raise WatchError(
                "on_alert",
                f"{action!r} is no action",
                fix=f"give a function of one argument, or one of {', '.join(NAMED)}",
            )
    return actions


class AlertActions:
    """Acts on the server's alerts, in the training thread, at a step's end.

    Functions are called with every alert. ``"stop"`` and ``"checkpoint"`` raise flags for the
    loop, on critical alerts alone.
    """

    def __init__(self, actions: tuple[Action, ...], guard: Guard) -> None:
        self._should_stop = self._should_save = False
        self._reason = ""
        self._actions, self._guard = actions, guard
        self._alerts: deque[tuple[AlertNotice, bool]] = deque()

    @property
    def should_stop(self) -> bool:
        """Whether the loop is asked to stop."""
        return self._should_stop

    @property
    def should_save(self) -> bool:
        """Whether the loop is asked to save a checkpoint."""
        return self._should_save

    @property
    def reason(self) -> str:
        """The alert that raised a flag, in words; "" where none did."""
        return self._reason

    @property
    def subscribed(self) -> bool:
        """Whether the server is to send alerts at all."""
        return bool(set(self._actions) - {"skip_step"})

    @property
    def waiting(self) -> bool:
        """Whether there are alerts that nothing has been done about."""
        return bool(self._alerts)

    def add(self, alert: AlertNotice, *, flags: bool) -> None:
        """Take an alert; called from any thread. Without `flags` only functions are called."""
        self._alerts.append((alert, flags))

    def act(self) -> None:
        """Do what is to be done about new alerts; a function's failure is counted."""
        # A deque, because the sender's thread appends meanwhile.
        while self._alerts:
            alert, flags = self._alerts.popleft()
            for action in self._actions:
                with self._guard.at("on_alert"):
                    self._do(action, alert, flags=flags)

    def saved(self) -> None:
        """The loop saves a checkpoint: ask for none until the next alert."""
        self._should_save = False

    def _do(self, action: Action, alert: AlertNotice, *, flags: bool) -> None:
        if not isinstance(action, str):
            action(alert)
        elif not flags:
            logger.warning("evenkeel does not ask one process of several to %s", action)
        elif alert.severity == "critical" and action != "skip_step":
            self._should_stop |= action == "stop"
            self._should_save |= action == "checkpoint"
            self._reason = f"{alert.title}: {alert.message}"
            logger.warning("evenkeel asks the job to %s: %s", action, self._reason)
