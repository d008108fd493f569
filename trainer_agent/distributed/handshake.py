"""What the processes tell each other of a sample before they add it up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from torch import distributed

from trainer_agent.distributed.agreement import Agreement
from trainer_agent.distributed.collective import Collective
from trainer_agent.distributed.membership import SyncError
from trainer_agent.distributed.payload import Payload
from trainer_agent.distributed.replicas import Replicas, count_replicas
from trainer_agent.model.plan import Plan


@dataclass(frozen=True, slots=True)
class Handshake:
    """What one all-reduce tells this process of the others' samples.

    Attributes:
        agreement: what rank 0 asks for.
        replicas: who saw the same data.
    """

    agreement: Agreement
    replicas: Replicas


def handshake(
    payload: Payload,
    collective: Collective,
    *,
    rank: int,
    size: int,
    stage: int | None,
    n_commands: int,
) -> Handshake:
    """Compare the sample with those of the other processes. In the background thread.

    Args:
        payload: this process's sample.
        stage: the first stage that it holds of a pipeline, None without one.
        n_commands: how many commands it has published.

    Raises:
        SyncError: where a process brings another step or another plan.
    """
    header = payload.header
    every = header.every if rank == 0 else 0
    plan = _digest(header.plan)
    # One maximum of all processes: a value and its negative agree where all brought the same;
    # every process has a slot of its own for its fingerprint and for its stage.
    fingerprints, stages = np.zeros(size), np.zeros(size)
    local_stage = 0 if stage is None else stage + 1
    fingerprints[rank], stages[rank] = payload.fingerprint, local_stage
    fixed = [header.step, -header.step, plan, -plan, every, n_commands]
    largest = collective.all_reduce(
        np.concatenate([fixed, fingerprints, stages]), distributed.ReduceOp.MAX
    )
    if largest[0] != -largest[1] or largest[2] != -largest[3]:
        raise SyncError(
            "the processes sample different steps, or hold different layers and are not "
            "told apart by watch(pipeline=)"
        )
    fingerprints, stages = np.split(largest[len(fixed) :], 2)
    same_layers = fingerprints[stages == local_stage].tolist()
    replicas = count_replicas(same_layers, payload.fingerprint)
    return Handshake(
        Agreement(every=int(largest[4]), n_commands=int(largest[5])),
        replace(replicas, n_stage_groups=len(set(stages.tolist()))),
    )


def _digest(plan: Plan) -> int:
    rows = [(place.stack, place.site, place.n) for place in plan.places]
    requested = plan.requested
    options = requested.sites, requested.quantities, requested.parameters, plan.heads
    digest = hashlib.blake2b(repr((rows, options)).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")
