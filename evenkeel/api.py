"""A client of a running server's HTTP API, for the command line."""

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
    """Return a client of the HTTP API of `server`; the caller closes it."""
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
    """Return the JSON at `path`.

    Raises:
        StartError: with the server's message and fix, or saying that it does not answer.
    """
    try:
        response = client.get(path, params=params)
    except httpx.HTTPError as error:
        raise unreachable(client, error) from error
    require_success(response)
    return response.json()


def all_runs(client: httpx.Client, *, search: str) -> Iterator[dict[str, Any]]:
    """Yield every run that matches, newest first."""
    params: dict[str, Any] = {"search": search, "limit": PAGE_SIZE}
    while True:
        page = read(client, "/runs", **params)
        yield from page["runs"]
        if page["next_cursor"] is None:
            return
        params["cursor"] = page["next_cursor"]


def download(client: httpx.Client, path: str, target: Path, **params: Any) -> int:
    """Stream the body at `path` into `target`; return its size in bytes.

    Raises:
        StartError: if the server does not answer or refuses, or the file cannot be written.
            `target` is then as it was before.
    """
    part = target.with_name(f"{target.name}.part")
    written = 0
    try:
        with client.stream("GET", path, params=params) as response, part.open("wb") as output:
            if response.is_error:
                response.read()  # a stream's body is not there yet, and holds the message
            require_success(response)
            for chunk in response.iter_bytes():
                written += output.write(chunk)
        part.replace(target)
    except httpx.HTTPError as error:
        raise unreachable(client, error) from error
    except OSError as error:
        raise StartError(f"cannot write {target}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return written


def require_success(response: httpx.Response) -> None:
    """Raise a `StartError` with the server's message unless the answer is a success."""
    if not response.is_error:
        return
    try:
        problem = response.json()["error"]
        line = f"{problem['message']}; {problem['fix']}" if problem["fix"] else problem["message"]
    except (ValueError, KeyError, TypeError):  # not this server's error format: a proxy's page
        line = f"{response.url} answered {response.status_code}"
    raise StartError(line)


def unreachable(client: httpx.Client, error: httpx.HTTPError) -> StartError:
    """Return the error for a server that does not answer."""
    return StartError(
        f"no answer from {client.base_url} ({error}); start it with 'evenkeel serve', "
        "or name it with --server"
    )
