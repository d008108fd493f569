"""What answers share: floats that are not finite travel as strings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


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
