"""uvicorn's HTTP protocol, made strict. Every connection of an ingress replica has it, if uvicorn is as tested.

uvicorn with httptools answers requests that RFC 9112 wants refused: without a Host, or with two. They are 400 here, and
so are targets and versions that HTTP/1.1 does not know. Every request has one request id: the caller's if it is sane,
else a new one. Serve and the application read it from the headers.
"""

from __future__ import annotations

import string
from collections import deque
from collections.abc import Sequence
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from deployments.api.access import sane_request_id
from deployments.api.responses import problem
from deployments.errors import MalformedRequest
from monitoring.logs.context import new_id

_ALNUM = (string.ascii_letters + string.digits).encode()
_TARGET = _ALNUM + b"-._~!$&'()*+,;=:@/?%[]"
"""RFC 3986: the characters of a path and a query, without `#`."""
_HOST = _ALNUM + b"-._~!$&'()*+,;=:%[]"
_BLANK = b" \t"
"""Blanks around a header's value; httptools keeps the trailing ones."""
_VERSIONS = ("1.1", "1.0")

Headers = Sequence[tuple[bytes, bytes]]
"""(name in lower case, value), as they came."""


def head_fault(target: bytes, headers: Headers, version: str) -> str:
    """Why a request with this head is refused with 400; empty: it is not."""
    if version not in _VERSIONS:
        return f"HTTP/{version} is not served; send HTTP/1.1"
    if target.translate(None, _TARGET) or (b"%" in target and not _percent_encoded(target)):
        return "the target has characters that a URL must not have; percent-encode them"
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return f"{len(hosts)} Host headers; send one"
    if hosts and hosts[0].strip(_BLANK).translate(None, _HOST):
        return "the Host header is no host and port"
    return ""


def _announces_body(headers: Headers) -> bool:
    length = any(name == b"content-length" and value.strip(_BLANK + b"0") for name, value in headers)
    return length or any(name == b"transfer-encoding" for name, _ in headers)


def _percent_encoded(target: bytes) -> bool:
    """Whether two hexadecimal digits follow every `%`."""
    hexadecimal = string.hexdigits.encode()
    return all(len(part) >= 2 and not part[:2].translate(None, hexadecimal) for part in target.split(b"%")[1:])


class HttpProtocol(HttpToolsProtocol):
    """A connection. A request that can't be parsed gets its 400 after the responses to those before it."""

    _fault = ""
    """Why the rest of the connection can't be read."""
    _in_head = True
    """Whether fields belong to the head; those after a chunked body (trailers) are dropped."""
    headers: list[tuple[bytes, bytes]]
    cycle: Any
    """The latest request: uvicorn's `RequestResponseCycle`, or one of a subclass' own; None: none yet."""
    pipeline: deque[Any]
    """(request, application) of those that wait for the responses before them, the next one last."""

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # Ignored, as RFC 9110 (7.8) allows. The parser ends there; what follows is the next request.
                data = data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            except httptools.HttpParserError:
                self.send_400_response("it can't be parsed")
                return

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def _should_upgrade(self) -> bool:
        return False

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.parser.should_upgrade() and _announces_body(self.headers):
            self._fault = "a request with a body can't ask for an upgrade; leave out Upgrade"
            raise ValueError(self._fault)  # httptools does not read the body then
        if fault := head_fault(self.url, self.headers, self.parser.get_http_version()):
            self._fault = fault
            raise ValueError(fault)  # httptools ends parsing, uvicorn calls `send_400_response`
        self._keep_one_request_id()
        self.begin_request()

    def begin_request(self) -> None:
        """The head of a request is there."""
        super().on_headers_complete()

    def _keep_one_request_id(self) -> None:
        request_id, headers = self._own_request_id(), self.headers
        if any(name == b"x-request-id" for name, _ in headers):
            headers[:] = [header for header in headers if header[0] != b"x-request-id"]
        headers.append((b"x-request-id", request_id))

    def _own_request_id(self) -> bytes:
        """The id that the caller gave the latest request, if it is a sane one; else a new one."""
        given = [value.strip(_BLANK) for name, value in self.headers or () if name == b"x-request-id"]
        return given[0] if len(given) == 1 and sane_request_id(given[0]) else new_id().encode()

    def send_400_response(self, msg: str) -> None:
        self._fault = self._fault or msg
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and (self.pipeline or not cycle.more_body):
            self.flow.pause_reading()  # after the responses to the requests before it
        else:
            self._end_with_400()

    def _end_with_400(self) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            request_id = self._own_request_id()
            response = problem(MalformedRequest(self._fault), request_id.decode())
            headers = [*response.raw_headers, (b"x-request-id", request_id)]
            self.write_response(response.status_code, headers, bytes(response.body), close=True)
            self.refused_malformed(request_id.decode())
        self.transport.close()

    def refused_malformed(self, request_id: str) -> None:
        """A request was refused with 400."""

    def write_response(self, status: int, headers: Headers, body: bytes, close: bool) -> None:
        """Writes a whole response."""
        lines = [STATUS_LINE[status], *(b"%b: %b\r\n" % header for header in self.server_state.default_headers)]
        lines += [b"%b: %b\r\n" % header for header in headers]
        lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
        self.transport.write(b"".join([*lines, body]))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._fault and self.cycle.response_complete and not self.transport.is_closing():
            self._end_with_400()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self._fault and cycle.more_body:
            self._end_with_400()  # its body can't be read
        else:
            super()._start_asgi_task(cycle, app)
