"""Alerts: rules that judge each sampled step, their lifecycle, and notification."""
