"""The position-resolved recursion: how each part of a block maps a kernel, and a gradient's."""

from __future__ import annotations

__all__: list[str] = []
