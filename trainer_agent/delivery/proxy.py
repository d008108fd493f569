"""The proxy that the environment names for a server, if any."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

DEFAULT_PORT = 80
PROXY_AUTHENTICATION_REQUIRED = 407


class ProxySettingError(ValueError):
    """An environment variable names no proxy that the agent can use."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        variable: the environment variable that names it.
        headers: its credentials as a ``Proxy-Authorization`` header, or empty.
    """

    variable: str
    host: str
    port: int
    headers: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def refusal(self, status: int, server: str) -> str:
        """One sentence on an answer of the proxy's own, in place of the server's."""
        if status == PROXY_AUTHENTICATION_REQUIRED:
            problem, fix = "asks for credentials (407)", "; put user and password into its URL"
        else:
            problem, fix = f"does not connect to {server}", ""
        return f"the proxy {self} of {self.variable} {problem}{fix}"


def proxy_for(scheme: str, host: str, port: int, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for a server, or None where it is to be reached directly.

    Reads ``HTTP_PROXY`` or ``HTTPS_PROXY``, by the server's scheme, and ``NO_PROXY``; of each the
    lower-case form comes first, as in curl. A loopback address never has a proxy.

    Raises:
        ProxySettingError: in one sentence, without the credentials.
    """
    variable, url = _setting(f"{scheme}_proxy", environment)
    if not url or _is_loopback(host):
        return None
    excluded = _setting("no_proxy", environment)[1].lower()
    if any(_covers(entry, host, port) for entry in re.split(r"[\s,]+", excluded) if entry):
        return None
    return _parse(variable, url)


def _setting(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """The variable that is set, in either case, and its value; "" where none is."""
    for variable in (name, name.upper()):
        if variable in environment:
            return variable, environment[variable].strip()
    return name.upper(), ""


def _parse(variable: str, url: str) -> Proxy:
    problem = ProxySettingError(
        f"{variable} names no proxy that the agent can use: give http://[user:password@]host[:port]"
    )
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise problem from None  # which would show the credentials
    if parts.scheme != "http" or not parts.hostname:
        raise problem
    return Proxy(variable, parts.hostname, port, _credentials(parts.username, parts.password))


def _credentials(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d+){3}", host))


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of ``NO_PROXY`` covers the server."""
    if entry == "*":
        return True
    if "/" in entry:
        return _is_within(host, entry)
    name, entry_port = _split_port(entry)
    if entry_port not in ("", str(port)):
        return False
    domain = name.removeprefix("*").removeprefix(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _split_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):  # an IPv6 address beside a port
        address, _, port = entry[1:].partition("]")
        return address, port.removeprefix(":")
    name, colon, port = entry.partition(":")
    return (entry, "") if ":" in port else (name, port if colon else "")


def _is_within(host: str, network: str) -> bool:
    from ipaddress import ip_address, ip_network  # most jobs need neither

    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:  # a name, or no network
        return False
