"""Channels: where messages go, which of them, in which words, and how many at a time."""
