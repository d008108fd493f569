"""What a block computes, read from its traced graph."""
