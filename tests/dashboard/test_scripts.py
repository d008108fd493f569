"""The scripts' own tests, which run in Node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")
FILES = sorted((Path(__file__).parent / "js").glob("*.test.js"))


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_scripts_pass_their_tests_in_node(file: Path) -> None:
    result = subprocess.run(
        [str(NODE), "--test", str(file)], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert "# fail 0" in result.stdout or "ℹ fail 0" in result.stdout
