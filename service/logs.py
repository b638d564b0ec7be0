"""Structured logs: one JSON object a line on stderr, uvicorn's among them."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

__all__ = ["Log", "make_log", "uvicorn_log_config"]

Log = structlog.typing.FilteringBoundLogger


def make_log(stream: TextIO | None = None) -> Log:
    """Return a logger that writes JSON lines to `stream` (stderr); it shares no state with other loggers."""
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    log: Log = structlog.wrap_logger(
        structlog.PrintLogger(stream or sys.stderr),
        processors,
        structlog.make_filtering_bound_logger(logging.INFO),
    )
    return log


class JsonFormatter(logging.Formatter):
    """Formats a standard-library record as one JSON line."""

    _formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return self._formatter.format(record)


def uvicorn_log_config() -> dict[str, Any]:
    """Return a logging configuration that sends warnings and errors of libraries through `JsonFormatter`."""
    to_stderr = {"handlers": ["stderr"], "level": "WARNING", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "loggers": {"uvicorn": to_stderr, "opentelemetry": to_stderr},
    }
