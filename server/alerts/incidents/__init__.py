"""Incidents: the alerts that one fault raises, with one cause and one remedy."""
