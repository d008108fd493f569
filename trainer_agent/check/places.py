"""Where a script's training loop is, and by which names it calls its objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from trainer_agent.check.script import is_users
from trainer_agent.model.unwrap import unwrap

# Of a framework's module that drives the loop, the beginning of its name.
FRAMEWORKS = {
    "transformers.trainer": "transformers",
    "lightning.pytorch": "lightning",
    "pytorch_lightning": "lightning",
    "accelerate.optimizer": "accelerate",
}


@dataclass(frozen=True, slots=True)
class LoopPlace:
    """Where the optimizer steps.

    Attributes:
        framework: whose loop it is, "" where it is the user's own.
        file, line: of the user's code that makes the step, or has the framework make it.
        model, optimizer, loss: names there of the model, the optimizer and a loss, or "".
    """

    framework: str
    file: str = ""
    line: int = 0
    model: str = ""
    optimizer: str = ""
    loss: str = ""


def place_of(frame: FrameType, model: nn.Module, optimizer: Optimizer) -> LoopPlace:
    """The innermost frame of the user's code from `frame` on, and what it calls things."""
    framework = framework_of(frame)
    caller: FrameType | None = frame
    while caller is not None and not is_users(caller.f_code.co_filename):
        caller = caller.f_back
    if caller is None:
        return LoopPlace(framework)
    names = {**caller.f_globals, **caller.f_locals}
    return LoopPlace(
        framework=framework,
        file=Path(caller.f_code.co_filename).name,
        line=caller.f_lineno,
        model=_name(names, lambda x: isinstance(x, nn.Module) and unwrap(x) is unwrap(model)),
        optimizer=_name(names, lambda x: x is optimizer or _wraps(x, optimizer)),
        loss="loss" if isinstance(names.get("loss"), Tensor) else "",
    )


def framework_of(frame: FrameType | None) -> str:
    """The framework in whose loop a frame runs, or ""."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        for beginning, framework in FRAMEWORKS.items():
            if module.startswith(beginning):
                outer = framework_of(frame.f_back) if framework == "accelerate" else ""
                return outer or framework
        frame = frame.f_back
    return ""


def _name(names: dict[str, Any], fits: Any) -> str:
    """The first name of what fits; an attribute of ``self`` where no variable does."""
    plain = (name for name, value in names.items() if fits(value))
    owner = names.get("self")
    attributes = {**getattr(owner, "__dict__", {}), **getattr(owner, "_modules", {})}
    inside = (f"self.{name}" for name, value in attributes.items() if fits(value))
    return next(plain, None) or next(inside, "")


def _wraps(wrapper: Any, optimizer: Optimizer) -> bool:
    wrapped = getattr(wrapper, "__dict__", {})
    return "Optimizer" in type(wrapper).__name__ and any(
        wrapped.get(name) is optimizer for name in ("optimizer", "_optimizer")
    )
