"""What the agent costs while a job starts: its first 60 steps, at some 50 ms a step.

Each process takes a bare job and a watched one in turn, step by step, with a server in a process of
its own; the figures are medians over processes. Imports and `watch` come before the first step and
are shown apart. What the steps take more is split by the agent's own account; "elsewhere" is what
the clock shows beyond it: torch's calling of hooks, caches, the sender's thread beside the job's.

    python -m benchmarks.start
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.agent import served

JOB = """
import json, sys, time
import torch
from examples.byte_gpt import ByteGPT, Sizes, loss_of
layers, width, batch, context, steps = map(int, sys.argv[1:6])
torch.set_num_threads(1)
def make():
    torch.manual_seed(0)
    model = ByteGPT(Sizes(layers, width, 4, context), "pre")
    return model, torch.optim.AdamW(model.parameters(), lr=3e-4)
def step(job, agent=None):
    model, optimizer = job
    began = time.perf_counter()
    loss = loss_of(model(ids[:, :-1]), ids[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if agent is not None:
        agent.step(loss=loss)
    return time.perf_counter() - began
warm, bare, watched = make(), make(), make()
for _ in range(5):
    ids = torch.randint(256, (batch, context + 1))
    step(warm)
began = time.perf_counter()
import trainer_agent
trainer_agent.watch
imported = time.perf_counter()
agent = trainer_agent.watch(watched[0], project="benchmark", run="start", optimizer=watched[1],
                            server=sys.argv[6], spool_dir=sys.argv[7])
attached = time.perf_counter()
times, cpu, sampled = ([], []), 0.0, []
for number in range(steps):
    ids = torch.randint(256, (batch, context + 1))
    times[0].append(step(bare))
    if agent.measuring:
        sampled.append(number)
    times[1].append(step(watched, agent))
print(json.dumps({
    "import": imported - began, "watch": attached - imported, "bare": times[0],
    "watched": times[1], "account": dict(agent._parts.account._seconds), "sampled": sampled,
}))
agent.close()
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--processes", type=int, default=7)
    arguments = parser.parse_args(argv)
    names = ("layers", "width", "batch", "context", "steps")
    sizes = [str(getattr(arguments, name)) for name in names]
    with tempfile.TemporaryDirectory() as folder, served(folder) as url:
        jobs = [_job([*sizes, url, folder]) for _ in range(arguments.processes)]
    _report(jobs)


def _job(arguments: list[str]) -> dict[str, object]:
    # Installed code is compiled to bytecode; a job does not pay for that.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", JOB, *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(output.stdout.splitlines()[-1]))


def _report(jobs: list) -> None:  # type: ignore[type-arg]
    bare = [sum(job["bare"]) for job in jobs]
    steps = len(jobs[0]["bare"])
    length_ms = 1e3 * statistics.median(t for job in jobs for t in job["bare"])
    print(f"{len(jobs)} processes, {steps} steps of {length_ms:.0f} ms (target +3 %)")
    added = [sum(job["watched"]) - b for job, b in zip(jobs, bare, strict=True)]
    _line(f"first {steps} steps", added, bare)
    for part in (slice(0, 1), slice(1, 4), slice(4, None)):
        extra = [sum(job["watched"][part]) - sum(job["bare"][part]) for job in jobs]
        _line(f"  steps {part.start} to {(part.stop or steps) - 1}", extra, bare)
    print("by the account")
    purposes = sorted({purpose for job in jobs for purpose in job["account"]})
    for purpose in purposes:
        _line(f"  {purpose}", [job["account"].get(purpose, 0.0) for job in jobs], bare)
    totals = [sum(job["account"].values()) for job in jobs]
    _line("  elsewhere", [a - t for a, t in zip(added, totals, strict=True)], bare)
    print("before the first step")
    for name in ("import", "watch"):
        _line(f"  {name}", [job[name] for job in jobs], bare)
    print("sampled:", "; ".join(" ".join(map(str, job["sampled"])) for job in jobs[:3]))


def _line(name: str, seconds: list[float], bare: list[float]) -> None:
    shares = [100 * s / b for s, b in zip(seconds, bare, strict=True)]
    low, high = min(shares), max(shares)
    spent_ms = 1e3 * statistics.median(seconds)
    share = statistics.median(shares)
    print(f"{name:<28}{spent_ms:>8.1f} ms{share:>+8.1f} %   ({low:+.1f} to {high:+.1f})")


if __name__ == "__main__":
    main()
