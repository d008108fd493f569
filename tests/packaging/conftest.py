"""The two wheels, built from a copy of the tree, and clean environments that hold one or both."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dslm", "wire", "trainer_agent", "server", "dashboard", "migrations", "evenkeel")
BUILD_FILES = ("pyproject.toml", "README.md", "LICENSE", "packaging")


@dataclass(frozen=True)
class Wheels:
    """Paths of the built wheels."""

    agent: Path
    server: Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment whose own packages are the wheels that were installed into it."""

    python: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run its Python, isolated from this process's path and working folder."""
        return subprocess.run(
            [self.python, "-I", *arguments],
            cwd=self.python.parent,
            capture_output=True,
            text=True,
            check=False,
        )

    def output(self, *arguments: str) -> str:
        """What it prints; fails the test, with what it wrote, unless it exits with 0."""
        result = self.run(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Wheels:
    # A copy: a `build/` folder left in the tree would put removed modules into the wheel.
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    for name in (*PACKAGES, *BUILD_FILES):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, tree / name)
    pip_wheel = ["-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [sys.executable, *pip_wheel, "-q", "-w", "dist", "./packaging/agent", "."],
        cwd=tree,
        check=True,
    )
    (agent,) = (tree / "dist").glob("evenkeel_agent-*.whl")
    (server,) = (tree / "dist").glob("evenkeel-*.whl")
    return Wheels(agent, server)


@pytest.fixture(scope="session")
def environment(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Environment]:
    """A function that installs wheels into a new environment, with no network."""

    def install(*paths: Path) -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=False, symlinks=True)
        python = folder / "bin" / "python"
        site_packages = Path(
            sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        )
        pip_install = ["-m", "pip", "--python", python, "install", "-q", "--no-index", "--no-deps"]
        subprocess.run([sys.executable, *pip_install, *paths], check=True)
        # Third-party libraries come from this process's environment. A path in a .pth file is
        # searched after the environment's own, and .pth files inside it are not read: so this
        # repository's editable install stays out of sight.
        (site_packages / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return Environment(python)

    return install
