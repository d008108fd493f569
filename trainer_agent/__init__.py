"""Watching a training job from inside: its model described, its streams measured."""

from .description import describe

__all__ = ["describe"]
