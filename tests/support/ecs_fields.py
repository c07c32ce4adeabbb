"""The fields of the Elastic Common Schema that log lines may have, with their types.

From the field reference of ECS 8.11 (https://www.elastic.co/guide/en/ecs/8.11/ecs-field-reference.html). Custom
fields are under `rayfunnel.`: ECS recommends a namespace of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

FIELDS: dict[str, str] = {
    "@timestamp": "date",
    "ecs.version": "keyword",
    "error.message": "match_only_text",
    "error.stack_trace": "wildcard",
    "error.type": "keyword",
    "event.action": "keyword",
    "event.dataset": "keyword",
    "event.duration": "long",
    "event.outcome": "keyword",
    "http.request.id": "keyword",
    "http.response.status_code": "long",
    "log.level": "keyword",
    "log.logger": "keyword",
    "log.origin.file.line": "long",
    "log.origin.file.name": "keyword",
    "log.origin.function": "keyword",
    "message": "match_only_text",
    "process.pid": "long",
    "process.thread.name": "keyword",
    "service.name": "keyword",
    "service.node.name": "keyword",
    "service.type": "keyword",
    "trace.id": "keyword",
    "user.hash": "keyword",
}

REQUIRED = {
    *("@timestamp", "ecs.version", "log.level", "log.logger", "message", "process.pid"),
    *("service.name", "service.node.name", "rayfunnel.deployment", "rayfunnel.replica"),
}

CUSTOM: dict[str, type | tuple[type, ...]] = {
    "rayfunnel.autoscaling": (int, float, str, type(None)),
    "rayfunnel.batch.id": str,
    "rayfunnel.batch.size": int,
    "rayfunnel.degraded": str,
    "rayfunnel.deployment": str,
    "rayfunnel.events": int,
    "rayfunnel.left_out": int,
    "rayfunnel.model_version": str,
    "rayfunnel.replica": str,
    "rayfunnel.share": (int, float),
    "rayfunnel.timings_ms": (int, float),
}
"""Names, or prefixes of names."""


def flat(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and their values, as Elasticsearch sees them."""
    for name, value in line.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def problems(line: Mapping[str, Any]) -> list[str]:
    """Violations of ECS in the line; empty: there are none."""
    fields = dict(flat(line))
    found = [f"{name} is missing" for name in sorted(REQUIRED - fields.keys())]
    for name, value in fields.items():
        if not all(_fits(name, one) for one in (value if isinstance(value, list) else [value])):
            found.append(f"{name} = {value!r}")
    return found


def _fits(name: str, value: Any) -> bool:
    if name.startswith("rayfunnel."):
        return any(
            (name == custom or name.startswith(f"{custom}.")) and isinstance(value, kind)
            for custom, kind in CUSTOM.items()
        )
    match FIELDS.get(name):
        case None:
            return False
        case "long":
            return type(value) is int and -(2**63) <= value < 2**63
        case "date":
            return bool(re.fullmatch(r"[\dT:.-]+Z", value)) and datetime.fromisoformat(value).tzinfo is not None
        case _:
            return isinstance(value, str)
