"""What every answer shares: floats that may be NaN or infinite travel as strings."""

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
