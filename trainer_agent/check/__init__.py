"""What the agent would measure and predict of a training script, from two of its steps."""
