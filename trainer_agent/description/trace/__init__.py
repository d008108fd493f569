"""Running and following one forward pass of a model."""
