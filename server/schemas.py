"""What requests and answers share; floats that are not finite travel as strings."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _storable(text: str) -> str:
    """Raise for text that no database stores: NUL, and halves of a pair that JSON may escape."""
    if "\0" in text:
        raise ValueError("a text holds a NUL character")
    if not text.isascii():
        text.encode()  # a UnicodeEncodeError is a ValueError
    return text


StorableText = Annotated[str, AfterValidator(_storable)]


class Answer(BaseModel):
    """Base of every JSON answer."""

    model_config = ConfigDict(ser_json_inf_nan="strings", frozen=True)


class ErrorBody(Answer):
    """What went wrong."""

    code: str
    field: str | None
    message: str
    fix: str


class Failure(Answer):
    """Body of every 4xx and 5xx."""

    error: ErrorBody


class MissingInfo(Answer):
    """A part of the model that the theory does not cover."""

    where: str
    what: str
    why: str
