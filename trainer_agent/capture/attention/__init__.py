"""Attention calls of every kind: how each is seen, and what is sampled of it."""

from trainer_agent.capture.attention.interception import AttentionWindow

__all__ = ["AttentionWindow"]
