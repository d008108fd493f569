"""Which servers are reached through which proxy, by the environment's settings."""

from __future__ import annotations

import base64

import pytest

from trainer_agent.delivery.proxy import ProxySettingError, proxy_for


def chosen(
    host: str = "evenkeel.corp.example", scheme: str = "http", port: int = 8321, **settings: str
) -> str | None:
    """The proxy's host and port."""
    proxy = proxy_for(scheme, host, port, settings)
    return None if proxy is None else str(proxy)


def test_no_setting_is_no_proxy() -> None:
    assert chosen() is None
    assert chosen(HTTP_PROXY="") is None


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_each_scheme_has_a_proxy_of_its_own(scheme: str) -> None:
    settings = {"HTTP_PROXY": "http://plain:1", "HTTPS_PROXY": "http://secure:2"}

    assert chosen(scheme=scheme, **settings) == {"http": "plain:1", "https": "secure:2"}[scheme]


def test_lower_case_comes_before_upper_case() -> None:
    assert chosen(http_proxy="http://lower:1", HTTP_PROXY="http://upper:2") == "lower:1"
    assert chosen(http_proxy="", HTTP_PROXY="http://upper:2") is None


@pytest.mark.parametrize("url", ["http://proxy", "http://proxy/", "proxy", "http://PROXY:80"])
def test_a_proxy_may_be_named_without_scheme_and_port(url: str) -> None:
    assert chosen(HTTP_PROXY=url) == "proxy:80"


@pytest.mark.parametrize(
    "no_proxy",
    [
        "*",
        "evenkeel.corp.example",
        "EVENKEEL.corp.example",
        "corp.example",
        ".corp.example",
        "*.corp.example",
        "other.example, corp.example",
        "other.example corp.example",
        "corp.example:8321",
    ],
)
def test_hosts_named_in_no_proxy_are_reached_directly(no_proxy: str) -> None:
    assert chosen(HTTP_PROXY="http://proxy:1", NO_PROXY=no_proxy) is None
    assert chosen(HTTP_PROXY="http://proxy:1", no_proxy=no_proxy) is None


@pytest.mark.parametrize(
    "no_proxy",
    [
        "",
        ",",
        "keel.corp.example",
        "orp.example",
        "corp.example:80",
        "evenkeel",
        "sub.evenkeel.corp.example",
        "10.0.0.0/8",
        ".",
    ],
)
def test_other_entries_of_no_proxy_change_nothing(no_proxy: str) -> None:
    assert chosen(HTTP_PROXY="http://proxy:1", NO_PROXY=no_proxy) == "proxy:1"


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.9/24", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.0.0.0/99", False),
        ("fd00::1", "fd00::1", True),
        ("fd00::1", "[fd00::1]:8321", True),
        ("fd00::1", "[fd00::1]:80", False),
        ("fd00::1", "fd00::/8", True),
    ],
)
def test_addresses_and_networks_can_be_named_in_no_proxy(
    host: str, no_proxy: str, direct: bool
) -> None:
    assert (chosen(host, HTTP_PROXY="http://proxy:1", NO_PROXY=no_proxy) is None) == direct


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "::1"])
def test_loopback_never_has_a_proxy(host: str) -> None:
    assert chosen(host, HTTP_PROXY="http://proxy:1") is None


@pytest.mark.parametrize("host", ["127.0.0.1.evil.example", "1270.0.0.1", "localhost.example"])
def test_names_that_only_look_like_loopback_have_one(host: str) -> None:
    assert chosen(host, HTTP_PROXY="http://proxy:1") == "proxy:1"


def test_credentials_of_the_url_are_sent_decoded() -> None:
    proxy = proxy_for("http", "h.example", 80, {"HTTP_PROXY": "http://us%40er:p%3Ass@proxy:1"})

    assert proxy is not None
    kind, _, pair = proxy.headers["Proxy-Authorization"].partition(" ")
    assert (kind, base64.b64decode(pair)) == ("Basic", b"us@er:p:ss")


@pytest.mark.parametrize(
    "url",
    ["https://u:hidden@proxy", "socks5://u:hidden@proxy", "http://", "http://u:hidden@proxy:x"],
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable_without_the_password(
    url: str,
) -> None:
    with pytest.raises(ProxySettingError) as problem:
        chosen(scheme="https", HTTPS_PROXY=url)

    assert str(problem.value).startswith("HTTPS_PROXY ")
    assert "hidden" not in str(problem.value)
