"""Read a request's body into a message of the wire contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from server.errors import InvalidField, RequestTooLarge, WrongMediaType
from wire import MEDIA_TYPE

T = TypeVar("T")


async def raw(request: Request) -> bytes:
    """The body, refused as soon as it grows past the limit."""
    limit: int = request.app.state.server.settings.max_body_bytes
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise RequestTooLarge(
                f"the body exceeds {limit} bytes", field="body", fix="send less at a time"
            )
        pieces.append(piece)
    return b"".join(pieces)


async def frames(request: Request) -> bytes:
    """The body of a batch of frames."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != MEDIA_TYPE:
        raise WrongMediaType(
            f"frames do not travel as {kind or 'nothing'}",
            field="content-type",
            fix=f"send Content-Type: {MEDIA_TYPE}",
        )
    return await raw(request)


def message(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """A dependency that reads a JSON body as this message."""
    decoder = msgspec.json.Decoder(kind)

    async def read(request: Request) -> T:
        body = await raw(request)
        try:
            found = decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidField(
                f"the body is not a {kind.__name__}: {error}",
                field=field_of(error),
                fix=f"send a wire.{kind.__name__} as JSON",
            ) from error
        if b"\\u0000" in body:
            _refuse_nul(msgspec.to_builtins(found), "")
        return found

    return read


def described(kind: type[Any]) -> dict[str, Any]:
    """What OpenAPI says of an endpoint that reads this message."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    named = components.get(kind.__name__, schema)
    inlined = {**named, "$defs": {k: v for k, v in components.items() if k != kind.__name__}}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


FRAMES_DESCRIBED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


def _refuse_nul(value: Any, path: str) -> None:
    """Raise for a NUL character, which Postgres stores neither in text nor in JSON."""
    if isinstance(value, dict):
        for key, one in value.items():
            _refuse_nul(key, path)
            _refuse_nul(one, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            _refuse_nul(one, f"{path}[{index}]")
    elif isinstance(value, str) and "\0" in value:
        raise InvalidField(
            "a text holds a NUL character", field=path or "body", fix="remove the NUL character"
        )


def field_of(error: BaseException) -> str:
    """The dotted path that msgspec complains of, or "body"."""
    text = str(error)
    if "at `$" in text:
        return text.partition("at `$")[2].rstrip("`").lstrip(".") or "body"
    return text.partition("missing required field `")[2].partition("`")[0] or "body"
