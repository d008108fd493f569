"""When a step is measured, and what measuring may cost."""
