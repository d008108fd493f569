"""`docs/files.md` is written from the files; every file says what it is for."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
WRITER = runpy.run_path(str(DOCS / "list_files.py"))


def test_the_page_of_files_is_the_one_that_its_command_writes():
    assert (DOCS / "files.md").read_text() == WRITER["page"](), "run: python docs/list_files.py"


def test_every_file_says_what_it_is_for():
    rows = [line.split(" | ") for line in WRITER["page"]().splitlines() if line.startswith("| `")]
    assert len(rows) > 400
    assert [row[0] for row in rows if not row[1].strip()] == []
