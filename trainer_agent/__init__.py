"""Watching a training job from inside: its model described, its streams measured."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer_agent.agent import Agent
    from trainer_agent.attach import watch
    from trainer_agent.deepscale_lm import deepscale
    from trainer_agent.description import describe
    from trainer_agent.description.hints import Hint
    from trainer_agent.description.mean_field import mean_field

__all__ = ["Agent", "Hint", "deepscale", "describe", "mean_field", "watch"]

_HOMES = {
    "Agent": "trainer_agent.agent",
    "Hint": "trainer_agent.description.hints",
    "deepscale": "trainer_agent.deepscale_lm",
    "describe": "trainer_agent.description",
    "mean_field": "trainer_agent.description.mean_field",
    "watch": "trainer_agent.attach",
}


def __getattr__(name: str) -> Any:
    # A job that only saves a checkpoint with `trainer_agent` imported should not pay for it all.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_HOMES[name])
    except ModuleNotFoundError as error:
        # Torch is no requirement of the distribution: a server installs it for `dslm` and `wire`.
        if error.name != "torch":
            raise
        raise ImportError(
            f"trainer_agent.{name} needs PyTorch, which is not installed: "
            "pip install 'evenkeel-agent[torch]', or the build of torch for this machine",
            name="torch",
        ) from error
    found = getattr(module, name)
    globals()[name] = found
    return found
