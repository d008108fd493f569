"""Which processes saw the same batch."""

from __future__ import annotations

from tests.trainer_agent.distributed.local_sums import plan, sums
from trainer_agent.distributed.replicas import count_replicas, fingerprint


def test_equal_inputs_are_one_batch_and_a_process_that_saw_nothing_shares_none():
    batch, nothing = sums(plan(2), 1.5), sums(plan(2), 0.0)

    fingerprints = [
        fingerprint(plan(2), local, rank)
        for rank, local in enumerate([batch, batch, nothing, nothing])
    ]

    assert count_replicas(fingerprints, fingerprints[0]).identical == 2
    assert count_replicas(fingerprints, fingerprints[3]).identical == 1
    assert count_replicas(fingerprints, fingerprints[0]).n_batches == 3
