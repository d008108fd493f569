"""A job may fork at any moment, also while the sender's thread is inside SQLite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
FORKS = 40
PATIENCE_S = 60
JOB = f"""
import os, signal, sys, threading
from pathlib import Path
from trainer_agent.delivery.spool import Spool

def write(name, times):
    spool = Spool(Path(sys.argv[1]) / name, limit_bytes=1 << 20)
    for number in range(times):
        spool.put_message("message", b"x" * 1000)
    spool.close()

threading.Thread(target=write, args=("parent", 1 << 30), daemon=True).start()
for number in range({FORKS}):
    pid = os.fork()
    if not pid:
        signal.alarm({PATIENCE_S})  # ends one that waits for ever
        write("child", 1)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status:
        break
os._exit(bool(status))
"""


def test_a_forked_child_can_use_sqlite_whenever_it_was_forked(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", JOB, str(tmp_path)]

    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
