"""Structured logs: events in the past tense with fields, to stderr. Prompts and keys are never logged.

A thread writes them: who collects logs may hang, and a service goes on.
"""

import logging
import sys
from typing import TextIO, cast

from stoker.services import without
from stoker.services.process.printing import Printer
from stoker.services.process.tracing import with_trace_ids

with without("rich"):
    import structlog

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logs(level: str, log_format: str, **context: str) -> Printer:
    """Set up structlog for this process; `context` (service, worker) is on every line. What is still to be
    written at the end has to be waited for (`Printer.close`).
    """
    printer = Printer(sys.stderr)
    structlog.contextvars.bind_contextvars(**context)
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            with_trace_ids,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if log_format != "json" else "iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS.get(level, 20)),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, printer)),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=printer)
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # its errors reach us by error_cb
    return printer


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(part=name)
    return logger
