"""The agent that `watch` returns: it sits beside the training loop and hears of its steps."""

from __future__ import annotations

import atexit
import logging
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any
from weakref import WeakSet

from torch import nn
from torch.optim import Optimizer

from trainer_agent import distributed as ranks
from trainer_agent.capture.framing import Framing, Scalar, Sources
from trainer_agent.capture.guard import Guard
from trainer_agent.capture.hook_manager import Probe
from trainer_agent.capture.recorder import Recorder
from trainer_agent.commands.alert_actions import AlertActions
from trainer_agent.commands.dispatch import Obedience
from trainer_agent.delivery.exporter import Pace
from trainer_agent.delivery.messages import end_of
from trainer_agent.delivery.parcels import Description
from trainer_agent.delivery.sender import Sender
from trainer_agent.delivery.transport import Transport
from trainer_agent.description.hints import Hint
from trainer_agent.description.planning import plan_by_structure
from trainer_agent.description.session.describer import SelfDescription
from trainer_agent.description.session.pipeline_describer import StagedDescription
from trainer_agent.job.loss_scale import LossScale
from trainer_agent.job.optimizer import OptimizerView
from trainer_agent.job.parameters import ParameterView
from trainer_agent.job.skip_step import StepGuard
from trainer_agent.model.chunks import Chunk, chunks_of, joined
from trainer_agent.model.sites import CustomSite, Wanted
from trainer_agent.model.unwrap import unwrap
from trainer_agent.options import Options
from trainer_agent.sampling.controller import Pacing
from wire import Command, Health, RunEnd

logger = logging.getLogger("evenkeel")
EXIT_TIMEOUT_S = 5.0
SETTLE_TIMEOUT_S = 5.0
_open: WeakSet[Agent] = WeakSet()


class Agent:
    """Watches one model for one run. Made by `trainer_agent.watch`.

    After `watch` has returned, nothing here raises into the job.

    Attributes:
        run_id: the run, 32 hexadecimal digits.
        rank: the process of a distributed job.
    """

    def __init__(
        self,
        model: nn.Module,
        options: Options,
        *,
        optimizer: Optimizer | None,
        scaler: Any = None,
        transport: Callable[[], Transport],
        pace: Pace | None = None,
        custom: tuple[CustomSite, ...] = (),
        hints: Sequence[Hint] = (),
    ) -> None:
        self.run_id = options.run_id or uuid.uuid4().hex
        self._options = options
        self._guard = Guard()
        self._recorder = Recorder(self._guard)
        inner = unwrap(model)
        own, stages = options.pipeline or (None, None)
        chunks = chunks_of(model, own)
        found = joined((chunk, plan_by_structure(chunk.module, hints)) for chunk in chunks)
        wanted = Wanted(options.quantities, options.sites, custom)
        plan = replace(found, wanted=wanted)
        self._probe = Probe(inner, plan, self._recorder, chunks)
        self._ranks = ranks.join(self._guard, inner, plan, chunks, stages)
        self._description = self._describing(inner, chunks, hints)
        self.rank = options.rank if self._ranks is None else self._ranks.rank
        self._sender = self._delivery(transport, pace)
        # Before its first step torch's pipelining runs every stage on memory it has not filled.
        self._rehearsal = options.pipeline is not None
        self._step = self._idle = self._passed = 0
        self._closed = False
        self._scale = LossScale(scaler)
        self._optimizer = OptimizerView(
            optimizer, self._scale, self._recorder, staged=self._rehearsal
        )
        self._parameters = (
            ParameterView(inner, optimizer, self._probe, self._recorder)
            if plan.parameter_places
            else None
        )
        step_guard = None
        if "skip_step" in options.on_alert and optimizer is not None:
            step_guard = StepGuard(optimizer, self._guard)
        views = self._probe, self._optimizer, self._parameters, step_guard
        self._views = [view for view in views if view is not None]
        self._pacing = Pacing(options, self._probe, self._recorder, self._ranks)
        self._actions = AlertActions(options.on_alert, self._guard)
        parts = self._probe, self._recorder, self._optimizer, self._scale, self._pacing
        self._obedience = Obedience(self._description, self._pacing, self._actions, self._ranks)
        self._framing = Framing(options, Sources(*parts), self._ranks)
        self._probe.switch(on=True)
        atexit.register(self._close_at_exit)
        _open.add(self)

    def _describing(
        self, model: nn.Module, chunks: Sequence[Chunk], hints: Sequence[Hint]
    ) -> SelfDescription | StagedDescription:
        if self._options.pipeline is not None:
            return StagedDescription(chunks, self._probe, self._recorder, self._ranks, hints)
        return SelfDescription(
            model,
            self._probe,
            self._recorder,
            hints,
            agree=partial(ranks.all_able, self._ranks),
            add_up=(lambda rows: rows) if self._ranks is None else self._ranks.add_up,
        )

    def _delivery(
        self, transport: Callable[[], Transport], pace: Pace | None
    ) -> Sender | ranks.Follower:
        if not self.speaks:
            return ranks.Follower(self._guard)
        return Sender(
            self._options,
            self.run_id,
            transport=transport,
            health=self._health,
            on_command=self._obey,
            guard=self._guard,
            charge=self._charge,
            pace=pace,
        )

    @property
    def speaks(self) -> bool:
        """Whether this process sends: in a job of several, rank 0 does for all of them."""
        return self._ranks is None or self._ranks.rank == 0

    @property
    def size(self) -> int:
        """How many processes are measured as this one run, and raise their flags at one step."""
        return 1 if self._ranks is None else self._ranks.size

    @property
    def url(self) -> str:
        """Address of the run's page."""
        return self._options.server + (self._sender.page or f"/runs/{self.run_id}")

    @property
    def should_stop(self) -> bool:
        """Whether the loop is asked to stop: `watch(on_alert="stop")` and a critical alert."""
        return self._actions.should_stop

    @property
    def should_save(self) -> bool:
        """Whether it is asked for a checkpoint, until `state_dict` is taken for one."""
        return self._actions.should_save

    @property
    def stop_reason(self) -> str:
        """The alert that asked for it, "" where none did."""
        return self._actions.reason

    @property
    def measuring(self) -> bool:
        """Whether the step that now runs is sampled."""
        return self._recorder.active

    def step(
        self, loss: Scalar | None = None, *, step: int | None = None, **scalars: Scalar
    ) -> None:
        """Say that an optimizer step is over. Never waits and never raises.

        Args:
            loss: the step's loss; a tensor stays on its device.
            step: number of this step, where it is not one more than the last (a resumed run).
            scalars: further numbers to follow; ``learning_rate`` and ``gradient_norm`` replace
                what the agent reads by itself.
        """
        if self._idle > 0 and (step is None or step == self._step):
            # Nothing to do until then: every function called here would be read from memory,
            # which the model's tensors have just filled.
            self._idle -= 1
            self._passed += 1
            self._step += 1
            return
        if self._closed:
            return
        try:
            self._step_over({"loss": loss, **scalars}, step)
        except Exception as error:
            self._guard.note("step", error)

    def _step_over(self, given: Mapping[str, Scalar | None], step: int | None) -> None:
        ended, sampled = time.perf_counter(), self._recorder.active
        if step is not None:
            self._step = step
        steps, self._passed, self._idle = self._passed + 1, 0, 0
        self._pacing.steps_over(steps, ended)
        if self._ranks is not None:
            self._ranks.decide(self._probe.plan)
        if sampled and self._rehearsal:
            sampled = self._rehearsal = False
            self._recorder.accumulator.clear()
            self._description.forget()
            if self._ranks is not None:
                self._recorder.before = self._ranks.layers_before(self._probe.plan)
        if sampled:
            try:
                self._finish_sample(given if self._pacing.own else self._in_burst(given))
            except Exception as error:
                self._guard.note("sample", error)
        self._optimizer.steps_over(steps)
        self._step += 1
        wanted = self._pacing.next_step(self._step, ended, sampled=sampled)
        self._actions.act()
        if self._pacing.over:
            self._close(RunEnd(status="finished"), 0.0)
            return
        if wanted != self._recorder.active:
            self._probe.switch(on=wanted)
        # The step after a sample is timed beside it.
        if not sampled and not wanted and not self._pacing.promised:
            self._idle = max(self._pacing.sampler.unsampled_from(self._step) - 1, 0)

    def prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Find out what there is to measure before the first step; `watch(batch=)` calls it.

        Raises what the model raises on these arguments.
        """
        if isinstance(self._description, SelfDescription):
            self._description.prepare(args, kwargs)

    def follow_updates(self, optimizer: Optimizer) -> None:
        """Read weights and updates around the steps of an optimizer that `watch` was not given.

        For loops that have several, or compute gradients inside the step: Lightning's.
        """
        with self._guard.at("parameters"):
            if self._parameters is not None:
                self._parameters.follow(optimizer)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Take the hooks away, send what is left, end the run; returns whether all arrived.

        What did not arrive in time stays on disk for the next agent on this machine.
        """
        self._pacing.leave()
        return self._close(RunEnd(status="finished"), timeout_s)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a restarted job goes on with this run.

        Steps before a checkpoint are never recorded again, so this waits, for seconds at most,
        until they are on disk.
        """
        with self._guard.at("state_dict"):
            self._sender.settle(SETTLE_TIMEOUT_S)
        self._actions.should_save = False
        return {"run_id": self.run_id, "step": self._step, "last_seq": self._sender.last_seq}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of a checkpoint, from its step; call it before the first step.

        Steps recorded twice are shown as they went after the restart.
        """
        with self._guard.at("load_state_dict"):
            run_id, step = str(state["run_id"]), int(state["step"])
            if self._sender.resume(run_id, int(state["last_seq"])):
                self.run_id, self._step = run_id, step
            elif run_id != self.run_id:
                logger.warning(
                    "evenkeel goes on with run %s: a checkpoint is loaded before the first step",
                    self.run_id,
                )

    def __enter__(self) -> Agent:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pacing.leave()
        self._close(end_of(error), EXIT_TIMEOUT_S if error else 10.0)

    def _close(self, end: RunEnd, timeout_s: float) -> bool:
        if self._closed:
            return True
        self._closed, self._idle = True, 0
        self._recorder.active = False
        with self._guard.at("close"):
            atexit.unregister(self._close_at_exit)
            for view in self._views:
                view.remove()
            return self._sender.close(end, timeout_s=timeout_s)
        return False

    def _close_at_exit(self) -> None:
        # Python notes here the exception that ends the program, before it runs exit handlers.
        self._close(end_of(getattr(sys, "last_value", None)), EXIT_TIMEOUT_S)

    def _in_burst(self, given: Mapping[str, Scalar | None]) -> dict[str, Scalar | None]:
        return {**given, **self._pacing.burst_layers()}

    def _finish_sample(self, given: Mapping[str, Scalar | None]) -> None:
        self._sender.offer(self._framing.sample(self._step, given))
        self._describe()
        if self._guard.failures:
            self._probe.drop_failing()

    def _describe(self) -> None:
        spec = self._description.take()
        together = self._description.together
        if spec is not None and self._ranks is not None and together:
            alone = not self.speaks or not self._description.adds_up
            spec = spec if alone else self._ranks.soon(spec)
        if spec is not None:
            self._sender.offer(Description(self._step, spec, together=together))
        self._description.ask_from_time_to_time(self._step + self._pacing.sampler.every)

    def _health(self) -> Health:
        self._wake()  # again: the training thread may have been counting when it was said first
        return Health(
            dropped=self._sender.dropped,
            resent=self._sender.resent,
            failures=self._guard.failures,
            first_failure=self._guard.first_failure,
            silent=self._framing.silent,
            overhead=self._pacing.clock.share_since_start(),
            every=self._pacing.sampler.every,
            dropped_sites=(*self._probe.dropped_sites, *self._not_agreed_on()),
            burst=self._pacing.bursts.taken,
            burst_left=self._pacing.bursts.left,
            burst_note=self._pacing.bursts.note,
            wants_alerts=self._actions.wants,
        )

    def _not_agreed_on(self) -> tuple[str, ...]:
        return () if self._ranks is None else self._ranks.dropped_sites

    def _charge(self, spent_s: float, recurs: bool) -> None:
        self._pacing.clock.charge(spent_s, recurs)

    def _obey(self, command: Command) -> None:
        self._obedience.obey(command)
        self._wake()

    def _wake(self) -> None:
        """Have the next step looked at, where something waits for it; called from any thread."""
        if self._obedience.waiting:
            self._idle = 0


def is_open(run_id: str, rank: int) -> bool:
    """Whether an agent of this process is at work on a run."""
    return any(one.run_id == run_id and one.rank == rank and not one._closed for one in _open)
