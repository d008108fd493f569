"""The spec of a model: moments of its weights, kernels of its batch."""
