"""Theory's curves for each revision of a run's model, computed away from the requests."""
