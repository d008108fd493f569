"""Brings durable frames, the model and theory together for the alert rules."""
