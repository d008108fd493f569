"""Sums of a tensor on its device, and the statistics that follow on the host."""
