"""The access chain: the one place where a request is let in. Every door calls it before a body is parsed.

Its order: a CORS preflight is answered; then the checks of `http.checks`, in the order of the configuration. Calls by a
handle come from the cluster itself and are trusted.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import string
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from deployments.api.responses import problem
from deployments.errors import ConfigError, FunnelError
from monitoring.logs.ecs import FIELDS

log = logging.getLogger("rayfunnel.http")

LONGEST_REQUEST_ID = 128
_REQUEST_ID = (string.ascii_letters + string.digits + "-_.:/+=@").encode()
_LONGEST_LENGTH = 15
"""Digits of a content length that is taken for a number."""
_ORIGIN = r"^(\*|https?://[a-z0-9.\-\[\]:]+)$"
"""As browsers send it: in lower case, without a path (RFC 6454)."""
_FIELD_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
_METHODS = ("GET", "HEAD", "POST")
_REQUEST_HEADERS = ("authorization", "content-encoding", "traceparent", "x-request-id")
_RESPONSE_HEADERS = ("X-Request-ID", "Retry-After")


class CorsConfig(BaseModel):
    """Which web pages of other origins may call the API from a browser (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    origins: list[Annotated[str, StringConstraints(pattern=_ORIGIN)]] = Field(min_length=1)
    """Origins such as `https://shop.example.com`, or `*` for every one."""
    headers: list[Annotated[str, StringConstraints(pattern=_FIELD_NAME)]] = Field(default_factory=list)
    """Request headers that pages may send beside the usual ones."""
    max_age_s: int = Field(600, ge=0)
    """How long a browser may keep the answer to a preflight."""


@dataclass(frozen=True)
class Head:
    """What a check sees of a request."""

    method: str
    path: str
    """Below the application's route prefix, percent-decoded."""
    headers: Sequence[tuple[bytes, bytes]]
    """(name in lower case, value), as they came."""
    client: tuple[str, int] | None
    """Address and port of the peer: HAProxy's, where it is in front."""

    def get(self, name: bytes) -> bytes:
        """The value of a header; those of several, joined by commas; empty: there is none."""
        return b", ".join([value for each, value in self.headers if each == name])

    @property
    def content_length(self) -> int:
        """Bytes of the body that the head announces; 0: none."""
        digits = self.get(b"content-length").strip(b" \t").lstrip(b"0")
        return int(digits) if digits.isdigit() and len(digits) <= _LONGEST_LENGTH else len(digits) and sys.maxsize

    @functools.cached_property
    def request_id(self) -> str:
        """Its id in headers, bodies, log lines and traces; empty: none yet."""
        given = self.get(b"x-request-id")
        return given.decode("ascii") if sane_request_id(given) else ""


def sane_request_id(value: bytes) -> bool:
    """Whether a caller's request id is taken: 1 to 128 of letters, digits and `-_.:/+=@`."""
    return 0 < len(value) <= LONGEST_REQUEST_ID and not value.translate(None, _REQUEST_ID)


Check = Callable[[Head], None]
"""Raises `Unauthorized`, `Forbidden` or another `FunnelError` to refuse the request; its status and text are
the answer. It runs on the event loop, and must not block."""


class AccessChain:
    """The checks of one ingress replica, in order."""

    def __init__(self, cors: CorsConfig | None = None, checks: Sequence[Check] = ()) -> None:
        self._checks = tuple(checks)
        self._cors = cors and CORSMiddleware(
            _no_app,
            allow_origins=cors.origins,
            allow_methods=_METHODS,
            allow_headers=(*_REQUEST_HEADERS, *cors.headers),
            expose_headers=_RESPONSE_HEADERS,
            max_age=cors.max_age_s,
        )

    def enter(self, head: Head) -> Response | None:
        """None: the request is let in. Else the answer to it: a preflight's, or a refusal."""
        if self._cors and _is_preflight(head):
            return self._cors.preflight_response(Headers(raw=list(head.headers)))
        try:
            for check in self._checks:
                if (result := check(head)) is not None:
                    raise TypeError(f"a check returns None or raises; it returned {type(result).__name__}")
        except FunnelError as error:
            return problem(error, head.request_id)
        except Exception as error:
            log.exception(
                "a check failed, so the request is refused", extra={FIELDS: {"http.request.id": head.request_id}}
            )
            return problem(FunnelError(type(error).__name__), head.request_id)
        return None

    def response_headers(self, head: Head) -> list[tuple[bytes, bytes]]:
        """Headers that every response to this request must have."""
        if not self._cors or _is_preflight(head):
            return []
        origin = head.get(b"origin").decode("latin-1")
        headers = dict(self._cors.simple_headers) if origin else {}
        if not self._cors.allow_all_origins:
            headers["Vary"] = "Origin"  # without an origin too: a cache must not give that answer to a page
            if origin and self._cors.is_allowed_origin(origin):
                headers["Access-Control-Allow-Origin"] = origin
        return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


def _is_preflight(head: Head) -> bool:
    return bool(head.method == "OPTIONS" and head.get(b"origin") and head.get(b"access-control-request-method"))


async def _no_app(*_: object) -> None:
    raise AssertionError("the access chain uses the middleware's rules alone")


def load_checks(names: Sequence[str]) -> list[Check]:
    """The callables that `http.checks` names.

    Raises:
        ConfigError: there is none by a name.
    """
    return [_load_check(name) for name in names]


def _load_check(name: str) -> Check:
    module, _, attribute = name.partition(":")
    try:
        check = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError(
            f"http.checks: {name!r} can't be imported ({type(error).__name__}: {error}); write module:function"
        ) from None
    if not callable(check) or inspect.isclass(check):
        raise ConfigError(f"http.checks: {name!r} is not a function; name one that takes a request's head")
    if any(kind(each) for kind in _NOT_CALLED for each in (check, getattr(check, "__call__", None))):  # noqa: B004
        raise ConfigError(
            f"http.checks: {name!r} is async or a generator, so nothing would run it; write a plain function"
        )
    try:
        inspect.signature(check).bind(Head("GET", "/", [], None))
    except TypeError as error:
        raise ConfigError(f"http.checks: {name!r} can't be called with a request's head alone ({error})") from None
    return check  # type: ignore[no-any-return]


_NOT_CALLED = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
