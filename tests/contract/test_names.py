"""Names say what a thing is: words that say only how it was come by stay rare."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("trainer_agent", "dashboard", "server", "dslm", "wire", "evenkeel")
VAGUE = {"one", "found", "own", "held", "told", "whole", "seen"}
VAGUE |= {"kept", "given", "wanted", "known", "rest", "some", "mine"}
LARGEST_SHARE = 0.005


def local_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Parameters and assigned names, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno


def names_of(package: str) -> list[tuple[str, str]]:
    """Every local name of a package, with the place where it is."""
    return [
        (name.strip("_"), f"{path.relative_to(ROOT)}:{line}: {name}")
        for path in sorted((ROOT / package).rglob("*.py"))
        for name, line in local_names(ast.parse(path.read_text(encoding="utf-8")))
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_vague_words_are_rare_among_local_names(package: str) -> None:
    names = names_of(package)

    vague = [place for name, place in names if name in VAGUE]

    assert len(vague) < LARGEST_SHARE * len(names), "\n".join(vague)


def test_a_vague_name_is_found_wherever_it_is_bound() -> None:
    program = "def f(held, *, given=1):\n    for one in (kept := held):\n        _seen = one"

    names = {name.strip("_") for name, _ in local_names(ast.parse(program))}

    assert names == {"held", "given", "one", "kept", "seen"}
