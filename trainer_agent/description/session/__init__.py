"""When a running job is described, and from which of its steps."""
