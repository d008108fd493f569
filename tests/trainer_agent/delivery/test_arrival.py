"""Over real HTTP: whatever happens to server or job, frames arrive, once and in order."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer_agent
from tests.trainer_agent.receiving_server import Store, refusal, serving
from tests.trainer_agent.recording import RecordingTransport
from tests.trainer_agent.small_gpt import batch, built, train_step
from trainer_agent import Agent
from trainer_agent.delivery.http_transport import HttpTransport
from trainer_agent.delivery.intervals import ExportIntervals
from trainer_agent.options import SPOOL_LIMIT_BYTES, read_options
from wire import FrameBatch, FramesReceipt

QUICK = ExportIntervals(
    flush_s=0.005,
    poll_s=0.02,
    heartbeat_s=0.05,
    resend_s=0.3,
    backoff_s=0.01,
    max_backoff_s=0.05,
    refused_s=0.1,
)


def arguments(url: str, folder: Path) -> dict[str, Any]:
    """Arguments of `watch`."""
    return {
        "project": "p",
        "run": "r",
        "server": url,
        "key": None,
        "every": 1,
        "tags": (),
        "config": None,
        "spool_dir": folder,
        "spool_limit_bytes": SPOOL_LIMIT_BYTES,
        "rank": 0,
    }


def watched(url: str, folder: Path, **changed: Any) -> Agent:
    """An agent on a model too small to matter, with short intervals."""
    options = read_options(**{**arguments(url, folder), **changed})
    return Agent(
        torch.nn.Linear(2, 2),
        options,
        optimizer=None,
        transport=lambda: HttpTransport(url, options.key),
        intervals=QUICK,
    )


def test_a_run_arrives_whole_and_leaves_no_spool(tmp_path: Path) -> None:
    store = Store()
    with serving(store) as url:
        model, optimizer = built()
        with trainer_agent.watch(
            model,
            project="p",
            run="r",
            optimizer=optimizer,
            server=url,
            spool_dir=tmp_path,
            key="k",
            every=1,
        ) as agent:
            for step in range(5):
                agent.step(loss=train_step(model, optimizer, batch(step)))

    assert store.seqs(agent.run_id) == [1, 2, 3, 4, 5]
    assert store.revisions[0].step == 0
    assert store.ends[agent.run_id].status == "finished"
    assert set(store.keys) == {"Bearer k"}
    assert agent.url == f"{url}/runs/{agent.run_id}"
    assert list(tmp_path.iterdir()) == []


def test_frames_of_a_server_that_died_and_came_back_arrive_once_and_in_order(
    tmp_path: Path,
) -> None:
    store = Store()
    with serving(store) as url:
        agent = watched(url, tmp_path)
        for step in range(10):
            agent.step(loss=step)
        store.wait(lambda s: len(s.seqs(agent.run_id)) == 10)
    for step in range(10, 50):
        agent.step(loss=step)
    with serving(store, port=int(url.rpartition(":")[2])):
        for step in range(50, 60):
            agent.step(loss=step)
        assert agent.close()

    assert store.seqs(agent.run_id) == list(range(1, 61))
    assert store.order == list(range(1, 61))


def test_frames_that_never_became_durable_are_sent_to_the_next_server(tmp_path: Path) -> None:
    store = Store(commits=False)
    with serving(store) as url:
        agent = watched(url, tmp_path)
        for step in range(10):
            agent.step(loss=step)
        store.wait(lambda s: len(s.seqs(agent.run_id)) == 10)
    fresh = Store()
    with serving(fresh, port=int(url.rpartition(":")[2])):
        assert agent.close()

    assert fresh.seqs(agent.run_id) == list(range(1, 11))
    assert agent._parts.sender.resent == 10


class Counting(RecordingTransport):
    """Counts the requests that carry frames."""

    requests = 0

    def send(self, run_id: str, batch: FrameBatch) -> FramesReceipt:
        self.requests += bool(batch.frames)
        return super().send(run_id, batch)


def recorded(transport: RecordingTransport, folder: Path, intervals: ExportIntervals) -> Agent:
    """An agent whose frames stay in this process."""
    options = read_options(**arguments("http://127.0.0.1:9", folder))
    model = torch.nn.Linear(2, 2)
    return Agent(model, options, optimizer=None, transport=lambda: transport, intervals=intervals)


def test_frames_that_come_in_soon_after_each_other_are_sent_together(tmp_path: Path) -> None:
    transport, tick = Counting(), threading.Event()
    agent = recorded(transport, tmp_path, ExportIntervals(flush_s=3600.0))
    agent.step(loss=0)
    assert agent._parts.sender.settle(20.0)

    for step in range(1, 40):
        agent.step(loss=step)
        tick.wait(0.002)  # long enough for a thread that is woken for each
    assert agent.close(20.0)

    assert [frame.step for frame in transport.frames] == list(range(40))
    assert transport.requests <= 3  # the first, what came while it was sent, and the rest


def test_whoever_waits_for_the_disk_or_the_end_does_not_wait_for_the_interval(
    tmp_path: Path,
) -> None:
    hours, transport = 3600.0, RecordingTransport()
    agent = recorded(transport, tmp_path, ExportIntervals(flush_s=hours, heartbeat_s=hours))

    agent.step(loss=0)
    assert agent._parts.sender.settle(20.0)
    agent.step(loss=1)
    assert agent._parts.sender.settle(20.0)
    agent.step(loss=2)
    assert agent.close(20.0)

    assert [frame.step for frame in transport.frames] == [0, 1, 2]


def test_a_server_that_forgot_the_run_is_told_again(tmp_path: Path) -> None:
    store = Store()
    with serving(store) as url:
        agent = watched(url, tmp_path)
        agent.step(loss=0)
        store.wait(lambda s: s.seqs(agent.run_id) == [1])
        with store.changed:
            store.layouts.clear()
        agent.step(loss=1)
        assert agent.close()

    assert store.seqs(agent.run_id) == [1, 2]
    assert len(store.declarations) == 2


def test_a_server_in_trouble_is_tried_again(tmp_path: Path) -> None:
    store = Store(faults={"declare": [(503, b"busy")], "frames": [(500, b""), (429, b"{}")]})
    with serving(store) as url:
        agent = watched(url, tmp_path)
        for step in range(3):
            agent.step(loss=step)
        assert agent.close()

    assert store.seqs(agent.run_id) == [1, 2, 3]


def test_a_wrong_key_is_said_once_and_the_frames_wait_for_the_right_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(faults={"declare": [refusal(401, "key", "no such key")] * 3})
    with serving(store) as url, caplog.at_level(logging.WARNING, logger="evenkeel"):
        agent = watched(url, tmp_path)
        agent.step(loss=1)
        store.wait(lambda s: s.seqs(agent.run_id) == [1])
        assert agent.close()

    assert [r.message for r in caplog.records if "no such key" in r.message] == [
        "evenkeel's server refused: no such key (field key, status 401); do otherwise. "
        "evenkeel keeps its frames and tries again later"
    ]


def test_a_frame_the_server_never_takes_is_counted_and_the_rest_arrives(tmp_path: Path) -> None:
    store = Store(accepts=lambda frame: "cursed" if frame.step == 2 else "")
    with serving(store) as url:
        agent = watched(url, tmp_path)
        for step in range(5):
            agent.step(loss=step)
        assert agent.close()

    assert store.seqs(agent.run_id) == [1, 2, 4, 5]
    assert store.healths[-1].dropped == 1
    assert store.durable[agent.run_id, 0] == 5


def test_what_a_full_spool_drops_is_counted_and_what_it_kept_arrives(tmp_path: Path) -> None:
    store = Store()
    with serving(store) as url:
        pass
    agent = watched(url, tmp_path, spool_limit_bytes=65_536)
    for step in range(900):
        agent.step(loss=step, **{f"metric_{i}": i for i in range(40)})
        if step % 300 == 299:
            assert agent._parts.sender.settle(20.0)
    with serving(store, port=int(url.rpartition(":")[2])):
        assert agent.close()

    seqs = store.seqs(agent.run_id)
    assert 0 < len(seqs) < 900
    assert seqs == list(range(901 - len(seqs), 901))
    assert store.healths[-1].dropped == 900 - len(seqs)
    assert store.durable[agent.run_id, 0] == 900


def wait_for(claim: Any, timeout_s: float = 20.0) -> None:
    tick = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if claim():
            return
        tick.wait(0.01)
    raise AssertionError("it never came true")


def test_close_keeps_to_its_timeout_when_the_server_hangs(tmp_path: Path) -> None:
    release = threading.Event()
    asked = threading.Event()

    class Hanging(HttpTransport):
        def _exchange(self, *request: Any) -> Any:
            asked.set()
            release.wait(30)
            raise ConnectionError("gone")

    agent = watched("http://127.0.0.1:9", tmp_path)
    agent._parts.sender._make_transport = lambda: Hanging("http://127.0.0.1:9", None)
    agent.step(loss=1)
    assert asked.wait(20)

    arrived = agent.close(timeout_s=0.05)

    assert not arrived
    assert not release.is_set()  # close returned while the server was still hanging
    thread = agent._parts.sender._thread
    release.set()
    assert thread is not None
    thread.join(20)
    assert list(tmp_path.glob("*.spool"))


JOB = """
import os, signal, sys
import torch
from pathlib import Path
from tests.trainer_agent.delivery.test_arrival import watched, wait_for
agent = watched(sys.argv[1], Path(sys.argv[2]))
for step in range(20):
    agent.step(loss=step)
wait_for(lambda: agent._parts.sender.last_seq == 20)
print(agent.run_id, flush=True)
{ending}
"""


def run_job(url: str, folder: Path, ending: str) -> tuple[str, int]:
    """Run a job of 20 steps that ends like this; returns its run id and exit status."""
    job = subprocess.run(
        [sys.executable, "-c", JOB.format(ending=ending), url, str(folder)],
        check=False,  # it is made to die
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
        timeout=60,
    )
    return job.stdout.split()[-1], job.returncode


def test_frames_of_a_killed_job_are_sent_by_the_next_agent(tmp_path: Path) -> None:
    store = Store()
    with serving(store) as url:
        pass  # nobody listens while the job runs
    killed, status = run_job(url, tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert status == -signal.SIGKILL

    with serving(store, port=int(url.rpartition(":")[2])):
        agent = watched(url, tmp_path)
        agent.step(loss=0)
        store.wait(lambda s: len(s.seqs(killed)) == 20)
        store.wait(lambda s: len(list(tmp_path.glob("*.spool"))) <= 1)
        assert agent.close()

    assert store.seqs(killed) == list(range(1, 21))
    assert killed not in store.ends


def test_a_job_that_raises_is_ended_as_failed_at_exit(tmp_path: Path) -> None:
    store = Store()
    with serving(store) as url:
        run_id, status = run_job(url, tmp_path, "raise ZeroDivisionError('of its own')")

    assert status == 1
    assert store.ends[run_id].reason == "ZeroDivisionError: of its own"
    assert len(store.seqs(run_id)) == 20


def test_a_forked_child_goes_on_with_the_run(tmp_path: Path) -> None:
    store = Store()
    fork = """
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
    os._exit(0)
for step in range(20, 25):
    agent.step(loss=step)
agent.close()
os._exit(0)
"""
    with serving(store) as url:
        run_id, _ = run_job(url, tmp_path, fork)

    assert store.seqs(run_id) == list(range(1, 26))


def test_a_forked_child_that_does_not_train_changes_nothing(tmp_path: Path) -> None:
    store = Store()
    fork = """
pid = os.fork()
if not pid:
    sys.exit(0)  # runs the exit handlers it inherited
os.waitpid(pid, 0)
agent.step(loss=20)
agent.close()
"""
    with serving(store) as url:
        run_id, _ = run_job(url, tmp_path, fork)

    assert store.seqs(run_id) == list(range(1, 22))
    assert store.ends[run_id].status == "finished"
