"""What is sent to every target: for people as a title and sentences, for programs as JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["critical", "warning", "info"]


class Message(msgspec.Struct, frozen=True):
    """One message.

    Attributes:
        kind: what happened, in the form ``"subject.change"``.
        run_id, project: of the run it is about; ``""`` for none.
        severity: how bad it is.
        title, text: for people.
        body: the JSON that a webhook receives.
    """

    kind: str
    run_id: str
    project: str
    severity: Severity
    title: str
    text: str
    body: str


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
