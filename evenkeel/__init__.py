"""The command line, and the one process that serves API and dashboard on one port."""

__all__ = ["__version__"]

__version__ = "0.1.0"
