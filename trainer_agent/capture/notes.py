"""What the agent says of its numbers: one sentence a subject, on the run's page."""

from __future__ import annotations


class Notes:
    """Sentences by subject. Any thread may write or read."""

    def __init__(self) -> None:
        self._sentences: dict[str, str] = {}

    def say(self, subject: str, sentence: str) -> None:
        """Have one sentence about a subject, instead of the one before; "" for none."""
        self._sentences[subject] = sentence

    def all(self) -> tuple[str, ...]:
        """The sentences, in the order in which their subjects came up."""
        return tuple(filter(None, tuple(self._sentences.values())))
