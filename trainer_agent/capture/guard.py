"""Keeps failures of the agent out of the training job."""

from __future__ import annotations

import logging
from types import TracebackType

from trainer_agent.errors import ExplainedError

logger = logging.getLogger("evenkeel")
FAILURE_LIMIT = 10
# Where the error is of the job's own function.
USERS_FUNCTION = "on_alert"
FOR_THE_TRACEBACK = "set the level of the logger evenkeel to DEBUG for the traceback"
NOT_MEASURED = f"it could not be measured in a step; {FOR_THE_TRACEBACK}"


class Guard:
    """Logs the first failure of the agent in a sentence, counts the others, and lets none out.

    Errors and tracebacks are logged at the level DEBUG: they are the agent's own, and say nothing
    to who trains.

    ``with guard.at("stream decoder/3"):`` swallows every `Exception` of its body.
    KeyboardInterrupt and SystemExit are the job's: they pass.

    Attributes:
        failures: failures swallowed since the start.
        first_failure: the first one's place and reason, or "".
    """

    def __init__(self) -> None:
        self.failures = 0
        self.first_failure = ""
        self._by_place: dict[str, int] = {}

    def at(self, place: str) -> _GuardedBlock:
        """A context that swallows failures and counts them against `place`."""
        return _GuardedBlock(self, place)

    def gave_up(self, place: str) -> bool:
        """Whether `place` failed so often that it should not be tried again."""
        return bool(self._by_place) and self._by_place.get(place, 0) >= FAILURE_LIMIT

    def note(self, place: str, error: BaseException) -> None:
        """Count a failure that was caught elsewhere."""
        self.failures += 1
        self._by_place[place] = self._by_place.get(place, 0) + 1
        # Once: a hook that fails does so in every step, and the log is the user's.
        if not self.first_failure:
            shows_errors = logger.isEnabledFor(logging.DEBUG) or place == USERS_FUNCTION
            reason = f"{type(error).__name__}: {error}" if shows_errors else NOT_MEASURED
            if isinstance(error, ExplainedError):
                reason = str(error)
            self.first_failure = f"{place}: {reason}"
            logger.warning(
                "evenkeel failed at %s and goes on without it (training is not affected)%s",
                place,
                "" if shows_errors else f": {FOR_THE_TRACEBACK}",
            )
        logger.debug("evenkeel failed at %s", place, exc_info=error)


class _GuardedBlock:
    __slots__ = ("_guard", "_place")

    def __init__(self, guard: Guard, place: str) -> None:
        self._guard = guard
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        # Not KeyboardInterrupt, SystemExit or GeneratorExit: these are for the job.
        if error is None or not isinstance(error, Exception):
            return False
        self._guard.note(self._place, error)
        return True
