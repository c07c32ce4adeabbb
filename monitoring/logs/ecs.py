"""Formats a log record as one JSON line with the fields of the Elastic Common Schema (ECS).

Values that callers send stay out. An exception is logged by its type and stack trace. Its message may hold a caller's
values, so it is logged only if its class says that it never does (`loggable = True`) or the configuration asks for it.
"""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Mapping
from typing import Any

import ecs_logging

from monitoring.logs.context import log_context

ECS_VERSION = "8.11.0"
"""Of the fields that are used; https://www.elastic.co/guide/en/ecs/8.11/ecs-field-reference.html."""

FIELDS = "ecs"
"""`extra={FIELDS: {...}}`: further fields of a line, by their dotted ECS names; ours are under `rayfunnel.`."""

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None)))


class EcsFormatter(ecs_logging.StdlibFormatter):
    """A record as one ECS line: the process's fields, those of the log context, then those of the record itself.

    `fields`: carried by every line of the process, by dotted ECS names. Other attributes that filters (Ray's do) put on
    the record are left out.
    """

    def __init__(self, fields: Mapping[str, str], exception_messages: bool = False) -> None:
        super().__init__(exclude_fields=("ecs", "log.original", "process.name", "process.thread.id"))
        self._fields = {"ecs.version": ECS_VERSION, **fields}
        self._exception_messages = exception_messages

    def format(self, record: logging.LogRecord) -> str:
        """The line, formatted once for file and stderr."""
        if (line := getattr(record, "ecs_line", None)) is None:
            record.ecs_line = line = super().format(record)
        return str(line)

    def format_to_ecs(self, record: logging.LogRecord) -> dict[str, Any]:
        """See ecs_logging."""
        context = getattr(record, "log_context", None) or log_context.get()
        plain = copy.copy(record)
        plain.__dict__ = {name: value for name, value in record.__dict__.items() if name in _STANDARD}
        if record.name == "asyncio":  # its further lines show tasks, with the exceptions that they raised
            plain.msg, plain.args = record.getMessage().partition("\n")[0], None
        line = super().format_to_ecs(plain)
        of_context = context.fields() if context else {}
        for name, value in {**self._fields, **of_context, **getattr(record, FIELDS, {})}.items():
            _put(line, name, value)
        return line

    def _record_error_message(self, record: logging.LogRecord) -> str | None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (self._exception_messages or getattr(error, "loggable", False)):
            return str(error)
        return None

    def _record_error_stack_trace(self, record: logging.LogRecord) -> str | None:
        """The frames of the exception and of its causes, without messages."""
        error = record.exc_info[1] if record.exc_info else None
        parts: list[str] = []
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            parts.append(f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__qualname__}\n")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\nthen\n".join(reversed(parts)) or None


def _put(line: dict[str, Any], name: str, value: Any) -> None:
    """Sets a dotted name; `ecs.version` stays dotted, as the ECS logging specification requires."""
    if name != "ecs.version":
        *parents, name = name.split(".")
        for parent in parents:
            line = line.setdefault(parent, {})
    line[name] = value


def replica_fields(application: str, deployment: str, replica: str) -> dict[str, str]:
    """The fields that every line of a replica carries."""
    return {
        "service.name": application,
        "service.type": "rayfunnel",
        "service.node.name": replica,
        "rayfunnel.deployment": deployment,
        "rayfunnel.replica": replica,
    }
