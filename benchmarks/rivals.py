"""Other ways to watch a training job: hooks by hand, and `wandb.watch`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# called after a step, with its loss
AfterStep = Callable[[Tensor], None]


def naive_hooks(model: nn.Module) -> AfterStep:
    """Mean and variance of every module's output and gradient, each copied to the host at once."""
    values: dict[str, float] = {}

    def note(name: str, x: Tensor) -> None:
        values[f"{name}.mean"] = x.mean().item()
        values[f"{name}.var"] = x.var().item()

    _hook_all(model, note)
    return lambda _loss: values.clear()


def stacked_hooks(model: nn.Module) -> AfterStep:
    """The same moments, kept on the device and copied to the host once at the end of the step."""
    pending: list[Tensor] = []
    copied: dict[str, list[float]] = {}

    def note(_name: str, x: Tensor) -> None:
        pending.append(torch.stack([x.mean(), x.var()]))

    def after(_loss: Tensor) -> None:
        copied["values"] = torch.stack(pending).flatten().tolist()
        pending.clear()

    _hook_all(model, note)
    return after


def _hook_all(model: nn.Module, note: Callable[[str, Tensor], None]) -> None:
    def forward(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                note(name, output.detach())
                output.register_hook(lambda g: note(f"{name}.grad", g))

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(forward(name))


class Wandb:
    """`wandb.watch` in every step, of an offline run in `folder`; None where it is missing."""

    @staticmethod
    def installed() -> bool:
        """Whether it is there: ``pip install 'evenkeel[bench]'``."""
        return importlib.util.find_spec("wandb") is not None

    def __init__(self, folder: str) -> None:
        import wandb

        os.environ["WANDB_SILENT"] = "true"
        self._wandb: Any = wandb
        self._run = wandb.init(mode="offline", dir=folder, project="benchmark")
        self._watched = 0

    def watch(self, model: nn.Module, log: str) -> AfterStep:
        """Histograms of ``"gradients"``, or of ``"all"``: parameters as well."""
        self._wandb.watch(model, log=log, log_freq=1, idx=self._watched)
        self._watched += 1
        return lambda loss: self._run.log({"loss": loss.item()})

    def close(self) -> None:
        """End the run."""
        self._run.finish()
