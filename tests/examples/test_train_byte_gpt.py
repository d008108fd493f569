"""The demo's training script, as a user runs it: from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "train_byte_gpt.py"
SMALL = ["--layers", "4", "--width", "32", "--context", "16", "--batch", "2", "--no-watch"]


def train(*arguments: str) -> list[str]:
    """What the script prints of its losses."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SMALL, "--print-every", "1", *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if " loss " in line]


@pytest.mark.parametrize("variant", ["pre-ln", "post-ln", "post-ln-deepscale"])
def test_every_variant_trains_and_prints_its_losses(variant):
    lines = train("--variant", variant, "--steps", "2")

    assert len(lines) == 2
    assert all(line.startswith(f"{variant} step ") for line in lines)
    assert all(4 < float(line.split()[-1]) < 8 for line in lines)  # ln 256 = 5.5 at the start


def test_the_same_seed_gives_the_same_losses():
    first, again = (train("--steps", "3", "--seed", "1") for _ in range(2))

    assert first == again
