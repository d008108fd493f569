"""The agent that `watch` returns: it sits beside the training loop and hears of its steps."""

from __future__ import annotations

import atexit
import logging
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any
from weakref import WeakSet

from torch import nn
from torch.optim import Optimizer

from trainer_agent import ranks
from trainer_agent.capture.probe import Probe
from trainer_agent.capture.recorder import Recorder
from trainer_agent.capture.wanted import CustomSite, Wanted
from trainer_agent.delivery.courier import Pace
from trainer_agent.delivery.sender import Description, Sender
from trainer_agent.delivery.transport import Transport
from trainer_agent.description.replay import eager
from trainer_agent.device_clock import DeviceClock
from trainer_agent.framing import Framing, Scalar, Sources
from trainer_agent.guard import Guard
from trainer_agent.loss_scale import LossScale
from trainer_agent.optimizer_view import OptimizerView
from trainer_agent.options import Options
from trainer_agent.parameter_view import ParameterView
from trainer_agent.sampling import Sampler
from trainer_agent.self_description import (
    FIRST_AGAIN,
    TIMES_LATER,
    SelfDescription,
    plan_by_structure,
)
from trainer_agent.spending import SpendingClock
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
    ) -> None:
        self.run_id = options.run_id or uuid.uuid4().hex
        self._options = options
        self._guard = Guard()
        self._recorder = Recorder(self._guard)
        inner = eager(model)
        wanted = Wanted(options.quantities, options.sites, custom)
        plan = replace(plan_by_structure(inner), wanted=wanted)
        self._probe = Probe(inner, plan, self._recorder)
        self._description = SelfDescription(inner, self._probe, self._recorder)
        self._ranks = ranks.join(self._guard, inner, self._probe.plan, options.pipeline)
        self.rank = options.rank if self._ranks is None else self._ranks.rank
        self._sender: Sender | ranks.Follower = (
            Sender(
                options,
                self.run_id,
                transport=transport,
                health=self._health,
                on_command=self._obey,
                guard=self._guard,
                pace=pace,
            )
            if self.speaks
            else ranks.Follower(self._guard)
        )
        self._describe_at = FIRST_AGAIN
        # Before its first step torch's pipelining runs every stage on memory it has not filled.
        self._rehearsal = options.pipeline is not None
        self._step = self._samples = self._idle = self._passed = 0
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
        self._sampler = Sampler(options.every, options.overhead)
        self._clock, self._device_clock = SpendingClock(self._recorder), DeviceClock()
        self._framing = Framing(
            options,
            Sources(
                self._probe,
                self._recorder,
                self._optimizer,
                self._scale,
                self._clock,
                self._sampler,
            ),
            self._ranks,
        )
        self._probe.switch(on=True)
        atexit.register(self._close_at_exit)
        _open.add(self)

    @property
    def speaks(self) -> bool:
        """Whether this process sends: in a job of several, rank 0 does for all of them."""
        return self._ranks is None or self._ranks.rank == 0

    @property
    def url(self) -> str:
        """Address of the run's page."""
        return self._options.server + (self._sender.page or f"/runs/{self.run_id}")

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
        if self._idle and (step is None or step == self._step):
            # Nothing to do until then: every function called here would be read from memory,
            # which the model's tensors have just filled.
            self._idle -= 1
            self._passed += 1
            self._step += 1
            return
        if self._closed:
            return
        with self._guard.at("step"):
            self._step_over({"loss": loss, **scalars}, step)

    def _step_over(self, given: Mapping[str, Scalar | None], step: int | None) -> None:
        ended, sampled = time.perf_counter(), self._recorder.active
        if step is not None:
            self._step = step
        steps, self._passed, self._idle = self._passed + 1, 0, 0
        self._sampler.steps_over(steps, *self._clock.step_over(ended))
        if self._ranks is not None:
            self._ranks.decide()
        if sampled and self._rehearsal:
            sampled = self._rehearsal = False
            self._recorder.accumulator.clear()
            self._description.forget()
        if sampled:
            with self._guard.at("sample"):
                self._finish_sample(given, ended)
        self._optimizer.steps_over(steps)
        self._step += 1
        if self._ranks is not None and not self._ranks.together and not self.speaks:
            self._close(RunEnd(status="finished"), 0.0)
            return
        cost_s = self._clock.work_over(ended)
        if sampled:
            self._choose_interval(cost_s)
        wanted = self._sampler.sampled(self._step)
        if self._recorder.accumulator.device.type == "cuda":
            self._device_clock.step_over(sampled=sampled, next_sampled=wanted)
        if wanted != self._recorder.active:
            self._probe.switch(on=wanted)
        if not sampled:  # the step after a sample is timed beside it
            self._idle = max(self._sampler.unsampled_from(self._step) - 1, 0)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Take the hooks away, send what is left, end the run; returns whether all arrived.

        What did not arrive in time stays on disk for the next agent on this machine.
        """
        return self._close(RunEnd(status="finished"), timeout_s)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a restarted job goes on with this run.

        Steps before a checkpoint are never recorded again, so this waits, for seconds at most,
        until they are on disk.
        """
        with self._guard.at("state_dict"):
            self._sender.settle(SETTLE_TIMEOUT_S)
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
        self._close(_end_of(error), EXIT_TIMEOUT_S if error else 10.0)

    def _close(self, end: RunEnd, timeout_s: float) -> bool:
        if self._closed:
            return True
        self._closed, self._idle = True, 0
        self._recorder.active = False
        with self._guard.at("close"):
            atexit.unregister(self._close_at_exit)
            self._probe.remove()
            self._optimizer.remove()
            if self._parameters is not None:
                self._parameters.remove()
            return self._sender.close(end, timeout_s=timeout_s)
        return False

    def _close_at_exit(self) -> None:
        # Python notes here the exception that ends the program, before it runs exit handlers.
        self._close(_end_of(getattr(sys, "last_value", None)), EXIT_TIMEOUT_S)

    def _finish_sample(self, given: Mapping[str, Scalar | None], ended: float) -> None:
        self._sender.offer(self._framing.sample(self._step, given, ended))
        self._describe()
        if self._guard.failures:
            self._probe.drop_failing()

    def _describe(self) -> None:
        spec = self._description.take()
        if spec is not None:
            self._sender.offer(Description(self._step, spec))
        if self._step + self._sampler.every >= self._describe_at:
            self._description.ask()
        while self._step + self._sampler.every >= self._describe_at:
            self._describe_at *= TIMES_LATER

    def _choose_interval(self, cost_s: float) -> None:
        cost_s = max(cost_s, self._device_clock.extra_s())
        self._samples += 1
        if self._ranks is not None and self._ranks.together and not self._sampler.fixed:
            # What was agreed two samples ago: all have heard it by now, and nobody waits.
            agreed = self._ranks.interval_after(self._samples - 3) if self._samples > 2 else None
            self._sampler.sample_over(cost_s, agreed or self._sampler.every)
            return
        self._sampler.sample_over(cost_s)
        if self._sampler.impatient and self._probe.drop_costliest_site():
            self._sampler.cheaper()

    def _health(self) -> Health:
        return Health(
            dropped=self._sender.dropped,
            resent=self._sender.resent,
            failures=self._guard.failures,
            first_failure=self._guard.first_failure,
            silent=self._framing.silent,
            overhead=self._clock.share_since_start(),
            every=self._sampler.every,
            dropped_sites=tuple(self._probe.dropped_sites),
        )

    def _obey(self, command: Command) -> None:
        if command.kind == "describe":
            self._description.ask()


def is_open(run_id: str, rank: int) -> bool:
    """Whether an agent of this process is at work on a run."""
    return any(one.run_id == run_id and one.rank == rank and not one._closed for one in _open)


def _end_of(error: BaseException | None) -> RunEnd:
    if error is None:
        return RunEnd(status="finished")
    return RunEnd(status="failed", reason=f"{type(error).__name__}: {error}")
