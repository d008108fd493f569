"""What the agent costs a training job, as ratios of steps taken in turn in one process.

Each round takes one step of every job, one after the other, and compares it with the bare job's
step of the same round. The table has the median over rounds and, as "all CPU", the ratio of all
rounds together, which is what counts where only some steps are sampled. "CPU" is processor time of
the job with its sender thread: on a busy machine it says more than the clock. The server runs in a
process of its own.

    python -m benchmarks.agent
    python -m benchmarks.agent --long 2000    # the budget, once its start is paid back
    python -m benchmarks.agent --all-sites    # what each option costs
    python -m benchmarks.agent --layers 24 --width 64 --batch 16 --context 64    # the demo's
    python -m benchmarks.agent --device cuda --layers 24 --width 1024 --batch 16 --context 1024
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import trainer_agent
from benchmarks.footprint import report_import, report_memory
from benchmarks.rivals import AfterStep, Wandb, naive_hooks, stacked_hooks
from examples.byte_gpt import ByteGPT, Sizes, loss_of
from trainer_agent import Agent

# The first step also describes the model, and a budget begins with up to four samples.
WARM_UP = 4


@dataclass
class Job:
    """A training job and, for every step, its seconds.

    Attributes:
        steps, cpu, calls: by the clock, of processor time, and by the clock inside `agent.step`.
    """

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    agent: Agent | None = None
    after: AfterStep | None = None
    steps: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)

    def step(self, ids: Tensor) -> None:
        """Train on one batch, (batch, context + 1), and record its times."""
        _wait(ids.device)  # the step before may still run on the device
        started, busy = time.perf_counter(), time.process_time()
        loss = loss_of(self.model(ids[:, :-1]), ids[:, 1:])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        called = time.perf_counter()
        if self.agent is not None:
            self.agent.step(loss=loss)
        if self.after is not None:
            self.after(loss.detach())
        self.calls.append(time.perf_counter() - called)
        _wait(ids.device)
        self.steps.append(time.perf_counter() - started)
        self.cpu.append(time.process_time() - busy)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_job(
    name: str,
    sizes: Sizes,
    watch: Callable[[nn.Module, torch.optim.Optimizer], Agent] | None = None,
    rival: Callable[[nn.Module], AfterStep] | None = None,
) -> Job:
    torch.manual_seed(0)
    model = ByteGPT(sizes, "pre").to(torch.get_default_device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    agent = watch(model, optimizer) if watch else None
    return Job(name, model, optimizer, agent, rival(model) if rival else None)


def watched(
    url: str, folder: str, every: int | None, **more: Any
) -> Callable[[nn.Module, torch.optim.Optimizer], Agent]:
    def watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> Agent:
        pace = f"every {every}" if every else "default budget"
        return trainer_agent.watch(
            model,
            project="benchmark",
            # Each a name of its own: a second model under the same name closes the first.
            run=", ".join([pace, *map(str, more.values())]),
            optimizer=optimizer,
            server=url,
            every=every,
            spool_dir=folder,
            **more,
        )

    return watch


# Each option by itself, then all of them.
OPTIONS: dict[str, dict[str, Any]] = {
    "norm_inputs": {"sites": ["norm_inputs"]},
    "attention_heads": {"sites": ["attention_heads"]},
    "weights": {"sites": ["weights"]},
    "updates": {"sites": ["updates"]},
    "log_z": {"sites": ["log_z"]},
    "absmax, zeros": {"quantities": ["absmax", "zeros"]},
    "kurtosis": {"quantities": ["kurtosis"]},
    "ranges": {"quantities": ["ranges"]},
    "ranks": {"quantities": ["ranks"]},
    "all sites": {"sites": "all"},
    "all sites, all quantities": {"sites": "all", "quantities": "all"},
}


def serve(address: Connection, folder: str) -> None:
    # imported here: this runs in a spawned process, and the job's must not load a server
    import uvicorn

    from server.app import create_app
    from server.settings import Settings

    config = uvicorn.Config(create_app(Settings(data_dir=Path(folder))), port=0, log_level="error")
    server = uvicorn.Server(config)
    config.load()

    import asyncio

    async def run() -> None:
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        address.send(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
        await running

    asyncio.run(run())


@contextmanager
def served(folder: str) -> Iterator[str]:
    # spawned, not forked: a fork would share the job's threads and its torch state
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(there, folder), daemon=True)
    process.start()
    try:
        if not here.poll(60):
            raise SystemExit("the server did not start within a minute")
        yield here.recv()
    finally:
        process.terminate()
        process.join(10)


def compare(jobs: list[Job], arguments: argparse.Namespace) -> None:
    shape = (arguments.batch, arguments.context + 1)
    for ids in (torch.randint(256, shape) for _ in range(arguments.rounds + WARM_UP)):
        for job in jobs:
            job.step(ids)
    for job in jobs:
        del job.steps[:WARM_UP], job.cpu[:WARM_UP], job.calls[:WARM_UP]


def over(job_times: list[float], bare_times: list[float]) -> str:
    """Median over rounds of the time added to the bare job, in percent."""
    ratios = [time / bare_time for time, bare_time in zip(job_times, bare_times, strict=True)]
    return f"{100 * (statistics.median(ratios) - 1):+.1f} %"


def over_all(job_times: list[float], bare_times: list[float]) -> str:
    """Time that all rounds together add to the bare job's, in percent."""
    return f"{100 * (sum(job_times) / sum(bare_times) - 1):+.1f} %"


def report(jobs: list[Job]) -> None:
    bare = jobs[0]
    heads = f"{'job':<28}{'ms':>8}{'clock':>10}{'CPU':>10}{'all CPU':>10}"
    print(f"\n{heads}   agent.step, µs: median, worst")
    for job in jobs:
        clock, cpu = over(job.steps, bare.steps), over(job.cpu, bare.cpu)
        line = f"{job.name:<28}{1e3 * statistics.median(job.steps):>8.0f}{clock:>10}{cpu:>10}"
        line += f"{over_all(job.cpu, bare.cpu):>10}"
        if job.agent is not None:
            calls = [1e6 * spent for spent in job.calls]
            line += f"   {statistics.median(calls):.0f}, {max(calls):.0f}"
        print(line)


def settle(sizes: Sizes, steps: int, url: str, folder: str) -> None:
    """Print the default budget's cost in a longer job, once its start is paid back.

    The agent's clock counts the bare job's steps as its job's, so it gets half the budget. The
    sender thread may work during either job's step, so all processor time but that of the bare
    job's thread counts as the watched job's.
    """
    half_budget = watched(url, folder, None, overhead=0.005)
    jobs = [make_job("bare", sizes), make_job("agent, default budget", sizes, half_budget)]
    bare, watched_job = jobs
    threads: dict[str, list[float]] = {bare.name: [], watched_job.name: []}
    everything = []
    for ids in (torch.randint(256, (8, sizes.context + 1)) for _ in range(steps)):
        began = time.process_time()
        for job in jobs:
            threads[job.name].append(_thread_time(partial(job.step, ids)))
        everything.append(time.process_time() - began)
    bare_thread, watched_thread = threads[bare.name], threads[watched_job.name]
    watched_cpu = [both - bare_cpu for both, bare_cpu in zip(everything, bare_thread, strict=True)]
    print(f"\ndefault budget over {steps} steps of {sizes.layers} x {sizes.width} (target +1 %)")
    print(f"{'':<28}{'ms':>8}{'clock':>10}{'CPU':>10}{'training thread':>18}")
    for name, part in (("all steps", slice(None)), ("second half", slice(steps // 2, None))):
        clock = over_all(watched_job.steps[part], bare.steps[part])
        cpu, thread = (
            over_all(times[part], bare_thread[part]) for times in (watched_cpu, watched_thread)
        )
        length_ms = 1e3 * statistics.median(watched_job.steps[part])
        print(f"{name:<28}{length_ms:>8.0f}{clock:>10}{cpu:>10}{thread:>18}")
    assert watched_job.agent is not None
    watched_job.agent.close()


def _thread_time(work: Callable[[], None]) -> float:
    """Processor time of this thread, with what is freed at the work's end."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--all-sites", action="store_true", help="what each option costs")
    parser.add_argument("--long", type=int, default=0, help="steps of a longer, smaller job")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # more threads would hide the sender's work behind idle cores
    if arguments.device == "cuda":
        if not torch.cuda.is_available():
            print("no CUDA device: nothing measured")
            return
        print(torch.cuda.get_device_name())
    torch.set_default_device(arguments.device)
    sizes = Sizes(arguments.layers, arguments.width, 4, arguments.context)
    with tempfile.TemporaryDirectory() as folder, served(folder) as url:
        if arguments.long:
            settle(Sizes(12, 64, 4, 64), arguments.long, url, folder)
            return
        rivals = Wandb(folder) if Wandb.installed() and not arguments.all_sites else None
        jobs = list(_jobs(sizes, url, folder, rivals, options=arguments.all_sites))
        compare(jobs, arguments)
        report(jobs)
        for job in jobs:
            if job.agent is not None:
                job.agent.close()
        if rivals is not None:
            rivals.close()
        if arguments.device == "cpu":
            shape = (arguments.layers, arguments.width, arguments.batch, arguments.context)
            report_memory(shape, url, folder)
    report_import()


def _jobs(
    sizes: Sizes, url: str, folder: str, rivals: Wandb | None, *, options: bool
) -> Iterator[Job]:
    yield make_job("bare", sizes)
    yield make_job("agent, every step", sizes, watched(url, folder, 1))
    if options:
        for name, more in OPTIONS.items():
            yield make_job(f"+ {name}", sizes, watched(url, folder, 1, **more))
        return
    yield make_job("agent, default budget", sizes, watched(url, folder, None))
    yield make_job("agent, all steps unsampled", sizes, watched(url, folder, 1_000_000))
    yield make_job("agent, all sites", sizes, watched(url, folder, 1, sites="all"))
    yield make_job("hooks with .item()", sizes, rival=naive_hooks)
    yield make_job("hooks, one copy a step", sizes, rival=stacked_hooks)
    if rivals is None:
        print("wandb is not installed: no row of it (pip install 'evenkeel[bench]')")
        return
    for log in ("gradients", "all"):
        yield make_job(f'wandb.watch(log="{log}")', sizes, rival=partial(rivals.watch, log=log))


if __name__ == "__main__":
    main()
