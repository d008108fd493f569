"""What pages say of the source: the files they name exist, and so do the names in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.alerts.rules import RULES
from trainer_agent.model.sites import QUANTITIES, SITES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)
FOLDERS = "dslm|wire|trainer_agent|server|dashboard|migrations|evenkeel|tests|benchmarks|examples"
FILE = rf"(?:{FOLDERS})/[\w./-]*(?:/|\.py|\.js|\.html|\.npz)"
# The how-tos make these.
MADE = {
    "server/alerts/rules/dominance.py",
    "dashboard/pages/projects.py",
    "migrations/versions/0004_notes.py",
}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def named_files(page: str) -> Iterator[str]:
    """Paths in code spans and in diagrams."""
    yield from re.findall(rf"`({FILE})`", text_of(page))
    for diagram in re.findall(r"```text\n(.*?)```", text_of(page), re.DOTALL):
        yield from re.findall(rf"(?<![\w/])({FILE})", diagram)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    missing = {name for name in named_files(page) if not (ROOT / name).exists()}

    assert missing - MADE == set()


@pytest.mark.parametrize("page", PAGES)
def test_names_are_in_the_file_that_a_page_says(page: str) -> None:
    claims = re.findall(rf"`([\w.]+)` in\s+`({FILE}\.py)`", text_of(page))

    wrong = [
        f"{name} in {path}"
        for name, path in claims
        if path not in MADE and not re.search(rf"\b{name}\b", (ROOT / path).read_text())
    ]

    assert wrong == []


def test_every_rule_is_in_the_table_of_alerts_with_its_patience() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| [\w, ]+ \| (.+) \| (.+) \|$", text_of("docs/alerts.md"), re.M
    )
    table = {name: (opens, clears) for name, opens, clears in rows}

    assert table.keys() == {rule.name for rule in RULES}
    for rule in RULES:
        opens, clears = table[rule.name]
        if opens.isdigit():
            assert (int(opens), int(clears)) == (rule.opens_after, rule.clears_after)


@pytest.mark.parametrize("name", [*SITES, *QUANTITIES])
def test_what_can_be_measured_is_on_the_agents_page(name: str) -> None:
    page = text_of("docs/agent_reference.md") + text_of("docs/api.md")
    parts = name.replace("_overflow", "").replace("_underflow", "")

    assert name in page or f"{parts}_" in page
