"""Reads what is not judged of a run, with all that the rules need beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from server.alerts.rules import Observation, StackFacts, observe, observe_scalars
from server.alerts.service import AlertState, Unresolved, unresolved_of
from server.alerts.stack_facts import read_facts
from server.alerts.user_rules.active import ActiveRules
from server.alerts.user_rules.judging import UserRule
from server.diagnosis.repository import DiagnosisRepository
from server.runs.repository import RunRepository
from server.runs.rewinds import rewinds_of
from server.runs.rows import RankRow
from server.storage.rows import FrameRow
from server.storage.step_scalars import StepScalars
from wire import Health, Layout, scalars_of

SCALAR_STEPS_A_TURN = 512  # they are judged beside the frames of a turn


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process remembers of a run between turns.

    Attributes:
        judged: the frame up to which the run was judged then; where the database says another,
            another process has judged it since, and the recent past is not known.
        alert_state: the run's recent past, and which alerts are open.
        revisions: the states of its predictions that `stacks` was made from.
        stacks: its model and theory's curves, as the rules read them.
    """

    judged: int = 0
    alert_state: AlertState = field(default_factory=AlertState)
    revisions: tuple[tuple[Any, ...], ...] = ()
    stacks: Mapping[str, StackFacts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backlog:
    """The next unjudged steps of a run's lowest rank, which speaks for it.

    Attributes:
        memory: what is remembered of the run, up to date.
        unresolved: its alerts that are not resolved.
        rank: the lowest rank, as it was read.
        others: the other ranks, which move on unjudged.
        frames: sampled frames, ascending in `seq`.
        scalars: steps that were not sampled, ascending in `seq`.
        layouts: of all of them.
        rules: those that judge the run beside the built-in ones.
        reached: the last frame of these.
    """

    memory: Memory
    unresolved: Unresolved
    rank: RankRow
    others: Sequence[RankRow]
    frames: Sequence[FrameRow]
    scalars: Sequence[StepScalars]
    layouts: Mapping[str, Layout]
    rules: Sequence[UserRule]
    reached: int

    @property
    def more(self) -> bool:
        """Whether more waits behind these."""
        return self.reached < self.rank.durable

    def observations(self) -> list[Observation]:
        """The steps as the rules see them, in the order in which the job took them."""
        # Stable: the steps of one frame stay in their order.
        in_order = sorted([*self._sampled(), *self._unsampled()], key=itemgetter(0))
        rewinds = [rewind.seq for rewind in rewinds_of(self.rank.rewinds)]
        rewound = {seq for seq in rewinds if seq > self.rank.diagnosed}
        observations = []
        for seq, observation in in_order:
            again = seq in rewound
            rewound.discard(seq)  # of the steps of one frame the first one goes back
            observations.append(replace(observation, rewound=True) if again else observation)
        return observations

    def _sampled(self) -> Iterator[tuple[int, Observation]]:
        health = msgspec.convert(self.rank.health, Health) if self.rank.health else None
        for frame in self.frames:
            if frame.seq <= self.reached:
                yield (
                    frame.seq,
                    observe(
                        step=frame.step,
                        layout=self.layouts[frame.layout],
                        values=np.frombuffer(frame.values, dtype="<f4"),
                        stacks=self.memory.stacks,
                        health=health,
                    ),
                )

    def _unsampled(self) -> Iterator[tuple[int, Observation]]:
        for part in self.scalars:
            series = scalars_of(self.layouts[part.layout])
            for seq, step, values in zip(part.seqs, part.steps, part.values, strict=True):
                if seq <= self.reached:
                    yield int(seq), observe_scalars(step=int(step), series=series, values=values)


async def read_backlog(
    session: AsyncSession, run_id: str, memory: Memory, *, frames: int, rules: ActiveRules
) -> Backlog | None:
    """Up to `frames` unjudged frames of a run and the steps between them, or None."""
    repository, runs = DiagnosisRepository(session), RunRepository(session)
    run, ranks = await runs.get(run_id), await runs.ranks_of(run_id)
    if run is None or not ranks or all(rank.diagnosed >= rank.durable for rank in ranks):
        return None
    lowest, *others = ranks
    if memory.judged != lowest.diagnosed:
        memory = replace(memory, alert_state=AlertState())
    rows = await repository.unjudged(lowest, frames)
    reached = rows[-1].seq if len(rows) == frames else max(lowest.durable, lowest.diagnosed)
    scalars = await repository.unjudged_scalars(lowest, reached)
    hashes = {row.layout for row in rows} | {part.layout for part in scalars}
    return Backlog(
        memory=await _up_to_date(session, run_id, memory),
        unresolved=await unresolved_of(session, run_id),
        rank=lowest,
        others=others,
        frames=rows,
        scalars=scalars,
        layouts=await runs.layouts_of(run_id, hashes),
        rules=rules.judging(project=run.project, tags=run.tags),
        reached=_last_seq(scalars, reached),
    )


def _last_seq(scalars: Sequence[StepScalars], reached: int) -> int:
    """The last frame to judge now, `reached` where its steps and those before are few enough."""
    seqs = np.concatenate([np.empty(0, np.int64), *(part.seqs for part in scalars)])
    if len(seqs) <= SCALAR_STEPS_A_TURN:
        return reached
    return max(int(seqs[0]), int(seqs[SCALAR_STEPS_A_TURN]) - 1)


async def _up_to_date(session: AsyncSession, run_id: str, memory: Memory) -> Memory:
    """Read model and predictions again if a prediction changed."""
    revisions = await DiagnosisRepository(session).revision_states(run_id)
    if revisions == memory.revisions:
        return memory
    stacks = await read_facts(session, run_id, revisions[0][0])
    return replace(memory, revisions=revisions, stacks=stacks)
