"""The sharded job's script, as torchrun starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "train_sharded.py"
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SMALL = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "3"]


def test_two_processes_train_one_watched_model(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *TORCHRUN, str(SCRIPT), *SMALL],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "EVENKEEL_URL": "http://127.0.0.1:9",  # nobody: training does not mind
            "EVENKEEL_SPOOL_DIR": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("evenkeel: http") == 1  # one run, of one speaker
    assert "step     0 loss 5." in done.stdout  # ln 256 = 5.5 at the start
    assert "evenkeel failed" not in done.stderr
