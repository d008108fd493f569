"""The command line as a user types it: what it prints, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from evenkeel.cli import app
from tests.e2e.jobs import Server
from tests.services.process import free_port

ROOT = Path(__file__).resolve().parents[2]
END_S = 60


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: str | Path) -> str:
    """The one line of a command that must end with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


def test_numpy_starts_no_threads_of_its_own() -> None:
    """They take minutes over small matrices where the processor has other work."""
    lines = (
        "import os, sys",
        "from evenkeel.__main__ import main",
        "assert 'numpy' not in sys.modules",
        "sys.argv[1:] = ['version']",
        "try: main()",
        "except SystemExit: print(os.environ['OPENBLAS_NUM_THREADS'])",
    )
    clean = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}

    printed = subprocess.check_output([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, env=clean)

    assert printed.split()[-1] == b"1"


def test_port_in_use_is_one_line_that_names_the_option(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        line = refusal("serve", "--port", str(port), "--data-dir", tmp_path)

    assert str(port) in line
    assert "--port" in line


def test_data_folder_that_is_a_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    line = refusal("serve", "--port", "0", "--data-dir", tmp_path / "file")

    assert "data_dir" in line
    assert str(tmp_path / "file") in line


@pytest.mark.parametrize("url", ["nonsense", "mysql://root@127.0.0.1/x"])
def test_wrong_database_url_is_one_line_that_names_the_setting(url: str, tmp_path: Path) -> None:
    line = refusal("serve", "--port", "0", "--data-dir", tmp_path, "--database-url", url)

    assert "database_url" in line


def test_database_that_does_not_answer_is_one_line_without_its_password() -> None:
    url = f"postgresql+asyncpg://user:hidden@127.0.0.1:{free_port()}/x"

    line = refusal("migrate", "--database-url", url)

    assert "127.0.0.1" in line
    assert "hidden" not in line


def test_impossible_port_is_one_line_that_names_the_setting() -> None:
    assert "setting port" in refusal("serve", "--port", "70000")


def test_server_that_is_away_is_one_line_that_says_how_to_start_one() -> None:
    line = refusal("runs", "--server", f"http://127.0.0.1:{free_port()}")

    assert "evenkeel serve" in line


def test_key_is_shown_once_and_then_only_described(tmp_path: Path) -> None:
    made = run("key", "create", "--scope", "ingest", "--label", "job", "--data-dir", tmp_path)
    listed = run("key", "list", "--data-dir", tmp_path)

    secret = made.stdout.strip()
    assert made.exit_code == listed.exit_code == 0
    assert "job" in listed.stdout
    assert secret not in listed.stdout


def test_revoked_key_is_listed_as_revoked(tmp_path: Path) -> None:
    run("key", "create", "--scope", "read", "--data-dir", tmp_path)
    identity = run("key", "list", "--data-dir", tmp_path).stdout.split()[0]

    assert run("key", "revoke", identity, "--data-dir", tmp_path).exit_code == 0
    assert "revoked" in run("key", "list", "--data-dir", tmp_path).stdout
    assert "no key" in refusal("key", "revoke", "nobody", "--data-dir", tmp_path)


def test_doctor_names_what_is_wrong_and_ends_with_one(tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}"

    result = run("doctor", "--server", away, "--data-dir", tmp_path)

    assert result.exit_code == 1
    assert "ok    install" in result.stdout
    assert "FAIL  server" in result.stdout


def test_local_server_is_reached_past_a_proxy_that_knows_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")

    with Server(tmp_path / "data", free_port()) as server:
        listed = run("runs", "--server", server.url)
        examined = run("doctor", "--server", server.url, "--data-dir", tmp_path / "data")

    assert listed.stdout == "No runs yet.\n"
    assert "ok    server" in examined.stdout


@pytest.mark.parametrize("command", ["runs", "doctor"])
def test_ca_file_that_holds_none_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CA_FILE", str(tmp_path / "missing.pem"))

    result = run(command, "--server", "https://127.0.0.1:9")

    assert result.exit_code in (1, 2)
    assert "EVENKEEL_CA_FILE is" in result.output + result.stderr


def test_runs_and_export_say_what_a_server_does_not_have(tmp_path: Path) -> None:
    with Server(tmp_path / "data", free_port()) as server:
        listed = run("runs", "--server", server.url)
        line = refusal("export", "f" * 32, "--server", server.url, "--output", tmp_path / "x")

    assert listed.stdout == "No runs yet.\n"
    assert "no run" in line
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 0), ("SIGTERM", -signal.SIGTERM)])
def test_serve_in_the_background_ends_when_it_is_asked(
    name: str, status: int, interrupts_ignored: None, tmp_path: Path
) -> None:
    options = ["--port", "0", "--data-dir", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "evenkeel", "serve", *options], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it serves

            process.send_signal(signal.Signals[name])

            assert process.wait(END_S) == status
        finally:
            process.kill()
