"""From a hook to a vector on the host: statistics reduced where the tensor lives."""
