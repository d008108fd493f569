"""What is sent to every channel: for people as a title and sentences, for programs as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

Severity = Literal["critical", "warning", "info"]
MILDEST_FIRST: tuple[Severity, ...] = ("info", "warning", "critical")
STORED = ("kind", "run_id", "project", "severity", "title", "text", "body")


class Message(msgspec.Struct, frozen=True):
    """One message.

    Attributes:
        kind: what happened, in the form ``"subject.change"``.
        run_id, project: of the run it is about; ``""`` for none.
        severity: how bad it is.
        title, text: for people.
        body: the JSON that a webhook receives.
        tags: of the run, by which routes choose.
        reach: the severity by which routes choose, where that is not `severity`: what resolves a
            critical incident goes where the incident went.
        values: what templates may name.
    """

    kind: str
    run_id: str
    project: str
    severity: Severity
    title: str
    text: str
    body: str
    tags: tuple[str, ...] = ()
    reach: Severity | None = None
    values: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Any]:
        """What is stored of it."""
        return {name: getattr(self, name) for name in STORED}


def sample_message(sent_at: float) -> Message:
    """A message that tests a target, and asks nobody to do anything."""
    text = "This is a test: alerts of evenkeel arrive here."
    body = {"kind": "test", "severity": "info", "message": text, "sent_at": sent_at}
    return Message(
        kind="test",
        run_id="",
        project="",
        severity="info",
        title="evenkeel: test message",
        text=text,
        body=msgspec.json.encode(body).decode(),
    )
