from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import inspect

from dashboard import api_client
from dashboard.api_client import BASE, ApiClient, ApiError, Endpoint
from dashboard.api_types import Failure
from server.app import create_app
from server.settings import Settings
from tests.dashboard.samples import ALERT, INCIDENT

ENDPOINTS = [value for value in vars(api_client).values() if isinstance(value, Endpoint)]
SCALARS = {
    "string": inspect.StrType,
    "integer": (inspect.IntType, inspect.FloatType),
    "number": inspect.FloatType,
    "boolean": inspect.BoolType,
    "null": inspect.NoneType,
}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The OpenAPI schema that the server publishes."""
    return create_app(Settings(data_dir=tmp_path_factory.mktemp("schema"))).openapi()


class Comparison:
    """Finds what a schema allows and a type does not read."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.definitions = schema["components"]["schemas"]

    def differences(self, node: dict[str, Any], kind: inspect.Type, at: str) -> Iterator[str]:
        """One line for each place below `at` where `kind` cannot hold what `node` allows."""
        if "$ref" in node:
            node = self.definitions[node["$ref"].rpartition("/")[2]]
        if isinstance(kind, inspect.AnyType):
            return
        if "anyOf" in node:
            for option in node["anyOf"]:
                yield from self.differences(option, kind, at)
        elif isinstance(kind, inspect.UnionType):
            options = [list(self.differences(node, option, at)) for option in kind.types]
            if all(options):
                yield f"{at}: {node['type']} is none of {len(options)} types"
        elif isinstance(kind, inspect.StructType):
            yield from self._fields(node, kind, at)
        elif isinstance(kind, inspect.DictType):
            yield from self._values(node, kind, at)
        elif isinstance(kind, inspect.ListType):
            yield from self._items(node, [kind.item_type], at)
        elif isinstance(kind, inspect.TupleType):
            yield from self._items(node, kind.item_types, at)
        elif not isinstance(kind, SCALARS.get(node["type"], ())):
            yield f"{at}: {node['type']} is read as {type(kind).__name__}"

    def _fields(self, node: dict[str, Any], kind: inspect.StructType, at: str) -> Iterator[str]:
        properties = node.get("properties", {})
        for field in kind.fields:
            place = f"{at}.{field.encode_name}"
            if field.encode_name not in properties:
                yield f"{place}: the server does not send it"
                continue
            if field.required and field.encode_name not in node.get("required", ()):
                yield f"{place}: the server may leave it out"
            yield from self.differences(properties[field.encode_name], field.type, place)

    def _values(self, node: dict[str, Any], kind: inspect.DictType, at: str) -> Iterator[str]:
        values = node.get("additionalProperties")
        if values is True:
            yield from () if isinstance(kind.value_type, inspect.AnyType) else (f"{at}: any value",)
        elif isinstance(values, dict):
            yield from self.differences(values, kind.value_type, f"{at}[]")
        else:
            yield f"{at}: {node['type']} is read as a mapping"

    def _items(self, node: dict[str, Any], kinds: Any, at: str) -> Iterator[str]:
        items = node.get("prefixItems") or [node.get("items", {"type": "nothing"})]
        if node["type"] != "array" or len(items) != len(kinds):
            yield f"{at}: {node['type']} is read as a list"
            return
        for item, kind in zip(items, kinds, strict=True):
            yield from self.differences(item, kind, f"{at}[]")


def answer_schema(schema: dict[str, Any], endpoint: Endpoint[Any]) -> dict[str, Any]:
    responses = schema["paths"][BASE + endpoint.path][endpoint.method.lower()]["responses"]
    success = next(responses[status] for status in responses if status.startswith("2"))
    return success["content"]["application/json"]["schema"]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.path}")
def test_every_field_that_pages_read_is_in_the_servers_schema(
    schema: dict[str, Any], endpoint: Endpoint[Any]
) -> None:
    kind = inspect.type_info(endpoint.answer)

    assert [*Comparison(schema).differences(answer_schema(schema, endpoint), kind, "")] == []


def test_refusals_are_read_as_the_server_sends_them(schema: dict[str, Any]) -> None:
    node = schema["components"]["schemas"]["Failure"]

    assert [*Comparison(schema).differences(node, inspect.type_info(Failure), "")] == []


class Wrong(msgspec.Struct):
    id: int
    title: str
    run_name: str | None
    colour: str
    first_layer: int
    advice: dict[str, str]


def test_comparison_reports_every_kind_of_difference(schema: dict[str, Any]) -> None:
    node = schema["components"]["schemas"]["Alert"]

    assert [*Comparison(schema).differences(node, inspect.type_info(Wrong), "")] == [
        ".id: string is read as IntType",
        ".colour: the server does not send it",
        ".first_layer: null is read as IntType",
        ".advice: object is read as a mapping",
    ]


def client_of(body: object, status: int = 200) -> ApiClient:
    """A client of a server that answers every request with `body`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = httpx.Response(status, content=msgspec.json.encode(body))
        start = {"type": "http.response.start", "status": status, "headers": response.headers.raw}
        await send(start)
        await send({"type": "http.response.body", "body": response.content})

    return ApiClient(app)  # type: ignore[arg-type]


async def test_client_tolerates_fields_it_does_not_know() -> None:
    known_and_new = INCIDENT | {"new": {"nested": [1]}}
    client = client_of({"incidents": [known_and_new], "next_cursor": None})

    assert [incident.id for incident in await client.incidents()] == ["i7"]


async def test_client_reads_numbers_that_json_cannot_write() -> None:
    changed = {"measured": "-Infinity", "predicted": None}
    client = client_of({"incidents": [INCIDENT | {"alerts": [ALERT, ALERT | changed]}]})

    ((first, second),) = [incident.alerts for incident in await client.incidents()]

    assert math.isnan(first.predicted or 0.0)
    assert (second.measured, second.predicted) == (-math.inf, None)


@pytest.mark.parametrize("body", [{"runs": [{"id": 1}], "next_cursor": None}, ["no object"]])
async def test_answer_of_another_form_is_an_error_of_the_api(body: object) -> None:
    client = client_of(body)

    with pytest.raises(ApiError, match="cannot be read") as refused:
        await client.runs()

    assert refused.value.fix


async def test_refusal_without_a_known_body_says_its_status() -> None:
    client = client_of({"detail": "bad gateway"}, status=502)

    with pytest.raises(ApiError, match="answered 502"):
        await client.runs()
