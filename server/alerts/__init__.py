"""Alerts: rules that judge each sampled step, what becomes of them, and who is told."""
