"""The demo's training script: from the command line, and as the same command in this process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "train_byte_gpt.py"
SMALL = ["--layers", "4", "--width", "32", "--context", "16", "--batch", "2", "--no-watch"]
VARIANTS = ["pre-ln", "post-ln", "post-ln-deepscale"]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch):
    """The script's `main`, with its folder on the path for as long as the test lasts."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import train_byte_gpt

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *SMALL, "--print-every", "1", *arguments])
        train_byte_gpt.main()

    return run


def losses(output: str) -> list[str]:
    """The lines that tell a loss."""
    return [line for line in output.splitlines() if " loss " in line]


def require_losses(lines: list[str], variant: str) -> None:
    assert len(lines) == 2
    assert all(line.startswith(f"{variant} step ") for line in lines)
    assert all(4 < float(line.split()[-1]) < 8 for line in lines)  # ln 256 = 5.5 at the start


def test_the_script_runs_from_the_command_line():
    variant = "post-ln-deepscale"  # the one that needs the agent's package, too
    arguments = [*SMALL, "--print-every", "1", "--variant", variant, "--steps", "2"]

    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    require_losses(losses(done.stdout), variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_prints_its_losses(variant, main, capsys):
    main("--variant", variant, "--steps", "2")

    require_losses(losses(capsys.readouterr().out), variant)


def test_the_same_seed_gives_the_same_losses(main, capsys):
    for _ in range(2):
        main("--steps", "3", "--seed", "1")
        print("again")

    first, again, _ = capsys.readouterr().out.split("again\n")
    assert losses(first) == losses(again) != []
