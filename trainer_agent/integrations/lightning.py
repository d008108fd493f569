"""Lightning: ``Trainer(..., callbacks=[EvenkeelCallback(project="gpt", run="a")])``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from trainer_agent.agent import Agent
from trainer_agent.attach import watch
from trainer_agent.capture.step_loss import StepLoss
from trainer_agent.errors import WatchError
from trainer_agent.model.nearest_path import did_you_mean

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    try:
        from lightning.pytorch import Callback, LightningModule, Trainer
    except ImportError:  # the same library under its older name
        from pytorch_lightning import Callback, LightningModule, Trainer


class EvenkeelCallback(Callback):  # type: ignore[misc]
    """Watches a `LightningModule` while it is fitted.

    Its state is in Lightning's checkpoints: ``fit(..., ckpt_path=...)`` goes on with their run.
    """

    def __init__(
        self, *, project: str, run: str, module: str | None = None, **options: Any
    ) -> None:
        """Take the arguments of `trainer_agent.watch`.

        Args:
            project, run: how the run is filed and shown.
            module: the attribute of the `LightningModule` that is the transformer, such as
                ``"model"``; by default the one that holds all the parameters, else the whole.
            options: anything else `watch` takes.
        """
        super().__init__()
        self._project, self._run, self._module, self._options = project, run, module, options
        self._losses = StepLoss()
        self._saved_state: dict[str, Any] = {}
        self._steps = 0
        self.agent: Agent | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the module, or go on with the run of the checkpoint that was loaded."""
        optimizers = [each for each in trainer.optimizers if hasattr(each, "param_groups")]
        self.agent = watch(
            _inner(pl_module, self._module),
            project=self._project,
            run=self._run,
            **{"optimizer": optimizers, "config": _config(pl_module), **self._options},
        )
        self._steps = trainer.global_step
        if self._saved_state and trainer.global_step:
            self.agent.load_state_dict(self._saved_state)
        self._losses.take_sum()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Say that an optimizer step is over, where the batch ended one."""
        if self.agent is None:
            return
        self._losses.add(outputs.get("loss") if isinstance(outputs, dict) else outputs)
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        # Lightning has divided each batch's loss by the number of batches in a step.
        automatic = pl_module.automatic_optimization
        loss = self._losses.take_sum() if automatic else self._losses.take_mean()
        self.agent.step(loss, step=self._steps - 1)
        if trainer.world_size == self.agent.size:  # else not all would stop at the same step
            self._act(trainer, self.agent)

    def _act(self, trainer: Trainer, agent: Agent) -> None:
        if agent.should_save:
            folder = Path(trainer.default_root_dir) / "evenkeel"
            trainer.save_checkpoint(folder / f"step-{self._steps}.ckpt")
        trainer.should_stop |= agent.should_stop

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run."""
        self._end(None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End the run as failed, with its reason."""
        self._end(exception)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the run."""
        return self._saved_state if self.agent is None else self.agent.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint said until training starts."""
        self._saved_state = dict(state_dict)

    def _end(self, error: BaseException | None) -> None:
        if self.agent is not None:
            self._saved_state = self.agent.state_dict()
            self.agent.__exit__(type(error) if error else None, error, None)
            self.agent = None


def _inner(module: LightningModule, name: str | None) -> nn.Module:
    """The module whose forward pass is the model's: a `LightningModule`'s own may never run."""
    if name is not None:
        modules = dict(module.named_modules())
        if name not in modules:
            raise WatchError(
                "module",
                f"the {type(module).__name__} has no {name!r}{did_you_mean(name, modules)}",
                fix="name one of its modules",
            )
        named: nn.Module = modules[name]
        return named
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    has_parameters = any(True for _ in module.parameters(recurse=False))
    inner: nn.Module = children[0] if len(children) == 1 and not has_parameters else module
    return inner


def _config(module: LightningModule) -> dict[str, Any]:
    """The module's hyperparameters, as far as they are plain."""
    plain = (str, int, float, bool, type(None))
    return {name: value for name, value in module.hparams.items() if isinstance(value, plain)}
