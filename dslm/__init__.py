"""The theory: signal-propagation moments of transformers, forward and backward."""
