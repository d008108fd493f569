"""Logging of a server process, set up in one place for our modules and uvicorn's alike."""

from __future__ import annotations

import logging
import sys

import structlog

from server.settings import LogFormat


def configure(log_format: LogFormat) -> None:
    """Send every log line of this process to stderr, as text for people or as JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format),
            ],
            foreign_pre_chain=shared,  # for lines of uvicorn and of other libraries
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _renderers(log_format: LogFormat) -> list[structlog.typing.Processor]:
    if log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
