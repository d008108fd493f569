"""How frames are stored: as they came, then in compressed segments with rollups."""
