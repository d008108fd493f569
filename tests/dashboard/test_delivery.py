from __future__ import annotations

import gc
import gzip
import json
import re
import tracemalloc
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import dashboard
from dashboard.delivery import MIN_BYTES, AssetFiles, _gzipped, mount_files

ASSETS = Path(dashboard.__file__).parent / "assets"
PAGES = ("/", "/runs", f"/runs/{'a' * 32}", "/compare", "/alerts")


@pytest.mark.parametrize("address", PAGES)
async def test_every_page_address_answers_with_the_index(
    http: httpx.AsyncClient, address: str
) -> None:
    answer = await http.get(address)

    assert answer.status_code == 200
    assert 'class="shell"' in answer.text


async def test_index_names_only_this_servers_files(http: httpx.AsyncClient) -> None:
    page = (await http.get("/")).text

    paths = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert paths and all(re.match("/[^/]|/$", path) for path in paths)


async def test_unknown_api_path_stays_a_json_404(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v1/nothing")

    assert answer.status_code == 404
    assert answer.json()["error"]["fix"]


async def scripts(http: httpx.AsyncClient) -> list[str]:
    page = (await http.get("/")).text
    imports = re.search(r'<script type="importmap">(.+)</script>', page)
    modules = json.loads(imports[1])["imports"] if imports else {}
    return [*re.findall(r'<script src="([^"]+)"', page), *modules.values()]


async def test_every_script_is_there_compressed_and_immutable(http: httpx.AsyncClient) -> None:
    for address in await scripts(http):
        answer = await http.get(address)

        assert answer.status_code == 200, address
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        is_compressed = answer.headers.get("content-encoding") == "gzip"
        assert is_compressed == (len(answer.content) >= MIN_BYTES), address


async def test_browser_that_takes_no_gzip_gets_plain_bytes(http: httpx.AsyncClient) -> None:
    address = (await scripts(http))[0]

    plain = await http.get(address, headers={"accept-encoding": "identity"})
    zipped = await http.get(address)

    assert "content-encoding" not in plain.headers
    assert plain.content == zipped.content


async def test_second_answer_equals_the_first(http: httpx.AsyncClient) -> None:
    address = (await scripts(http))[-1]

    first, second = await http.get(address), await http.get(address)

    assert first.content == second.content
    assert len(first.content) > len(gzip.compress(first.content))


async def test_index_maps_every_module_that_is_imported(http: httpx.AsyncClient) -> None:
    page = (await http.get("/")).text

    for script in (ASSETS / "js").glob("*.js"):
        for imported in re.findall(r' from "\./([\w-]+\.js)";', script.read_text()):
            assert f'"/assets/js/{imported}": "/assets/js/{imported}?m=' in page, script.name


async def test_missing_asset_is_not_there(http: httpx.AsyncClient) -> None:
    assert (await http.get("/assets/none.js?m=1")).status_code == 404


REACT = "/_dash-component-suites/dash/deps/react-dom@18.v{}m1.3.1.min.js"
ADDRESSES = {
    "query strings of an asset": ("/assets/js/run-page.js", "m={}"),
    "query strings of a component": (REACT.format(1), "m={}"),
    "versions of a component": (REACT, ""),
    "spellings of a path": ("/assets/js/{}/../run-page.js", "m=1"),
}


async def body_size(app: FastAPI, path: str, query: str) -> int:
    """Asks `app` for exactly this address; an HTTP client would first put its spelling right."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": [(b"accept-encoding", b"gzip")],
    }
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 200
    return sum(len(message.get("body", b"")) for message in sent)


@pytest.mark.parametrize(("path", "query"), ADDRESSES.values(), ids=ADDRESSES)
async def test_a_thousand_addresses_of_a_file_take_the_memory_of_one(path: str, query: str) -> None:
    app = FastAPI()
    mount_files(app, ASSETS)
    size = await body_size(app, path.format(0), query.format(0))
    entries = _gzipped.cache_info().currsize
    tracemalloc.start()

    for number in range(1000):
        await body_size(app, path.format(number), query.format(number))

    gc.collect()
    traced, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert _gzipped.cache_info().currsize == entries
    assert traced < 100 * size


@pytest.mark.parametrize(
    ("address", "cached"),
    [
        (REACT.format(1), True),
        ("/assets/10-theme.css?m=17", True),
        ("/assets/10-theme.css", False),
        ("/_dash-component-suites/dash/dcc/async-graph.js", False),
    ],
)
async def test_only_addresses_that_change_with_their_content_are_immutable(
    http: httpx.AsyncClient, address: str, cached: bool
) -> None:
    answer = await http.get(address)

    assert answer.status_code == 200
    assert ("immutable" in answer.headers.get("cache-control", "")) is cached


async def test_file_that_did_not_change_is_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/assets/10-theme.css")

    again = await http.get("/assets/10-theme.css", headers={"if-none-match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")


async def test_changed_file_is_compressed_anew(tmp_path: Path) -> None:
    script = tmp_path / "page.js"
    app = FastAPI()
    app.mount("/assets", AssetFiles(directory=tmp_path))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://files") as http:
        script.write_text("// before\n" * 100)
        before = await http.get("/assets/page.js?m=1")
        script.write_text("// after\n" * 100)
        after = await http.get("/assets/page.js?m=2")

    assert before.headers["content-encoding"] == after.headers["content-encoding"] == "gzip"
    assert (before.text[:9], after.text[:8]) == ("// before", "// after")


@pytest.mark.parametrize("name", ["dash.py", "py.typed", "../dash/dash.py"])
async def test_python_files_of_dash_have_no_address(http: httpx.AsyncClient, name: str) -> None:
    assert (await http.get(f"/_dash-component-suites/dash/{name}")).status_code == 404
