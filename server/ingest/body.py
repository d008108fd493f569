"""Read a request's body into a message of the wire contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from server.errors import InvalidField, RequestTooLarge, WrongMediaType
from wire import MEDIA_TYPE, JsonDecoder, WireError

T = TypeVar("T")

MAX_DEPTH = 64  # encoders and databases recurse, and give up at some depth of their own


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
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != MEDIA_TYPE:
        raise WrongMediaType(
            f"frames do not travel as {media_type or 'nothing'}",
            field="content-type",
            fix=f"send Content-Type: {MEDIA_TYPE}",
        )
    return await raw(request)


def message(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """A dependency that reads a JSON body as this message."""
    decoder = JsonDecoder(kind)

    async def read(request: Request) -> T:
        body = await raw(request)
        try:
            decoded = decoder.decode(body)
            plain = msgspec.to_builtins(decoded)
        except WireError as error:
            raise from_wire(error) from error
        except RecursionError as error:  # it holds more of the stack than decoding did
            raise _too_deep("body") from error
        _require_storable(plain, "", MAX_DEPTH)
        return decoded

    return read


def from_wire(error: WireError) -> InvalidField:
    """The error as an answer."""
    return InvalidField(str(error), field=error.field, fix=error.fix)


def described(kind: type[Any]) -> dict[str, Any]:
    """The OpenAPI description of an endpoint that reads this message."""
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


def require_text(text: str, field: str) -> None:
    """Raise for a NUL character, which Postgres stores neither in text nor in JSON."""
    if "\0" in text:
        raise InvalidField(
            "a text holds a NUL character", field=field or "body", fix="remove the NUL character"
        )


def _too_deep(field: str) -> InvalidField:
    return InvalidField(
        f"values are nested more than {MAX_DEPTH} levels deep", field=field, fix="flatten them"
    )


def _require_storable(value: Any, path: str, levels: int) -> None:
    """Raise for JSON that a database or an encoder refuses: NUL characters, deep nesting."""
    if isinstance(value, str):
        require_text(value, path)
    elif isinstance(value, dict | list | tuple):
        if levels == 0:
            raise _too_deep(path.partition("[")[0].partition(".")[0])
        if isinstance(value, dict):
            for key, item in value.items():
                require_text(key, path)
                _require_storable(item, f"{path}.{key}".lstrip("."), levels - 1)
        else:
            for index, item in enumerate(value):
                _require_storable(item, f"{path}[{index}]", levels - 1)
