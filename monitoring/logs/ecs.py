"""JSON lines in the Elastic Common Schema (ECS): all that a process of the funnel logs, Ray's own lines included.

What callers send stays out. An exception is logged by its type and by where it was raised; its message, which may hold
a caller's values, only where its class says that it never does (`loggable = True`) or the configuration asks for it.
"""

from __future__ import annotations

import copy
import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path
from typing import Any, Literal, Protocol

import ecs_logging
from pydantic import BaseModel, ConfigDict, Field

ECS_VERSION = "8.11.0"
"""Of the fields that are used; https://www.elastic.co/guide/en/ecs/8.11/ecs-field-reference.html."""

FIELDS = "ecs"
"""`extra={FIELDS: {...}}`: further fields of a line, by their dotted ECS names; ours are under `rayfunnel.`."""

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None)))
_FILE_BYTES, _FILES = 100_000_000, 5


class LogConfig(BaseModel):
    """What is logged by every replica, and where to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    success_share: float = Field(
        0.1, ge=0, le=1, description="Share of the requests answered well and fast that have a line; see `most_per_s`."
    )
    slow_ms: float = Field(250.0, gt=0, description="A request that took longer has a line whatever the share.")
    most_per_s: int = Field(
        20,
        ge=0,
        description="Lines a second in an ingress replica about requests answered well and fast, and as many about "
        "others, so that the log makes no overload worse; 0: no bound. The next one of its kind counts those left out. "
        "Status 500 always has a line.",
    )
    stderr: Literal["all", "warnings", "off"] = Field("all", description="Lines that go to stderr beside Ray's file.")
    exception_messages: bool = Field(
        False, description="Also what exceptions say. It can hold user and item ids: for debugging alone."
    )


class Bound(Protocol):
    """What the lines of this context belong to: a request, a batch."""

    def fields(self) -> Mapping[str, Any]:
        """By their dotted ECS names."""
        ...


bound: ContextVar[Bound | None] = ContextVar("bound", default=None)


class EcsFormatter(ecs_logging.StdlibFormatter):
    """A record as one ECS line. Attributes that others put on the record (Ray's filters do) are left out.

    `fields`: what every line carries, by dotted ECS names.
    """

    def __init__(self, fields: Mapping[str, str], exception_messages: bool = False) -> None:
        super().__init__(exclude_fields=("ecs", "log.original", "process.name", "process.thread.id"))
        self._fields = {"ecs.version": ECS_VERSION, **fields}
        self._exception_messages = exception_messages

    def format(self, record: logging.LogRecord) -> str:
        """Made once, for file and stderr."""
        if (line := getattr(record, "ecs_line", None)) is None:
            record.ecs_line = line = super().format(record)
        return str(line)

    def format_to_ecs(self, record: logging.LogRecord) -> dict[str, Any]:
        """See ecs_logging."""
        owner = getattr(record, "bound", None) or bound.get()
        plain = copy.copy(record)
        plain.__dict__ = {name: value for name, value in record.__dict__.items() if name in _STANDARD}
        if record.name == "asyncio":  # its further lines show tasks, with what they raised
            plain.msg, plain.args = record.getMessage().partition("\n")[0], None
        line = super().format_to_ecs(plain)
        for name, value in {**self._fields, **(owner.fields() if owner else {}), **getattr(record, FIELDS, {})}.items():
            _put(line, name, value)
        return line

    def _record_error_message(self, record: logging.LogRecord) -> str | None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (self._exception_messages or getattr(error, "loggable", False)):
            return str(error)
        return None

    def _record_error_stack_trace(self, record: logging.LogRecord) -> str | None:
        """Frames, with those of the exceptions that led to it; no message."""
        error = record.exc_info[1] if record.exc_info else None
        parts: list[str] = []
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            parts.append(f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__qualname__}\n")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\nthen\n".join(reversed(parts)) or None


def _put(line: dict[str, Any], name: str, value: Any) -> None:
    """Sets a dotted name; `ecs.version` stays dotted, as the ECS logging specification has it."""
    if name != "ecs.version":
        *parents, name = name.split(".")
        for parent in parents:
            line = line.setdefault(parent, {})
    line[name] = value


def replica_fields(application: str, deployment: str, replica: str) -> dict[str, str]:
    """What every line of a replica carries."""
    return {
        "service.name": application,
        "service.type": "rayfunnel",
        "service.node.name": replica,
        "rayfunnel.deployment": deployment,
        "rayfunnel.replica": replica,
    }


class _Bind(logging.Filter):
    """Notes what a record belongs to when it is made: Ray may format it later."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.bound = bound.get()
        return True


class _Dress(logging.Filter):
    """Sees to the format of a logger of Ray's before each record: Ray makes its handlers anew when it updates a
    replica, and what they would write of a failed request is what its caller sent.
    """

    def __init__(self, logger: logging.Logger, formatter: logging.Formatter, bind: logging.Filter) -> None:
        super().__init__()
        self._logger, self._formatter, self._bind = logger, formatter, bind

    def targets(self) -> list[logging.Handler]:
        """The handlers that write, in our format from now on."""
        found = []
        for handler in self._logger.handlers:
            target = handler.target if isinstance(handler, MemoryHandler) and handler.target else handler
            if target.formatter is not self._formatter:
                target.setFormatter(self._formatter)
                handler.addFilter(self._bind)
            found.append(target)
        return found

    def filter(self, record: logging.LogRecord) -> bool:
        self.targets()
        return True


def install(config: LogConfig, fields: Mapping[str, str], file: Path | None = None) -> None:
    """Makes every line of this process ECS. Ours, and those of libraries, go to the file that Ray Serve keeps for this
    replica, without its buffer (1,000 records in throughput mode), and to stderr; Ray's go where Ray sends them.

    `fields`: see `EcsFormatter`. `file`: where to, in a process that Serve keeps no file for.
    """
    formatter, bind = EcsFormatter(fields, config.exception_messages), _Bind()
    handlers: list[logging.Handler] = []
    for name in ("ray", "ray.serve"):
        logger = logging.getLogger(name)
        dress = _Dress(logger, formatter, bind)
        logger.addFilter(dress)
        handlers = [one for one in dress.targets() if isinstance(one, logging.FileHandler)] or handlers
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


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        found = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger("rayfunnel.threads").error("a thread ended", exc_info=found)
