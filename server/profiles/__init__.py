"""Measurements: read by step, by series, or whole; old ones in compressed blocks."""
