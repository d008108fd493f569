"""The API of measurements: by step, by series, or everything."""
