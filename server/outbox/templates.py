"""Message templates: text with ``{names}`` in it, and nothing that could be executed. Pure.

A template is looked through once and each name replaced by a string; there are no attributes,
indices, formats or expressions, and what a value holds is not looked through again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from server.errors import InvalidField
from server.outbox.message import Message

# What a template may name, with an example of each for previews.
EXAMPLES = {
    "run": "gpt-24l",
    "project": "pretraining",
    "tags": "post-ln, seed 1",
    "severity": "critical",
    "event": "opened",
    "title": "Rank collapse",
    "message": "From layer 7 on the tokens of a sequence are one vector.",
    "advice": "Restart with DeepScaleLM, or lengthen the warm-up.",
    "also": "Vanishing gradient; Loss stands still",
    "cause": "stream",
    "step": "153",
    "layers": "7–24",
    "link": "http://127.0.0.1:8321/runs/…?step=153&layers=7-24",
}
NAMES = tuple(EXAMPLES)
DEFAULT_TITLE = "{run}: {title}"
DEFAULT_TEXT = "{message}\n\n{advice}\n\n{link}"
_PIECE = re.compile(r"\{\{|\}\}|\{([a-z]*)\}|[{}]")


def check(template: str, field: str) -> None:
    """Raise `InvalidField`, about this field, for a name that is none or a brace on its own."""
    for piece in _PIECE.finditer(template):
        name = piece.group(1)
        if name in NAMES or piece.group() in ("{{", "}}"):
            continue
        raise InvalidField(
            f"{piece.group()!r} at character {piece.start() + 1} is no name of a template",
            field=field,
            fix=f"use {', '.join(f'{{{name}}}' for name in NAMES)}; write {{{{ for a brace",
        )


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its names replaced; a name without a value becomes nothing."""

    def piece(match: re.Match[str]) -> str:
        if match.group(1) is not None:
            return values.get(match.group(1), "")
        return match.group()[0]

    filled = _PIECE.sub(piece, template)
    # A name that had no value leaves its lines empty: no gap of more than one.
    return re.sub(r"\n{3,}", "\n\n", filled).strip()


def render(message: Message, *, title: str, text: str) -> Message:
    """The message with a channel's templates; ``""`` leaves the message's own words."""
    values = message.values or {"title": message.title, "message": message.text}
    return msgspec.structs.replace(
        message,
        title=fill(title, values) or message.title if title else message.title,
        text=fill(text, values) or message.text if text else message.text,
    )
