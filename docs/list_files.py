"""Writes `docs/files.md`: every file of the code, the first sentence in it, and what it defines.

`make format` runs it; `tests/docs/test_file_list.py` holds the page to the files.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/files.md"
PACKAGES = ("trainer_agent", "wire", "dslm", "server", "dashboard", "evenkeel")
NAMES = 12  # so many names of a file at most
HEAD = """# Every file

What each file is for, by its own first sentence, and the names defined in it. To find a place by
question, begin with [where a decision lives](architecture.md#where-a-decision-lives); to find it by
word, search this page. `python docs/list_files.py` writes it, and `make format` runs that.
"""


def page() -> str:
    """The page, in Markdown."""
    parts = [HEAD]
    for package in PACKAGES:
        parts.append(f"\n## `{package}/`\n")
        files = sorted(_files(package), key=lambda f: (f.parent.parts, f.name))
        for folder, content in groupby(files, key=lambda f: f.parent):
            parts.append(f"\n### `{folder.relative_to(ROOT).as_posix()}/`\n")
            if (folder / "__init__.py").is_file():
                parts.append(f"\n{_python(folder / '__init__.py')[0]}\n")
            rows = [_row(f) for f in content]
            parts.append("\n| file | | defines |\n|---|---|---|\n" + "".join(rows))
    return "".join(parts)


def _files(package: str) -> Iterator[Path]:
    for pattern in ("*.py", "*.js"):
        for file in (ROOT / package).rglob(pattern):
            if file.name != "__init__.py" and not file.name.endswith(".min.js"):
                yield file


def _row(file: Path) -> str:
    sentence, names = _python(file) if file.suffix == ".py" else _script(file)
    more = [*names[:NAMES], *(["…"] if len(names) > NAMES else [])]
    defined = ", ".join(name if name == "…" else f"`{name}`" for name in more)
    return f"| `{file.name}` | {sentence} | {defined} |\n"


def _python(file: Path) -> tuple[str, list[str]]:
    tree = ast.parse(file.read_text())
    names = [name for statement in tree.body for name in _defined(statement)]
    return _cell(ast.get_docstring(tree) or ""), [n for n in names if not n.startswith("_")]


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [t.id for t in targets if isinstance(t, ast.Name) and t.id.isupper()]


def _script(file: Path) -> tuple[str, list[str]]:
    text = file.read_text()
    comment = re.match(r"/\*+\s*(.*?)\*/", text, re.DOTALL)
    names = re.findall(r"^export (?:async )?(?:function|class|const|let) (\w+)", text, re.MULTILINE)
    return _cell(comment[1] if comment else ""), names


def _cell(comment: str) -> str:
    """The first paragraph, as it may stand between bars."""
    paragraph = " ".join(comment.split("\n\n", maxsplit=1)[0].split())
    return paragraph.replace("|", "\\|").replace("<", "&lt;").replace("`` ", "``")


if __name__ == "__main__":
    PAGE.write_text(page())
