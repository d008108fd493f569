"""`transformers.Trainer`: ``Trainer(..., callbacks=[EvenkeelCallback(project="gpt")])``."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_agent.agent import Agent
from trainer_agent.attach import watch
from trainer_agent.capture.step_loss import StepLoss

STATE_KEY = "evenkeel"  # in the checkpoint's trainer_state.json


class EvenkeelCallback(TrainerCallback):  # type: ignore[misc]
    """Watches the model of a `Trainer` from the first step to the last.

    A run goes on with a checkpoint's: ``trainer.train(resume_from_checkpoint=...)``. Used as a
    context, it also ends the run where ``train`` raises and the program goes on.
    """

    def __init__(self, *, project: str, run: str | None = None, **options: Any) -> None:
        """Take the arguments of `trainer_agent.watch`.

        Args:
            project: how the run is filed.
            run: its name; default the Trainer's ``run_name``, else its output folder's.
            options: anything else `watch` takes.
        """
        self._project, self._run, self._options = project, run, options
        self._losses = _ForwardLosses()
        self._logged: float | None = None
        self.agent: Agent | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Watch the model, or go on with the run of the checkpoint that was loaded."""
        self._end(RuntimeError("training was started anew"))
        model: nn.Module = kwargs["model"]
        optimizer = kwargs.get("optimizer")
        self.agent = watch(
            model,
            project=self._project,
            run=self._run or getattr(args, "run_name", None) or Path(args.output_dir).name,
            # Accelerate wraps the optimizer in a class that calls no step hooks.
            optimizer=getattr(optimizer, "optimizer", optimizer),
            **{"config": _config(args), **self._options},
        )
        saved = state.stateful_callbacks.get(STATE_KEY) if state.global_step else None
        if saved is not None:
            self.agent.load_state_dict(saved)
        state.stateful_callbacks[STATE_KEY] = self.agent.state_dict()
        self._losses.attach(model)
        self._logged = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say that an optimizer step is over; micro-batches before it only add up."""
        if self.agent is not None:
            loss = self._losses.take(args)
            # A loss that is not the model's own is seen in the Trainer's log alone.
            self.agent.step(self._logged if loss is None else loss, step=state.global_step - 1)
            if args.world_size == self.agent.size:  # else not all would stop at the same step
                control.should_training_stop |= self.agent.should_stop
                control.should_save |= self.agent.should_save
            self._save_state(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Be ready for a checkpoint."""
        self._save_state(state, control)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the Trainer's own loss, a mean over the steps since it logged last."""
        self._logged = (kwargs.get("logs") or {}).get("loss", self._logged)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the run."""
        self._end(None)

    def __enter__(self) -> EvenkeelCallback:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(error)

    def _save_state(self, state: TrainerState, control: TrainerControl) -> None:
        if self.agent is not None and control.should_save:
            state.stateful_callbacks[STATE_KEY] = self.agent.state_dict()

    def _end(self, error: BaseException | None) -> None:
        self._losses.detach()
        if self.agent is not None:
            self.agent.__exit__(type(error) if error else None, error, None)
            self.agent = None


class _ForwardLosses:
    """The losses that a model returns from the forward passes of training."""

    def __init__(self) -> None:
        self._losses = StepLoss()
        self._are_summands = False
        self._handle: RemovableHandle | None = None

    def attach(self, model: nn.Module) -> None:
        """Collect the losses of a model, from none."""
        self._losses.take_sum()
        self._handle = model.register_forward_hook(self._collect, with_kwargs=True)

    def detach(self) -> None:
        """Collect no more losses."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def take(self, args: TrainingArguments) -> Any:
        """The loss of the step that is over, as the Trainer computes it; None if not seen."""
        if not self._are_summands:
            return self._losses.take_mean()
        loss = self._losses.take_sum()
        # Divided by the tokens of all devices, and the agent takes the mean over them.
        over_devices = getattr(args, "average_tokens_across_devices", False)
        return loss * args.world_size if over_devices and loss is not None else loss

    def _collect(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if model.training and torch.is_grad_enabled():  # neither evaluation nor description
            # A model that is given the tokens of the step divides by them: its losses add up.
            self._are_summands = kwargs.get("num_items_in_batch") is not None
            first = output[0] if isinstance(output, tuple) else None
            self._losses.add(output.get("loss") if isinstance(output, dict) else first)


def _config(args: TrainingArguments) -> dict[str, Any]:
    return {
        name: value
        for name, value in args.to_sanitized_dict().items()
        if not isinstance(value, float) or math.isfinite(value)
    }
