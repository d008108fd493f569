"""Attention calls of every kind: how each is intercepted, and what is sampled of it."""

from trainer_agent.capture.attention.interception import AttentionInterception

__all__ = ["AttentionInterception"]
