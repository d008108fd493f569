"""The server's errors: one family that becomes JSON, and one that ends a start."""

from __future__ import annotations


class StartError(Exception):
    """The server cannot start; the message is the one clear line that the user sees."""


class DatabaseStarting(StartError):
    """The database does not answer, and may do so later."""


class MonitorError(Exception):
    """A request that cannot be served.

    Attributes:
        status: HTTP status.
        code: short name of the failure, stable for programs.
        field: dotted path of the offending field, or None where no field is to blame.
        fix: one imperative sentence on how to mend it.
    """

    status = 400
    code = "bad_request"

    def __init__(self, message: str, *, field: str | None = None, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.fix = fix


class InvalidField(MonitorError):
    """A value that breaks the contract."""

    status = 422
    code = "invalid_field"


class WrongSize(InvalidField):
    """A frame whose size is not its layout's."""

    code = "wrong_size"


class ConflictingFrame(InvalidField):
    """A frame whose number is that of another stored frame."""

    code = "conflicting_frame"


class UnknownLayout(MonitorError):
    """A frame of a layout that its run has not declared."""

    status = 409
    code = "unknown_layout"


class Conflict(MonitorError):
    """A request that contradicts what is stored."""

    status = 409
    code = "conflict"


class OtherWriter(Conflict):
    """Another process sends as this rank of the run, or has taken its place."""

    code = "other_writer"


class RunNotFound(MonitorError):
    """No run has this id, or the key may not see it."""

    status = 404
    code = "run_not_found"

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"there is no run {run_id!r}",
            field="run_id",
            fix="declare it with PUT /api/v1/runs/{run_id}, or list runs with GET /api/v1/runs",
        )


class RevisionNotFound(MonitorError):
    """No spec of this run's model is stored for this step."""

    status = 404
    code = "revision_not_found"

    def __init__(self, run_id: str, steps: list[int]) -> None:
        listed = ", ".join(map(str, steps))
        super().__init__(
            f"run {run_id} has no description of its model for this step",
            field="step",
            fix=f"ask for one of {listed}" if steps else "wait until its agent has described it",
        )


class FlowNotFound(MonitorError):
    """Nothing that was measured inside this run's blocks is stored for these steps."""

    status = 404
    code = "flow_not_found"

    def __init__(self, run_id: str, first: int | None) -> None:
        super().__init__(
            f"run {run_id} has no description up to this step that measured inside its blocks",
            field="step",
            fix=(
                "wait for its next description; older agents, and compiled blocks, show none"
                if first is None
                else f"ask for step {first} or a later one"
            ),
        )


class NotFound(MonitorError):
    """Nothing lives at this address."""

    status = 404
    code = "not_found"


class WrongKey(MonitorError):
    """The key is missing, unknown or revoked."""

    status = 401
    code = "wrong_key"


class ScopeMissing(MonitorError):
    """The key is good, but not for this."""

    status = 403
    code = "scope_missing"


class RequestTooLarge(MonitorError):
    """A body beyond the limit."""

    status = 413
    code = "too_large"


class WrongMediaType(MonitorError):
    """A body of a kind that the endpoint does not read."""

    status = 415
    code = "wrong_media_type"


class NotInstalled(MonitorError):
    """A feature whose optional dependency this server was installed without."""

    status = 501
    code = "not_installed"


class Unavailable(MonitorError):
    """A part that the server depends on does not answer; the sender keeps its data."""

    status = 503
    code = "unavailable"


class DiskFull(Unavailable):
    """There is no room for what is to be stored; the sender keeps its data."""

    code = "disk_full"


class DatabaseAway(ConnectionError):
    """The database has not answered for a while: asking it again would only wait."""
