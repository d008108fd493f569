"""A process that is measured alone."""

from __future__ import annotations

import pytest

from tests.trainer_agent.distributed.local_sums import plan, sums
from trainer_agent.distributed import SampleHeader, SingleProcess, single_process


def test_the_sums_of_one_process_are_its_own():
    local = sums(plan(1), 2.0)
    header = SampleHeader(step=3, plan=plan(1), every=0, has_loss=True)

    reduced, scalars = SingleProcess().reduce(header, lambda: local, {"loss": lambda _: 0.5})

    assert reduced is local
    assert scalars == {"loss": 0.5}


@pytest.mark.parametrize("several", [True, False])
def test_a_process_watched_alone_in_a_job_of_several_raises_no_flags(
    several: bool, monkeypatch: pytest.MonkeyPatch
):
    # As where torch is initialized after `watch`.
    monkeypatch.setattr(single_process, "in_distributed_job", lambda: several)

    process = SingleProcess(rank=3)

    assert process.raises_flags is not several
    assert process.all_ready(ready=True) is not several
    assert (process.rank, process.size, process.is_sender) == (3, 1, True)


@pytest.mark.parametrize("n_chunks", [0, 1, 2])
def test_a_process_that_holds_several_chunks_describes_none_of_them_alone(n_chunks: int):
    specs = dict.fromkeys(range(n_chunks), dict)

    make = SingleProcess().gather_specs(0, specs)

    assert make is (dict if n_chunks == 1 else None)
