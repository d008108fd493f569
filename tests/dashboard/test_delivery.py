from __future__ import annotations

import gzip
import re

import httpx
import pytest

from dashboard.delivery import is_fingerprinted

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

    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert named and all(one.startswith("/") and not one.startswith("//") for one in named)


async def test_unknown_api_path_stays_a_json_404(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v1/nothing")

    assert answer.status_code == 404
    assert answer.json()["error"]["fix"]


async def scripts(http: httpx.AsyncClient) -> list[str]:
    page = (await http.get("/")).text
    return re.findall(r'<script src="([^"]+)"', page)


async def test_every_script_is_there_compressed_and_kept_for_good(http: httpx.AsyncClient) -> None:
    for address in await scripts(http):
        answer = await http.get(address)

        assert answer.status_code == 200, address
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers.get("content-encoding") == "gzip"


async def test_browser_that_takes_no_gzip_gets_plain_bytes(http: httpx.AsyncClient) -> None:
    address = (await scripts(http))[0]

    plain = await http.get(address, headers={"accept-encoding": "identity"})
    zipped = await http.get(address)

    assert "content-encoding" not in plain.headers
    assert plain.content == zipped.content


async def test_answer_from_memory_equals_the_first(http: httpx.AsyncClient) -> None:
    address = (await scripts(http))[-1]

    first, second = await http.get(address), await http.get(address)

    assert first.content == second.content
    assert len(first.content) > len(gzip.compress(first.content))


async def test_missing_asset_is_not_remembered_as_there(http: httpx.AsyncClient) -> None:
    assert (await http.get("/assets/none.js?m=1")).status_code == 404


@pytest.mark.parametrize(
    ("path", "query", "kept"),
    [
        ("/_dash-component-suites/dash/deps/react@18.v4_4_1m1700000000.3.1.min.js", b"", True),
        ("/assets/theme.css", b"m=17", True),
        ("/assets/theme.css", b"", False),
        ("/_dash-component-suites/dash/dcc/async-graph.js", b"", False),
    ],
)
def test_only_addresses_that_change_with_their_content_are_kept(
    path: str, query: bytes, kept: bool
) -> None:
    assert is_fingerprinted(path, query) is kept
