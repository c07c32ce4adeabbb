"""Twenty kinds of malformed requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

PER_KIND = 10
RECOMMEND, RANK, SIMILAR, EVENTS = "/v1/recommend", "/v1/rank", "/v1/similar", "/v1/events"
DEEP = 100_000
HUGE = 3 * 2**20
"""Bytes; the limit is 1 MiB."""


@dataclass(frozen=True)
class Malformed:
    """One request; `field`: the field that the problem document must name, or one inside it."""

    kind: str
    path: str
    field: str
    body: bytes
    status: int = 422
    chunked: bool = False
    """Sent without a Content-Length."""

    @property
    def content(self) -> bytes | Iterator[bytes]:
        """For httpx: an iterator is sent chunked."""
        if not self.chunked:
            return self.body
        return iter([self.body[i : i + 65_536] for i in range(0, len(self.body), 65_536)])


def user(**fields: Any) -> bytes:
    return json.dumps({"user_id": "u1"} | fields).encode()


def event(**fields: Any) -> bytes:
    return json.dumps({"events": [{"user_id": "u1", "item_id": "i1", "event_type": "view"} | fields]}).encode()


def raw(text: str) -> bytes:
    return text.encode()


def nested(opening: str, closing: str) -> str:
    return opening * DEEP + closing * DEEP


Case = tuple[str, str, bytes]
"""(path, field, body)"""


def _wrong_types() -> list[Case]:
    return [
        (RECOMMEND, "user_id", user(user_id=value)) for value in (42, 1.5, None, True, [], ["u1"], {}, {"id": "u1"})
    ]


def _n() -> list[Case]:
    values = (0, -1, 101, 2.5, "10", None, True, [10], {"n": 10})
    return [(RECOMMEND, "n", user(n=value)) for value in values] + [(SIMILAR, "n", b'{"item_id": "i1", "n": 0}')]


def _not_finite() -> list[Case]:
    return [
        (RECOMMEND, "context", raw(f'{{"user_id": "u1", "context": {{"x": {number}}}}}'))
        for number in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999")
    ] + [(EVENTS, "events.0.timestamp", event(timestamp=float(number))) for number in ("nan", "inf", "-inf")]


def _deep() -> list[Case]:
    lists, objects = nested("[", "]"), nested('{"a":', "}").replace(":}", ":1}", 1)
    return [
        (RECOMMEND, "body", raw(lists)),
        (EVENTS, "body", raw(objects)),
        (RECOMMEND, "body", raw(f'{{"user_id": "u1", "filters": {{"genres": {lists}}}}}')),
        (RECOMMEND, "body", raw(f'{{"user_id": "u1", "context": {objects}}}')),
        (RANK, "body", raw("[" * DEEP)),
    ]


def _unknown_fields() -> list[Case]:
    return [
        (RECOMMEND, "colour", user(colour="red")),
        (RECOMMEND, "N", user(N=10)),
        (RECOMMEND, "__proto__", user(__proto__={"n": 1})),
        (RANK, "n", user(item_ids=["i1"], n=3)),
        (SIMILAR, "user_id", b'{"item_id": "i1", "user_id": "u1"}'),
        (EVENTS, "events.0.rating", event(rating=5)),
        (RECOMMEND, "body", user(**{"": 1})),
    ]


def _control_characters() -> list[Case]:
    return [(RECOMMEND, "user_id", user(user_id=f"u{c}1")) for c in "\x00\x01\n\x1f\x7f"] + [
        (RANK, "item_ids.0", user(item_ids=["i\r1"])),
        (EVENTS, "events.0.event_type", event(event_type="a\tb")),
        (EVENTS, "events.0.event_id", event(event_id="\x00")),
        (RECOMMEND, "body", b'{"user_id": "u\x001"}'),
        (RECOMMEND, "body", b'{"user_id": "u\n1"}'),
    ]


def _long() -> list[Case]:
    long = "x" * 10**6
    return [
        (RECOMMEND, "user_id", user(user_id=long)),
        (RECOMMEND, "exclude_ids.0", user(exclude_ids=[long])),
        (RANK, "item_ids.1", user(item_ids=["i1", long])),
        (SIMILAR, "item_id", json.dumps({"item_id": long}).encode()),
        (EVENTS, "events.0.item_id", event(item_id=long)),
        (RECOMMEND, "context", user(context={long: 1})),
        (RECOMMEND, "x" * 200, user(**{long: 1})),
    ]


def _not_utf8() -> list[Case]:
    return [
        (RECOMMEND, "body", b'{"user_id": "u' + bad + b'"}') for bad in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x80")
    ] + [(EVENTS, "body", json.dumps({"events": []}).encode("utf-16"))]


def _surrogates() -> list[Case]:
    return [
        (RECOMMEND, "body", raw(r'{"user_id": "u\ud800"}')),
        (RECOMMEND, "body", raw(r'{"user_id": "\udc00u"}')),
        (SIMILAR, "body", raw(r'{"item_id": "\ud800\ud800"}')),
        (EVENTS, "body", raw(r'{"events": [{"user_id": "\udfff", "item_id": "i1", "event_type": "view"}]}')),
    ]


def _top_level() -> list[Case]:
    return [(path, "body", raw(text)) for path in (RECOMMEND, EVENTS) for text in ("[]", '"u1"', "5", "null", "true")]


def _truncated() -> list[Case]:
    whole = user(n=10, exclude_ids=["i1", "i2"])
    return [(RECOMMEND, "body", whole[:length]) for length in range(1, len(whole), len(whole) // 9)]


def _beyond_64_bits() -> list[Case]:
    return [
        (RECOMMEND, field, user(**{field: value}))
        for field in ("n", "deadline_ms")
        for value in (2**63, 2**64, -(2**63) - 1, 10**40, -(10**300))
    ]


def _missing() -> list[Case]:
    return [
        (RECOMMEND, "user_id", b"{}"),
        (RECOMMEND, "user_id", b'{"n": 5}'),
        (RANK, "item_ids", user()),
        (RANK, "user_id", b'{"item_ids": ["i1"]}'),
        (SIMILAR, "item_id", b"{}"),
        (EVENTS, "events", b"{}"),
        (EVENTS, "events.0.item_id", b'{"events": [{"user_id": "u1", "event_type": "view"}]}'),
    ]


def _too_many() -> list[Case]:
    ids = [f"i{i}" for i in range(1001)]
    return [
        (RECOMMEND, "exclude_ids", user(exclude_ids=ids)),
        (RECOMMEND, "context", user(context=dict.fromkeys(ids[:33], 1))),
        (RECOMMEND, "filters", user(filters=dict.fromkeys(ids[:17], 1))),
        (RANK, "item_ids", user(item_ids=ids[:501])),
        (EVENTS, "events", json.dumps({"events": json.loads(event())["events"] * 1001}).encode()),
    ]


def _too_few() -> list[Case]:
    return [
        (RECOMMEND, "user_id", user(user_id="")),
        (RANK, "item_ids", user(item_ids=[])),
        (RANK, "item_ids.0", user(item_ids=[""])),
        (SIMILAR, "item_id", b'{"item_id": ""}'),
        (EVENTS, "events", b'{"events": []}'),
    ]


def _filters() -> list[Case]:
    filters: list[tuple[str, Any]] = [
        ("mood", ["dark"]), ("genres", ["Comdy"]), ("genres", 5), ("genres", {"gte": 3}), ("genres", [[["Action"]]]),
        ("year", "1990"), ("year", {"lt": 1990}), ("year", {"gte": "x"}), ("year", {"gte": None}), ("year", [1990]),
    ]  # fmt: skip
    return [(RECOMMEND, f"filters.{name}", user(filters={name: value})) for name, value in filters]


def _events() -> list[Case]:
    return [
        (EVENTS, "events.0.timestamp", event(timestamp=-1)),
        (EVENTS, "events.0.timestamp", event(timestamp=2e12)),
        (EVENTS, "events.0.timestamp", event(timestamp="2026-01-01")),
        (EVENTS, "events.0.event_type", event(event_type=None)),
        (EVENTS, "events.0.event_type", event(event_type="x" * 65)),
        (EVENTS, "events.0", b'{"events": [5]}'),
        (EVENTS, "events", b'{"events": {"user_id": "u1"}}'),
        (EVENTS, "events.1.user_id", event()[:-2] + b', {"item_id": "i1", "event_type": "view"}]}'),
    ]


def _deadlines() -> list[Case]:
    values: list[Any] = [0, -5, 60_001, "500", 0.5, [], True]
    return [(RECOMMEND, "deadline_ms", user(deadline_ms=value)) for value in values]


def _duplicate_keys() -> list[Case]:
    return [
        (RECOMMEND, "n", b'{"user_id": "u1", "n": 5, "n": 0}'),
        (RECOMMEND, "user_id", b'{"user_id": "u1", "user_id": 7}'),
    ]


KINDS: dict[str, tuple[Callable[[], list[Case]], int, bool]] = {
    "an id of a wrong type": (_wrong_types, 422, False),
    "n of a wrong type or out of range": (_n, 422, False),
    "a number that is not finite": (_not_finite, 422, False),
    "a huge body": (lambda: [(p, "body", b"[" + b" " * HUGE + b"]") for p in (RECOMMEND, EVENTS)], 413, False),
    "a huge body without a length": (lambda: [(p, "body", b" " * HUGE) for p in (RECOMMEND, EVENTS)], 413, True),
    "JSON 100,000 levels deep": (_deep, 422, False),
    "an unknown field": (_unknown_fields, 422, False),
    "control characters": (_control_characters, 422, False),
    "texts of 10^6 characters": (_long, 422, False),
    "bytes that are not UTF-8": (_not_utf8, 422, False),
    "lone surrogates": (_surrogates, 422, False),
    "an empty body": (
        lambda: [(p, "body", b) for p in (RECOMMEND, RANK, SIMILAR, EVENTS) for b in (b"", b" ")],
        422,
        False,
    ),
    "something else than an object": (_top_level, 422, False),
    "truncated JSON": (_truncated, 422, False),
    "integers beyond 64 bits": (_beyond_64_bits, 422, False),
    "a required field missing": (_missing, 422, False),
    "too many of something": (_too_many, 422, False),
    "nothing where something must be": (_too_few, 422, False),
    "filters that the catalogue cannot have": (_filters, 422, False),
    "events that cannot be": (lambda: _events() + _deadlines() + _duplicate_keys(), 422, False),
}
"""Kind → (its cases, the status they get, whether they are sent chunked)."""


def requests() -> list[Malformed]:
    """At least `PER_KIND` of each kind."""
    made = []
    for kind, (cases, status, chunked) in KINDS.items():
        each = cases()
        for path, field, body in islice(cycle(each), max(PER_KIND, len(each))):
            made.append(Malformed(kind, path, field, body, status, chunked))
    return made
