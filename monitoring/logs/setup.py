"""Sets up logging in a process: the configuration, the handlers, and Ray's own loggers."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from monitoring.logs.context import log_context
from monitoring.logs.ecs import EcsFormatter

_FILE_BYTES, _FILES = 100_000_000, 5


class LogConfig(BaseModel):
    """Which lines every replica logs, and where to."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe lines that are logged."""
    success_share: float = Field(0.1, ge=0, le=1)
    """Share of the requests answered well and fast that have a line; see `most_per_s`."""
    slow_ms: float = Field(250.0, gt=0)
    """A request that took longer has a line whatever the share."""
    most_per_s: int = Field(20, ge=0)
    """Lines a second in an ingress replica about requests answered well and fast, and as many about others, so that
    the log makes no overload worse. The next line of its kind counts the lines left out. Status 500 always has a line.
    0: no bound."""
    stderr: Literal["all", "warnings", "off"] = "all"
    """Lines that go to stderr beside Ray's file."""
    exception_messages: bool = False
    """Whether the messages of exceptions are logged. They can hold user and item ids: for debugging alone."""


def install(config: LogConfig, fields: Mapping[str, str], file: Path | None = None) -> None:
    """Makes every line of this process ECS.

    Lines of the project and of libraries go to the file that Ray Serve keeps for this replica, without its buffer
    (1,000 records in throughput mode), and to stderr. Ray's own lines go where Ray sends them.

    `fields`: see `EcsFormatter`. `file`: the log file of a process for which Serve keeps none.
    """
    formatter, add_context = EcsFormatter(fields, config.exception_messages), _AddContext()
    handlers: list[logging.Handler] = []
    for name in ("ray", "ray.serve"):
        logger = logging.getLogger(name)
        keep_format = _KeepFormat(logger, formatter, add_context)
        logger.addFilter(keep_format)
        handlers = [one for one in keep_format.targets() if isinstance(one, logging.FileHandler)] or handlers
    if not handlers and file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers = [RotatingFileHandler(file, maxBytes=_FILE_BYTES, backupCount=_FILES)]
    if config.stderr != "off":
        stream = logging.StreamHandler(sys.__stderr__)  # sys.stderr leads into Ray's file in throughput mode
        stream.setLevel(logging.WARNING if config.stderr == "warnings" else logging.NOTSET)
        handlers.append(stream)
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.getLogger().handlers = handlers
    logging.getLogger("rayfunnel").setLevel(config.level)
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended
    logging.getLogger("rayfunnel.logs").info("logging from %s on, to stderr: %s", config.level, config.stderr)


class _AddContext(logging.Filter):
    """Puts the log context on a record when it is created: Ray may format the record later, in another context."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.log_context = log_context.get()
        return True


class _KeepFormat(logging.Filter):
    """Sets our format on the handlers of one of Ray's loggers, before each record.

    Ray creates its handlers anew when it updates a replica; its own format would write the request of a failed call.
    """

    def __init__(self, logger: logging.Logger, formatter: logging.Formatter, add_context: logging.Filter) -> None:
        super().__init__()
        self._logger, self._formatter, self._add_context = logger, formatter, add_context

    def targets(self) -> list[logging.Handler]:
        """The handlers that write, with our format set."""
        found = []
        for handler in self._logger.handlers:
            target = handler.target if isinstance(handler, MemoryHandler) and handler.target else handler
            if target.formatter is not self._formatter:
                target.setFormatter(self._formatter)
                handler.addFilter(self._add_context)
            found.append(target)
        return found

    def filter(self, record: logging.LogRecord) -> bool:
        self.targets()
        return True


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        found = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger("rayfunnel.threads").error("a thread ended", exc_info=found)
