"""Why a run's stream differs from the one at initialisation."""
