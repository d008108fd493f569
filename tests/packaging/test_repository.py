"""The files that a public host reads: well formed, and true of this tree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import evenkeel
from tests.packaging.conftest import ROOT

SCHEMA_OF = {
    ".github/dependabot.yml": "vendor.dependabot",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
    "CITATION.cff": "vendor.citation-file-format",
    "docker-compose.yml": "vendor.compose-spec",
    **{
        path.relative_to(ROOT).as_posix(): schema
        for pattern, schema in (
            (".github/workflows/*.yml", "vendor.github-workflows"),
            (".github/ISSUE_TEMPLATE/[0-9]*.yml", "vendor.github-issue-forms"),
        )
        for path in ROOT.glob(pattern)
    },
}


def release_notes(version: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / ".ci" / "release-notes"
    return subprocess.run(
        [sys.executable, script, version], capture_output=True, text=True, check=False
    )


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", sorted(SCHEMA_OF))
def test_file_follows_its_published_schema(path: str) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMA_OF[path]]
    result = subprocess.run([*check, ROOT / path], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_yaml_file_of_the_host_has_a_schema() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / ".github").rglob("*.yml")}

    assert files <= SCHEMA_OF.keys()


def test_workflows_run_commands_that_exist() -> None:
    commands = "\n".join(
        step["run"]
        for path in (ROOT / ".github/workflows").glob("*.yml")
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
        if "run" in step
    )

    made = re.findall(r"\bmake ([a-z-]+)", commands)

    assert {"check", "test", "docs", "wheels"} <= set(made) <= make_targets()
    assert all((ROOT / script).is_file() for script in re.findall(r"\.ci/[\w-]+", commands))


def test_matrix_is_what_the_distributions_promise() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]

    for project in ("pyproject.toml", "packaging/agent/pyproject.toml"):
        text = (ROOT / project).read_text()
        assert matrix == re.findall(r"Python :: (3\.\d+)", text)
        assert f'requires-python = ">={matrix[0]}"' in text


def test_commit_hooks_run_tools_of_the_development_install() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    commands = [hook["entry"].split() for hook in local["hooks"]]

    assert local["repo"] == "local"
    packages = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    for program, *arguments in commands:
        if program == "make":
            assert set(arguments) <= make_targets()
            continue
        folder, name = program.rsplit("/", 1)
        if folder == "node_modules/.bin":
            assert name in {package.rpartition("/")[2] for package in packages}
        else:
            assert folder == ".venv/bin"
            assert Path(sys.executable).with_name(name).is_file()


def test_citation_has_the_version_of_the_source() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())

    assert str(citation["version"]) == evenkeel.__version__


def test_changelog_has_a_section_for_the_version() -> None:
    result = release_notes(evenkeel.__version__)

    assert result.returncode == 0, result.stderr
    assert "\n### " in result.stdout
    assert "\n## " not in result.stdout


def test_release_of_another_version_than_the_source_is_refused() -> None:
    result = release_notes("99.0.0")

    assert result.returncode == 1
    assert "99.0.0" in result.stderr


@pytest.mark.parametrize("path", sorted(p.name for p in ROOT.glob("*.md")))
def test_relative_links_lead_somewhere(path: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / path).read_text())

    assert [link for link in links if not (ROOT / link).exists()] == []
