"""The agent's fixed costs: import time and memory, in processes of their own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

STEPS = 8
IMPORT = """
import time, torch
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
before, started = resident(), time.process_time()
import trainer_agent
trainer_agent.watch
print((time.process_time() - started) * 1e3, resident() - before)
"""

# Resident memory at the end of a short job of its own process, watched where a server is named.
# What glibc keeps of freed memory is given back first: it varies by 60 MiB from job to job.
MEMORY = """
import ctypes, gc, sys, torch
from examples.byte_gpt import ByteGPT, Sizes, loss_of
layers, width, batch, context, steps = map(int, sys.argv[1:6])
torch.set_num_threads(1)
torch.manual_seed(0)
model = ByteGPT(Sizes(layers, width, 4, context), "pre")
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
agent = None
if len(sys.argv) > 6:
    import trainer_agent
    agent = trainer_agent.watch(
        model, project="benchmark", run="memory", optimizer=optimizer,
        server=sys.argv[6], spool_dir=sys.argv[7], every=1,
    )
for _ in range(steps):
    ids = torch.randint(256, (batch, context + 1))
    loss = loss_of(model(ids[:, :-1]), ids[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if agent is not None:
        agent.step(loss=loss)
gc.collect()
getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
print("resident", int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20)
"""


def report_import() -> None:
    """Print CPU time and memory that importing the agent adds to torch, with bytecode compiled."""
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    command = [sys.executable, "-c", IMPORT]
    pairs = [
        subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        ).stdout.split()
        for _ in range(6)
    ][1:]  # the first may have to compile
    spent_ms, grown_mib = (statistics.median(float(p[i]) for p in pairs) for i in (0, 1))
    print(
        f"\nimport beyond torch: {spent_ms:.0f} ms of CPU (target 150), "
        f"{grown_mib:.1f} MiB (target 30)"
    )


def report_memory(shape: tuple[int, ...], url: str, folder: str) -> None:
    """Print the resident memory that a watched job has beyond a bare one.

    `shape` is layers, width, batch and context.
    """
    command = [sys.executable, "-c", MEMORY, *map(str, (*shape, STEPS))]
    grown = [_resident([*command, url, folder]) - _resident(command) for _ in range(3)]
    print(
        f"\nresident memory of a watched job beyond a bare one: "
        f"{statistics.median(grown):.1f} MiB (target 30)"
    )


def _resident(command: list[str]) -> float:
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(printed.split("resident")[-1])
