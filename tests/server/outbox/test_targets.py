"""Targets, against real HTTP and SMTP receivers on free ports."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import StartError
from server.outbox.signing import Signer
from server.outbox.targets import (
    DeliveryError,
    Target,
    id_of,
    open_targets,
    retry_after_s,
    target_of,
)
from tests.server.outbox.samples import message
from tests.services.process import free_port
from tests.services.receiver import listening, receiving

KEY = "c" * 32
SECRET = base64.b64encode(bytes(range(32))).decode()
# One of apprise's services imports it when they are loaded.
old_imghdr = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@asynccontextmanager
async def opened(url: str, *secrets: str) -> AsyncIterator[Target]:
    target = target_of(url, Signer(secrets))
    yield target
    await target.close()


async def failure_of(url: str) -> DeliveryError:
    async with opened(url) as target:
        with pytest.raises(DeliveryError) as error:
            await target.send(KEY, message(), 5.0)
    return error.value


@pytest.mark.parametrize("scheme", ["http", "json"])
async def test_webhook_gets_the_body_with_its_key_and_kind(scheme: str):
    async with (
        receiving() as receiver,
        opened(receiver.url.replace("http", scheme, 1)) as target,
    ):
        answer = await target.send(KEY, message(), 5.0)
        (request,) = await receiver.until(1)

    assert request.body == message().body.encode()
    assert (request.key, request.headers["evenkeel-kind"]) == (KEY, "alert")
    assert request.headers["content-type"] == "application/json"
    assert answer == "answered 200"


async def test_webhook_is_signed_over_what_it_receives():
    async with receiving() as receiver, opened(receiver.url, SECRET) as target:
        await target.send(KEY, message(), 5.0)
        (request,) = await receiver.until(1)

    expected = Signer([SECRET]).headers(KEY, request.body, 5.0)
    assert {name: request.headers[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("status", "failure"),
    [(400, "refused"), (404, "refused"), (410, "refused"), (500, "failed"), (301, "failed"),
     (408, "away"), (429, "away"), (502, "away"), (503, "away")],
)  # fmt: skip
async def test_answer_says_whether_another_attempt_is_worth_it(status: int, failure: str):
    async with receiving(status) as receiver:
        error = await failure_of(receiver.url)

    assert (error.failure, str(error)) == (failure, f"answered {status}")


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [("7", 7.0), ("999999", 3600.0), ("soon", 0.0)]
)
async def test_time_that_a_target_asks_for_is_read(retry_after: str, seconds: float):
    async with receiving(429) as receiver:
        receiver.answer_headers = f"retry-after: {retry_after}\r\n"
        error = await failure_of(receiver.url)

    assert error.retry_after_s == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Thu, 01 Jan 1970 00:02:00 GMT", 115.0),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 3600.0),
        (" 7 ", 7.0),
        ("٧", 0.0),
        ("-7", 0.0),
        ("1e3", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_may_be_a_date_and_nonsense_asks_for_nothing(value: str, seconds: float):
    assert retry_after_s(value, 5.0) == seconds


@given(st.text(max_size=60))
def test_no_retry_after_is_longer_than_an_hour(value: str):
    assert 0.0 <= retry_after_s(value, 5.0) <= 3600.0


@pytest.mark.parametrize("status", [400, 403, 500, 503])
async def test_what_a_webhook_says_of_a_failure_is_kept_without_its_url(status: int):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"no  hook\nT0KEN-abc here " + b"x" * 5000
        head = f"HTTP/1.1 {status} -\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async with listening(answer) as port:
        error = await failure_of(f"http://127.0.0.1:{port}/hook/T0KEN-abc")

    assert str(error).startswith(f"answered {status}: no hook … here xxx")
    assert len(str(error)) < 240


async def test_target_that_nobody_serves_is_away_and_its_secret_is_not_in_the_error():
    error = await failure_of(f"http://user:secret@127.0.0.1:{free_port()}/hook?token=secret")

    assert error.failure == "away"
    assert "secret" not in str(error)


async def test_target_that_never_answers_is_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("server.outbox.targets.TIMEOUT_S", 0.05)
    ended = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()

    async with listening(never) as port:
        error = await failure_of(f"http://127.0.0.1:{port}/hook")
        ended.set()

    assert error.failure == "away"


@old_imghdr
async def test_other_urls_go_through_apprise():
    mails: list[bytes] = []

    async def smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            if line.upper().startswith(b"DATA"):
                writer.write(b"354 go\r\n")
                mails.append(await reader.readuntil(b"\r\n.\r\n"))
                writer.write(b"250 kept\r\n")
            elif line.upper().startswith(b"QUIT"):
                break
            else:
                writer.write(b"250 fine\r\n")

    async with listening(smtp) as port:
        url = f"mailto://127.0.0.1:{port}?from=a@example.org&to=b@example.org"
        async with opened(url) as target:
            await target.send(KEY, message(), 5.0)

    assert b"rank_collapse" in mails[0] or b"rank collapse" in mails[0]


@old_imghdr
@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general", "slack://t...2"),
        ("pagerduty://integrationkeyinteg@ApiKeyApiKeyApiKeyA", "pagerduty://****"),
        ("rocket://tokenA/tokenB@chat.example/#general", "rocket://chat.example"),
        ("mailto://user:secret@example.org", "mailto://example.org"),
    ],
)
def test_name_of_a_service_shows_no_token_where_others_have_a_host(url: str, name: str):
    assert target_of(url, Signer()).name == name


@old_imghdr
def test_refusal_of_a_service_shows_none_of_its_url():
    with pytest.raises(StartError) as error:
        target_of("slack://s3cr3t", Signer())

    assert "s3cr3t" not in str(error.value)


@old_imghdr
async def test_service_of_apprise_that_is_away_is_a_failure():
    url = f"mailto://127.0.0.1:{free_port()}?from=a@example.org&to=b@example.org"

    assert (await failure_of(url)).failure == "failed"


@old_imghdr
@pytest.mark.parametrize("url", ["http://", "http://[", "nonsense://x", "no url at all"])
def test_url_that_is_none_stops_the_start(url: str):
    with pytest.raises(StartError, match="webhooks"):
        target_of(url, Signer())


async def test_url_that_is_named_twice_is_one_target():
    targets = open_targets(["http://host/a", "http://host/b", "http://host/a"], Signer())

    assert [target.id for target in targets] == [id_of("http://host/a"), id_of("http://host/b")]
    for target in targets:
        await target.close()
