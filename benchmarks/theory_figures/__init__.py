"""The figures of docs/theory.md: measured points over predicted lines."""
