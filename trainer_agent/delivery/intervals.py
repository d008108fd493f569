"""How often the agent speaks with its server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExportIntervals:
    """Intervals in seconds.

    Attributes:
        flush_s: between looks for new frames, which are written and sent together.
        poll_s: from the last request to a question for the ack watermark, while frames await it.
        closing_poll_s: the same once the job waits for its end.
        heartbeat_s: between signs of life when there is nothing to send.
        resend_s: after how long without progress of the watermark frames are sent again.
        backoff_s, max_backoff_s: first and longest wait after a failure.
        refused_s: wait after an answer that only a person can mend.
        claim_s: between claims of a rank that another process holds.
    """

    flush_s: float = 0.25
    poll_s: float = 2.0
    closing_poll_s: float = 0.05
    heartbeat_s: float = 5.0
    resend_s: float = 5.0
    backoff_s: float = 0.25
    max_backoff_s: float = 30.0
    refused_s: float = 30.0
    claim_s: float = 5.0
