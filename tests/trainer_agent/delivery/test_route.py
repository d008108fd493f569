"""Frames through a real proxy and to a real TLS server, by the environment's settings."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.process import free_port
from tests.trainer_agent.delivery.certificates import Certificate
from tests.trainer_agent.delivery.forward_proxy import Traffic, proxying
from tests.trainer_agent.delivery.test_arrival import watched
from tests.trainer_agent.receiving_server import Store, refusal, serving
from trainer_agent.delivery.http_transport import HttpTransport
from trainer_agent.delivery.transport import Refused, Unreachable
from wire import RunEnd

HOST = "evenkeel.test"  # no such host is known to anybody but the proxy
RUN = "f" * 32
END = RunEnd("finished")


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "ssl_cert_file", "evenkeel_ca_file"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return Certificate(tmp_path_factory.mktemp("certificate"), f"DNS:{HOST}", "IP:127.0.0.1")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """The proxy of both schemes, with credentials in its URL."""
    traffic = Traffic()
    with proxying(traffic) as address:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://user:hidden@{address}")
        yield traffic


def named(url: str) -> str:
    """The address by the name that only the proxy knows."""
    return url.replace("127.0.0.1", HOST)


def end(url: str) -> None:
    """One request, and the connection closed."""
    transport = HttpTransport(url, "k")
    try:
        transport.end(RUN, END)
    finally:
        transport.close()


def failure(url: str) -> str:
    """The one sentence of a request that cannot be made."""
    with pytest.raises(Unreachable) as problem:
        end(url)
    sentence = str(problem.value)
    assert "hidden" not in sentence
    assert "\n" not in sentence
    return sentence


def test_frames_go_through_the_proxy_as_requests_that_name_the_server(
    proxy: Traffic, tmp_path: Path
) -> None:
    store = Store()
    with serving(store) as url:
        agent = watched(named(url), tmp_path, key="k")
        for step in range(3):
            agent.step(loss=step)
        assert agent.close()

    assert store.seqs(agent.run_id) == [1, 2, 3]
    assert set(store.keys) == {"Bearer k"}
    prefix = f"{named(url)}/api/v1/runs/{agent.run_id}"
    assert all(f" {prefix}" in request for request in proxy.requests)
    assert set(proxy.credentials) == {"Basic dXNlcjpoaWRkZW4="}


def test_a_server_with_tls_is_reached_by_one_tunnel(
    proxy: Traffic, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVENKEEL_CA_FILE", str(certificate.file))
    store = Store()
    with serving(store, tls=certificate.context) as url:
        agent = watched(named(url), tmp_path, key="k")
        for step in range(3):
            agent.step(loss=step)
        assert agent.close()

    assert store.seqs(agent.run_id) == [1, 2, 3]
    assert proxy.requests == [f"CONNECT {named(url).removeprefix('https://')}"]
    assert proxy.credentials == ["Basic dXNlcjpoaWRkZW4="]


@pytest.mark.parametrize("variable", ["EVENKEEL_CA_FILE", "SSL_CERT_FILE"])
def test_a_ca_of_ones_own_is_trusted_when_its_file_is_named(
    variable: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(certificate.file))
    store = Store()

    with serving(store, tls=certificate.context) as url:
        end(url)

    assert list(store.ends) == [RUN]


def test_a_certificate_that_is_not_trusted_says_which_setting_names_its_ca(
    certificate: Certificate,
) -> None:
    with serving(Store(), tls=certificate.context) as url:
        sentence = failure(url)

    assert sentence.startswith(f"the certificate of {url.removeprefix('https://')} is not trusted")
    assert "EVENKEEL_CA_FILE" in sentence


def test_a_certificate_of_another_host_is_not_trusted(
    proxy: Traffic, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CA_FILE", str(certificate.file))

    with serving(Store(), tls=certificate.context) as url:
        assert "is not trusted" in failure(url.replace("127.0.0.1", "other.test"))


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_that_holds_none_is_named(
    content: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("EVENKEEL_CA_FILE", str(path))

    assert f"EVENKEEL_CA_FILE is {path}" in failure("https://127.0.0.1:9")


def test_a_server_without_tls_is_no_https_server() -> None:
    with serving(Store()) as url:
        sentence = failure(url.replace("http:", "https:"))

    assert sentence.startswith("no TLS with 127.0.0.1:")


def test_a_host_named_in_no_proxy_is_reached_directly(
    proxy: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", HOST)

    sentence = failure(f"http://{HOST}:9")

    assert "proxy" not in sentence
    assert proxy.requests == []


def test_loopback_is_reached_directly(proxy: Traffic) -> None:
    store = Store()
    with serving(store) as url:
        end(url)

    assert list(store.ends) == [RUN]
    assert proxy.requests == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_asks_for_credentials_says_where_they_belong(
    scheme: str, proxy: Traffic
) -> None:
    proxy.answer = 407

    sentence = failure(f"{scheme}://{HOST}:9")

    assert "asks for credentials (407)" in sentence
    assert f"{scheme.upper()}_PROXY" in sentence


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_lets_nothing_through_is_no_refusal_of_the_server(
    scheme: str, proxy: Traffic
) -> None:
    proxy.answer = 403

    assert "does not connect to" in failure(f"{scheme}://{HOST}:9")


def test_a_refusal_of_the_server_passes_through_the_proxy(proxy: Traffic) -> None:
    store = Store(faults={"end": [refusal(422, "status")]})

    with serving(store) as url, pytest.raises(Refused) as problem:
        end(named(url))

    assert problem.value.field == "status"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_does_not_answer_is_named_with_its_variable(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:hidden@{address}")

    sentence = failure(f"{scheme}://{HOST}:9")

    assert sentence.startswith(f"the proxy {address} of {scheme.upper()}_PROXY does not answer")
    assert "NO_PROXY" in sentence


def test_a_wrong_setting_is_logged_once_and_frames_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://proxy:1")
    with caplog.at_level(logging.WARNING, logger="evenkeel"):
        agent = watched(f"http://{HOST}:9", tmp_path)
        for step in range(3):
            agent.step(loss=step)
        assert not agent.close(timeout_s=0.2)

    (line,) = [record.message for record in caplog.records]
    assert "HTTP_PROXY names no proxy that the agent can use" in line
    assert list(tmp_path.glob("*.spool"))
