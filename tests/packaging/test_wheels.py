"""Two distributions from one tree: what each wheel holds, and that it works where it is alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

import evenkeel
from tests.packaging.conftest import ROOT, Environment, Wheels

pytestmark = pytest.mark.xdist_group("wheels")  # built once, not once a worker

AGENT = {"dslm", "trainer_agent", "wire"}
SERVER = {"dashboard", "evenkeel", "migrations", "server"}


@pytest.fixture(scope="module")
def agent(wheels: Wheels, environment: Callable[..., Environment]) -> Environment:
    return environment(wheels.agent)


@pytest.fixture(scope="module")
def server(wheels: Wheels, environment: Callable[..., Environment]) -> Environment:
    return environment(wheels.agent, wheels.server)


def files(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def top_level(wheel: Path) -> set[str]:
    return {name.split("/")[0] for name in files(wheel)}


def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def required_names(wheel: Path) -> set[str]:
    """Distributions that it always brings, extras left out."""
    lines = metadata(wheel).get_all("Requires-Dist", [])
    return {
        name.group().lower()
        for line in lines
        if "extra ==" not in line and (name := re.match(r"[\w-]+", line))
    }


def test_each_package_is_in_one_wheel(wheels: Wheels) -> None:
    assert top_level(wheels.agent) == AGENT
    assert top_level(wheels.server) == SERVER


def test_wheels_hold_every_module_of_the_tree(wheels: Wheels) -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in AGENT | SERVER
        for path in (ROOT / package).rglob("*.py")
    }

    assert modules <= files(wheels.agent) | files(wheels.server)


def test_server_wheel_brings_what_pages_and_migrations_read(wheels: Wheels) -> None:
    data = {
        path.relative_to(ROOT).as_posix()
        for folder in ("dashboard/assets", "dashboard/static")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }

    assert data | {"migrations/script.py.mako"} <= files(wheels.server)


def test_both_wheels_carry_types_and_licence(wheels: Wheels) -> None:
    for wheel, packages in ((wheels.agent, AGENT), (wheels.server, SERVER)):
        assert {f"{package}/py.typed" for package in packages} <= files(wheel)
        assert "LICENSE" in metadata(wheel).get_all("License-File", [])


def test_agent_brings_msgspec_and_numpy_alone(wheels: Wheels) -> None:
    assert required_names(wheels.agent) == {"msgspec", "numpy"}


def test_server_brings_the_agent_of_its_version_and_no_torch(wheels: Wheels) -> None:
    needed = metadata(wheels.server).get_all("Requires-Dist", [])

    assert f"evenkeel-agent=={evenkeel.__version__}" in needed
    assert not {"torch", "transformers", "triton"} & required_names(wheels.server)


def test_wheels_have_the_version_of_the_source(wheels: Wheels) -> None:
    versions = {metadata(wheel)["Version"] for wheel in (wheels.agent, wheels.server)}

    assert versions == {evenkeel.__version__}


def test_agent_alone_watches_and_predicts(agent: Environment) -> None:
    program = "import trainer_agent, dslm, wire; print(trainer_agent.watch.__name__, dslm.predict)"

    assert agent.output("-c", program).startswith("watch <function predict")


@pytest.mark.parametrize("package", sorted(SERVER))
def test_agent_alone_has_nothing_of_the_server(agent: Environment, package: str) -> None:
    result = agent.run("-c", f"import {package}")

    assert f"No module named '{package}'" in result.stderr


def test_agent_knows_its_version(agent: Environment) -> None:
    program = "from trainer_agent.options import package_version; print(package_version())"

    assert agent.output("-c", program) == evenkeel.__version__


def test_agent_without_torch_says_what_to_install(agent: Environment) -> None:
    program = "import sys; sys.modules['torch'] = None; from trainer_agent import watch"

    last_line = agent.run("-c", program).stderr.strip().splitlines()[-1]

    assert last_line.startswith("ImportError: trainer_agent.watch needs PyTorch")
    assert "pip install 'evenkeel-agent[torch]'" in last_line


def test_theory_and_contract_need_no_torch(agent: Environment) -> None:
    program = "import sys; sys.modules['torch'] = None; import dslm, wire; print(dslm.predict)"

    assert agent.output("-c", program).startswith("<function predict")


def test_server_prints_its_version(server: Environment) -> None:
    assert server.output("-m", "evenkeel", "--version") == evenkeel.__version__


def test_server_installs_the_command(server: Environment) -> None:
    script = server.python.with_name("evenkeel")

    assert "Serve API and dashboard" in server.output(str(script), "serve", "--help")


def test_server_migrates_a_new_database_without_torch(server: Environment, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from server.migration import migrate\n"
        f"print(migrate('sqlite+aiosqlite:///{tmp_path}/new.sqlite'))"
    )
    latest = sorted(path.stem for path in (ROOT / "migrations/versions").glob("0*.py"))[-1]

    assert latest.startswith(server.output("-c", program))


def test_api_and_pages_load_from_the_wheel_without_any_extra(server: Environment) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'pyarrow', 'apprise']))\n"
        "import evenkeel.composition, dashboard.app; print(dashboard.app.__file__)"
    )

    assert server.output("-c", program).startswith(str(server.python.parents[1]))
