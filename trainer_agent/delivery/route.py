"""The way to the server: directly or through a proxy, with or without TLS."""

from __future__ import annotations

# Looking a host up imports this codec. Were a process forked while the sender's thread does so,
# the child's thread would wait for that import for ever.
import encodings.idna  # noqa: F401
import http.client
import re
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from trainer_agent.delivery.proxy import ProxySettingError, proxy_for
from trainer_agent.delivery.transport import Unreachable

PORTS = {"http": 80, "https": 443}
CA_FILE = "EVENKEEL_CA_FILE"


class Route:
    """How one server is reached, by the environment's proxy and CA.

    Through a proxy, a server with TLS is reached by a CONNECT tunnel and one without by requests
    that name the whole address.

    Attributes:
        proxy: None where the server is reached directly.
        headers: what each request carries for the proxy.

    Raises:
        Unreachable: where the environment names no usable proxy.
    """

    def __init__(self, server: str, environment: Mapping[str, str], *, timeout_s: float) -> None:
        parts = urlsplit(server)
        self._https = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or PORTS[parts.scheme]
        self._timeout_s = timeout_s
        self._ca_file = environment.get(CA_FILE) or None
        try:
            self.proxy = proxy_for(parts.scheme, self._host, self._port, environment)
        except ProxySettingError as error:
            raise Unreachable(str(error)) from error
        forwarded = self.proxy is not None and not self._https
        self._prefix = f"http://{parts.netloc.rpartition('@')[2]}" if forwarded else ""
        self.headers = dict(self.proxy.headers) if self.proxy is not None and forwarded else {}

    def target(self, path: str) -> str:
        """What a request line names for this path of the server."""
        return self._prefix + path

    def connect(self) -> http.client.HTTPConnection:
        """An open connection to the server.

        Raises:
            Unreachable: in one sentence, with the setting that may be wrong.
        """
        connection = self._connection()
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(self._reason(error)) from error
        return connection

    def _connection(self) -> http.client.HTTPConnection:
        proxy, timeout_s = self.proxy, self._timeout_s
        host, port = (proxy.host, proxy.port) if proxy else (self._host, self._port)
        if not self._https:
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        connection = http.client.HTTPSConnection(
            host, port, timeout=timeout_s, context=self._trust()
        )
        if proxy is not None:
            connection.set_tunnel(self._host, self._port, headers=dict(proxy.headers))
        return connection

    def _trust(self) -> ssl.SSLContext:
        """Whom to trust: the CA that is named, else the system's, which SSL_CERT_FILE may name."""
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise Unreachable(
                f"{CA_FILE} is {self._ca_file}, which holds no certificates in PEM form ({error})"
            ) from error

    def _reason(self, error: Exception) -> str:
        server = f"{self._host}:{self._port}"
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {server} is not trusted ({error.verify_message}); "
                f"name the file of its CA in {CA_FILE}"
            )
        if isinstance(error, ssl.SSLError):
            return f"no TLS with {server} ({error})"
        if self.proxy is None:
            return f"{type(error).__name__}: {error}"
        refusal = re.search(r"Tunnel connection failed: (\d+) ?(.*)", str(error))
        if refusal is not None:
            return self.proxy.refusal(int(refusal[1]), f"{server} ({refusal[1]} {refusal[2]})")
        return (
            f"the proxy {self.proxy} of {self.proxy.variable} does not answer "
            f"({type(error).__name__}: {error}); name {self._host} in NO_PROXY if it needs none"
        )
