"""A private Postgres on a free port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

import asyncpg

from server.database import connect
from server.migration import apply
from tests.services.polling import eventually
from tests.services.process import Process, as_user, folder_of, free_port, remove

USER = "postgres"
TEMPLATE = "evenkeel_template"
FIRST_WITH_STRATEGY = 15


def bin_folder() -> Path | None:
    """Where Postgres' programs are, or None."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return programs[-1].parent if programs else Path(on_path).parent if on_path else None


class Postgres:
    """One Postgres server with a migrated template database."""

    def __init__(self) -> None:
        self._folder = folder_of(USER)
        self._bin = bin_folder()
        self._has_template = False
        self._version = 0  # known once it has been connected to
        self.port = free_port()
        try:
            self._initialise()
            self._process = self._start()
        except BaseException:
            remove(self._folder)
            raise

    def _initialise(self) -> None:
        data = str(self._folder / "data")
        initdb = [f"{self._bin}/initdb", "-D", data, "-A", "trust", "-U", USER, "-E", "UTF8", "-N"]
        subprocess.run(as_user(USER, initdb), check=True, capture_output=True, cwd="/")

    def _start(self) -> Process:
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._folder,
            "fsync": "off",  # a killed process loses nothing by it, a power cut is not tested
            "max_connections": 60,
            "shared_buffers": "16MB",
        }
        flags = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        command = [f"{self._bin}/postgres", "-D", str(self._folder / "data"), *flags]
        process = Process(as_user(USER, command), self._folder / "log")
        process.wait_for_port(self.port)
        return process

    def restart(self) -> None:
        """Crash and come back; it replays its log before it answers queries."""
        self._process.stop(signal.SIGQUIT)
        self._process = self._start()

    def crash(self) -> None:
        """End at once, and stay away."""
        self._process.stop(signal.SIGQUIT)

    def come_back(self) -> None:
        """Start after a crash."""
        self._process = self._start()

    def signal(self, number: int) -> None:
        """Send a signal to every process of the server, as SIGSTOP and SIGCONT need it."""
        main = int((self._folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in (main, *map(int, children)):
            os.kill(pid, number)

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+asyncpg://{USER}@127.0.0.1:{self.port}/{database}"

    async def fresh(self) -> str:
        """The URL of a new, migrated database."""
        if not self._has_template:
            await self._execute(f"CREATE DATABASE {TEMPLATE}")
            database = connect(self.url(TEMPLATE))
            await apply(database)
            await database.close()
            self._has_template = True
        name = f"test_{uuid.uuid4().hex}"
        # Not through the log, as versions from 15 on would: that takes twice as long.
        copying = " STRATEGY FILE_COPY" if self._version >= FIRST_WITH_STRATEGY else ""
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}{copying}")
        return self.url(name)

    async def empty(self) -> str:
        """The URL of a new database without tables."""
        name = f"test_{uuid.uuid4().hex}"
        await self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    async def _execute(self, statement: str) -> None:
        # A server that has just started may still be replaying its log.
        connection = await eventually(self._connected, lambda connection: connection is not None)
        assert connection is not None
        self._version = connection.get_server_version().major
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def _connected(self) -> Any | None:
        where = {"host": "127.0.0.1", "port": self.port, "user": USER, "database": "postgres"}
        try:
            return await asyncpg.connect(**where)
        except asyncpg.CannotConnectNowError:
            return None

    def close(self) -> None:
        """Stop it and remove its data."""
        self._process.stop(signal.SIGQUIT)
        remove(self._folder)
