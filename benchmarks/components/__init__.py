"""Component formulas against simulation, beside the errors the reference published."""
