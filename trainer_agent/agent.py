"""The agent that `watch` returns: the training loop tells it when a step is over."""

from __future__ import annotations

import atexit
import logging
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any
from weakref import WeakMethod, WeakSet, finalize

from torch import nn
from torch.optim import Optimizer

from trainer_agent.capture.statistics.accumulator import Scalar
from trainer_agent.composition import compose
from trainer_agent.delivery.intervals import ExportIntervals
from trainer_agent.delivery.messages import Description, end_of
from trainer_agent.delivery.transport import Transport
from trainer_agent.description.hints import Hint
from trainer_agent.description.session.describer import SelfDescription
from trainer_agent.job.optimizer import OptimizerArgument, optimizers_of
from trainer_agent.model.sites import CustomSite
from trainer_agent.model.unwrap import unwrap
from trainer_agent.options import Options
from wire import RunEnd

logger = logging.getLogger("evenkeel")
EXIT_TIMEOUT_S = 5.0
SETTLE_TIMEOUT_S = 5.0
FORMER_TIMEOUT_S = 2.0
_agents: WeakSet[Agent] = WeakSet()


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
        optimizer: OptimizerArgument,
        scaler: Any = None,
        transport: Callable[[], Transport],
        intervals: ExportIntervals | None = None,
        custom: tuple[CustomSite, ...] = (),
        hints: Sequence[Hint] = (),
    ) -> None:
        self.run_id = options.run_id or uuid.uuid4().hex
        self._options = options
        # Counted by the training thread alone; `_idle_steps` is set to 0 by any thread.
        self._step = self._passed = self._idle_steps = 0
        self._closed = self._model_is_gone = False
        self._is_first = True  # the first step is sampled whatever the interval
        self._parts = compose(
            model,
            options,
            run_id=self.run_id,
            optimizers=optimizers_of(optimizer),
            scaler=scaler,
            transport=transport,
            intervals=intervals,
            custom=custom,
            hints=hints,
            wake=self._wake,
        )
        self._scalars, self._keep = self._parts.scalars, self._parts.scalars.keep
        self.rank = self._parts.processes.rank
        self._parts.hooks.switch(on=True)
        self._follow_model(unwrap(model))
        atexit.register(self._close_at_exit)
        _agents.add(self)

    @property
    def is_sender(self) -> bool:
        """Whether this process sends: in a job of several, rank 0 does for all of them."""
        return self._parts.processes.is_sender

    @property
    def size(self) -> int:
        """How many processes are measured as this one run, and raise their flags at one step."""
        return self._parts.processes.size

    @property
    def url(self) -> str:
        """Address of the run's page."""
        return self._options.server + (self._parts.sender.page or f"/runs/{self.run_id}")

    @property
    def should_stop(self) -> bool:
        """Whether the loop is asked to stop: `watch(on_alert="stop")` and a critical alert."""
        return self._parts.actions.should_stop

    @property
    def should_save(self) -> bool:
        """Whether it is asked for a checkpoint, until `state_dict` is taken for one."""
        return self._parts.actions.should_save

    @property
    def stop_reason(self) -> str:
        """The alert that asked for it, "" where none did."""
        return self._parts.actions.reason

    @property
    def measuring(self) -> bool:
        """Whether the step that now runs is sampled."""
        return self._parts.recorder.active

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
        if self._passed < self._idle_steps and (step is None or step == self._step):
            # Nothing else to do until then: every function called here would be read from memory,
            # which the model's tensors have just filled.
            self._keep(self._step, loss, scalars)
            self._passed += 1
            self._step += 1
            return
        if self._closed:
            return
        try:
            self._end_step(loss, scalars, step)
        except Exception as error:
            self._parts.guard.note("step", error)

    def prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Find out what there is to measure before the first step; `watch(batch=)` calls it.

        Raises what the model raises on these arguments.
        """
        if isinstance(self._parts.describer, SelfDescription):
            self._parts.describer.prepare(args, kwargs)

    def follow_updates(self, optimizer: Optimizer) -> None:
        """Read weights and updates around the steps of an optimizer that `watch` was not given.

        For loops that have several, or compute gradients inside the step: Lightning's.
        """
        with self._parts.guard.at("parameters"):
            if self._parts.parameters is not None:
                self._parts.parameters.attach(optimizer)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Take the hooks away, send what is left, end the run; returns whether all arrived.

        What did not arrive in time stays on disk for the next agent on this machine.
        """
        self._parts.processes.leave()
        return self._close(RunEnd(status="finished"), timeout_s)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a restarted job goes on with this run.

        Steps before a checkpoint are never recorded again, so this waits, for seconds at most,
        until they are on disk.
        """
        sender = self._parts.sender
        with self._parts.guard.at("state_dict"):
            self._scalars.flush()
            sender.settle(SETTLE_TIMEOUT_S)
        self._parts.actions.saved()
        return {"run_id": self.run_id, "step": self._step, "last_seq": sender.last_seq}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of a checkpoint, from its step; call it before the first step.

        Steps recorded twice are shown as they went after the restart.
        """
        with self._parts.guard.at("load_state_dict"):
            run_id, step = str(state["run_id"]), int(state["step"])
            if self._parts.sender.resume(run_id, int(state["last_seq"])):
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
        self._parts.processes.leave()
        self._close(end_of(error), EXIT_TIMEOUT_S if error else 10.0)

    def _end_step(self, loss: Scalar | None, scalars: dict[str, Scalar], step: int | None) -> None:
        parts = self._parts
        processes, controller = parts.processes, parts.controller
        ended, active = time.perf_counter(), parts.recorder.active
        if step is not None and step != self._step:
            self._scalars.flush()
            self._step = step
        steps, self._passed, self._idle_steps = self._passed + 1, 0, 0
        controller.end_steps(steps, ended)
        if active:
            parts.recorder.end_step()
        sampled = active and not (self._is_first and self._discards_first())
        if sampled:
            self._finish_sample({"loss": loss, **scalars})
        else:
            self._keep(self._step, loss, scalars)
        parts.optimizer.end_steps(steps)
        if parts.resumed.is_open:
            parts.resumed.end_step(self._step)
        cost_s = parts.meter.end_sample(ended)
        outcome = processes.end_step(self._step, sampled=sampled)
        parts.dispatcher.end_step(outcome)
        self._step += 1
        sample_next = controller.next_step(self._step, cost_s, outcome.every, sampled=sampled)
        parts.actions.act()
        if not (processes.synchronized or processes.is_sender or processes.command_pending):
            # The others measure without this process, and it owes them nothing.
            self._close(RunEnd(status="finished"), 0.0)
            return
        if sample_next != active:
            parts.hooks.switch(on=sample_next)
        # The step after a sample is timed beside it.
        if not sampled and not sample_next and not processes.command_pending:
            self._idle_steps = max(controller.sampler.unsampled_from(self._step) - 1, 0)
            # A command that came since found no idle steps to end.
            parts.dispatcher.wake_if_waiting()

    def _discards_first(self) -> bool:
        """Settle with other processes what is measured; whether the first sample is of no use."""
        parts, self._is_first = self._parts, False
        parts.processes.complete_rendezvous(parts.hooks.plan)
        if self._options.pipeline is None:
            return False
        # Torch has run each stage on memory that it had not filled, to learn shapes.
        parts.recorder.accumulator.clear()
        parts.describer.forget()
        return True

    def _finish_sample(self, reported: dict[str, Scalar | None]) -> None:
        parts = self._parts
        try:
            if parts.controller.in_burst:
                reported |= parts.controller.burst_layers()
            self._scalars.flush()  # frames are numbered in the order of their steps
            parts.sender.offer(parts.readout.take(self._step, reported))
            self._describe()
            if parts.guard.failures:
                parts.hooks.drop_failing()
        except Exception as error:
            parts.guard.note("sample", error)

    def _describe(self) -> None:
        describer = self._parts.describer
        spec, together = describer.take(), describer.together
        if spec is not None and together and describer.adds_up:
            spec = self._parts.processes.in_background(spec)
        if spec is not None:
            self._parts.sender.offer(Description(self._step, spec, together=together))
        sampler = self._parts.controller.sampler
        describer.ask_from_time_to_time(self._step + sampler.every, in_budget=not sampler.fixed)

    def _wake(self) -> None:
        """Do at the end of the next step what there is to do; called from any thread."""
        self._idle_steps = 0

    def _follow_model(self, model: nn.Module) -> None:
        """End the run where the job lets its model go without a word, as a notebook's cell does."""
        end = WeakMethod(self._end_without_model)

        def model_is_gone() -> None:
            if (call := end()) is not None:
                call()

        finalize(model, model_is_gone).atexit = False

    def _end_without_model(self) -> None:
        # A module given to `watch` alone, which nobody calls, goes at once: the run does not.
        if self._closed or self._is_first:
            return
        self._closed = self._model_is_gone = True
        self._idle_steps = 0
        with self._parts.guard.at("close"):
            for part in self._parts.removables:
                part.remove()
            self._scalars.flush()
            self._parts.sender.begin_closing(RunEnd(status="finished"))

    def _close(self, end: RunEnd, timeout_s: float) -> bool:
        if self._closed and not self._model_is_gone:
            return True
        self._closed, self._model_is_gone, self._idle_steps = True, False, 0
        self._parts.recorder.stop()
        with self._parts.guard.at("close"):
            atexit.unregister(self._close_at_exit)
            for part in self._parts.removables:
                part.remove()
            self._scalars.flush()
            return self._parts.sender.close(end, timeout_s=timeout_s)
        return False

    def _close_at_exit(self) -> None:
        # Python notes here the exception that ends the program, before it runs exit handlers.
        self._close(end_of(getattr(sys, "last_value", None)), EXIT_TIMEOUT_S)


def close_former(options: Options) -> list[str]:
    """Close the agents of this process under this project, name and rank; returns their pages.

    A notebook's cell that runs again watches its new model so, and has let the former one go.
    """
    name = options.project, options.run, options.rank
    former = [
        agent
        for agent in _agents
        if (agent._options.project, agent._options.run, agent._options.rank) == name
        and not agent._closed
    ]
    for agent in former:
        agent.close(FORMER_TIMEOUT_S)
    return [agent.url for agent in former if agent.is_sender]


def is_open(run_id: str, rank: int) -> bool:
    """Whether an agent of this process is at work on a run."""
    return any(
        agent.run_id == run_id and agent.rank == rank and not agent._closed for agent in _agents
    )
