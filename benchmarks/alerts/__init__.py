"""Runs that fail and runs that are merely lively, and what alert rules say of both."""
