"""Runs: what they are, how they fare, who is out of contact."""
