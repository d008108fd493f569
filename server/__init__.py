"""The server: takes frames in, makes them durable, compares them with theory, pushes them out."""
