"""Reading a running server from the command line."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from server.errors import StartError
from server.settings import is_loopback

PAGE_SIZE = 200


def client_of(server: str, key: str | None) -> httpx.Client:
    """A client of the HTTP API of `server`."""
    base_url = f"{server.rstrip('/')}/api/v1"
    return httpx.Client(base_url=base_url, timeout=30.0, **connection_settings(server, key))


def connection_settings(server: str, key: str | None = None) -> dict[str, Any]:
    """Arguments of an httpx client for `server`: its key, its proxy and whom it trusts.

    The rules are those of the agent: the environment's proxy but for a loopback address, and the
    CA that ``EVENKEEL_CA_FILE`` names.

    Raises:
        StartError: if that file holds no certificates.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    local = is_loopback(urlsplit(server).hostname or "")
    return {"headers": headers, "trust_env": not local, "verify": _trusted_authorities()}


def _trusted_authorities() -> ssl.SSLContext | bool:
    ca_file = os.environ.get("EVENKEEL_CA_FILE")
    if not ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise StartError(
            f"EVENKEEL_CA_FILE is {ca_file}, which holds no certificates in PEM form ({error})"
        ) from error


def read(client: httpx.Client, path: str, **params: Any) -> Any:
    """The JSON at `path`.

    Raises:
        StartError: one line with the server's own message and fix, or that it does not answer.
    """
    try:
        answer = client.get(path, params=params)
    except httpx.HTTPError as error:
        raise unreachable(client, error) from error
    require_success(answer)
    return answer.json()


def all_runs(client: httpx.Client, *, search: str) -> Iterator[dict[str, Any]]:
    """Every run that matches, newest first."""
    asked: dict[str, Any] = {"search": search, "limit": PAGE_SIZE}
    while True:
        page = read(client, "/runs", **asked)
        yield from page["runs"]
        if page["next_cursor"] is None:
            return
        asked["cursor"] = page["next_cursor"]


def download(client: httpx.Client, path: str, target: Path, **params: Any) -> int:
    """Stream the body at `path` into `target`, whole or not at all; returns its bytes."""
    part = target.with_name(f"{target.name}.part")
    written = 0
    try:
        with client.stream("GET", path, params=params) as answer, part.open("wb") as output:
            if answer.is_error:
                answer.read()
            require_success(answer)
            for chunk in answer.iter_bytes():
                written += output.write(chunk)
        part.replace(target)
    except httpx.HTTPError as error:
        raise unreachable(client, error) from error
    except OSError as error:
        raise StartError(f"cannot write {target}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return written


def require_success(answer: httpx.Response) -> None:
    """Raise `StartError` with the server's own words unless the answer is a success."""
    if not answer.is_error:
        return
    try:
        problem = answer.json()["error"]
        line = f"{problem['message']}; {problem['fix']}" if problem["fix"] else problem["message"]
    except (ValueError, KeyError, TypeError):
        line = f"{answer.url} answered {answer.status_code}"
    raise StartError(line)


def unreachable(client: httpx.Client, error: httpx.HTTPError) -> StartError:
    """The line for a server that does not answer."""
    return StartError(
        f"no answer from {client.base_url} ({error}); start it with 'evenkeel serve', "
        "or name it with --server"
    )
