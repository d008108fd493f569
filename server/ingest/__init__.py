"""The way in: declarations and frames, checked, handed to the bus, made durable."""
