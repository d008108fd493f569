"""A private Redis on a free port, without persistence: restarted, it is empty."""

from __future__ import annotations

from redis import Redis as Client

from tests.services.process import Process, as_user, folder_of, free_port, remove

USER = "nobody"


class Redis:
    """One Redis server."""

    def __init__(self) -> None:
        self._folder = folder_of(USER)
        self.port = free_port()
        try:
            self._process = self._start()
        except BaseException:
            remove(self._folder)
            raise

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _start(self) -> Process:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        quiet = ["--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        process = Process(as_user(USER, command + quiet), self._folder / "log")
        process.wait_for_port(self.port)
        return process

    def empty(self) -> None:
        """Forget everything."""
        with Client(port=self.port) as client:
            client.flushall()

    def kill(self) -> None:
        """Crash."""
        self._process.kill()

    def start(self) -> None:
        """Come back, empty."""
        self._process = self._start()

    def close(self) -> None:
        """Stop it."""
        self._process.kill()
        remove(self._folder)
