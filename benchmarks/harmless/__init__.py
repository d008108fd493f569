"""Random training steps, each run with and without the agent, and everything compared."""
