"""The server as a process of its own, to be killed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.services.process import Process, free_port

PROGRAM = "from server.run import serve; from server.settings import Settings; serve(Settings())"
ROOT = Path(__file__).parents[2]


class ServerProcess:
    """One server; started again it has the same address and data."""

    def __init__(self, folder: Path, **settings: str) -> None:
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self._log = folder / "server.log"
        variables = {"data_dir": str(folder / "data"), "port": str(self.port), **settings}
        self._env = os.environ | {
            f"EVENKEEL_{key.upper()}": value for key, value in variables.items()
        }
        self._env["PYTHONPATH"] = str(ROOT)
        self.start()

    @property
    def database_url(self) -> str:
        """Where its data are."""
        folder = self._env["EVENKEEL_DATA_DIR"]
        return self._env.get("EVENKEEL_DATABASE_URL", f"sqlite+aiosqlite:///{folder}/evenkeel.db")

    def signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP."""
        self._process.send(number)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = Process([sys.executable, "-c", PROGRAM], self._log, self._env)
        self._process.wait_for_port(self.port)

    def kill(self) -> None:
        """Crash."""
        self._process.kill()

    def stop(self) -> None:
        """End as a service manager ends it."""
        self._process.stop()
