"""Bytes on a connection: requests good and bad for a property test, and a transport that keeps what a protocol does."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

IDLE_TURNS = 6
"""Turns of the event loop without any change after which nothing more happens."""


class RecordingTransport(asyncio.Transport):
    """Keeps the bytes that are written to it, and whether it is closed or paused. Like asyncio's, it ignores writes
    once it is closed, and tells the protocol of its end in the next turn of the event loop."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self.written = bytearray()
        self.closed = self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 9), "sockname": ("127.0.0.1", 80)}.get(name, default)

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def deliver(self, data: bytes) -> None:
        """Bytes have arrived."""
        self._protocol.data_received(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def outcome(make: Callable[[], asyncio.Protocol], pieces: Sequence[bytes]) -> tuple[list[bytes], bool, int]:
    """What a protocol answers to `pieces`: (its responses, whether it closes, the pieces that it reads).

    Dates and request ids that it makes itself are left out of the responses.
    """
    protocol = make()
    transport = RecordingTransport(protocol)
    protocol.connection_made(transport)
    read = 0
    for piece in pieces:
        await _settle(transport)
        if transport.closed or transport.paused:
            break
        transport.deliver(piece)
        read += 1
    await _settle(transport)
    closed, written = transport.closed, bytes(transport.written)
    transport.close()
    await _settle(transport)
    return _responses(written), closed, read


async def _settle(transport: RecordingTransport) -> None:
    unchanged, last = 0, -1
    while unchanged < IDLE_TURNS:
        await asyncio.sleep(0)
        now = len(transport.written) * 4 + transport.closed * 2 + transport.paused
        unchanged, last = (unchanged + 1, last) if now == last else (0, now)


_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_OWN = re.compile(rb"(date: [^\r]*\r\n|\b[0-9a-f]{32}\b)", re.IGNORECASE)


def _responses(written: bytes) -> list[bytes]:
    """Head by head, with the body as long as its head says. (A response to HEAD has no body; the next head follows.)"""
    found = []
    while written:
        end = written.find(b"\r\n\r\n") + 4
        assert end > 3, f"no response: {written[:200]!r}"
        length = _LENGTH.search(written[:end])
        body = int(length.group(1)) if length else 0
        if written[end : end + 9] == b"HTTP/1.1 ":
            body = 0
        head = sorted(_OWN.sub(b"", written[:end]).split(b"\r\n"))
        found.append(b"\n".join(head) + _OWN.sub(b"", written[end : end + body]))
        written = written[end + body :]
    return found


_BODY = b'{"user_id": "u1"}'
_METHODS = st.sampled_from([b"POST"] * 8 + [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"post", b"CONNECT", b"PO ST"])
_TARGETS = st.sampled_from(
    [b"/v1/recommend"] * 10
    + [b"/v1/rank", b"/v1/recommend?a=b", b"/v1/recommend#f", b"/v1/recommen%64", b"/v1/recommend%zz", b"*", b"/v1"]
    + [
        b"http://a/v1/recommend",
        b"v1/recommend",
        b"/v1/rec\x7fmend",
        b"/v1/\xc3\xa9",
        b"//v1/recommend",
        b"/v1/health/live",
    ]
    + [b'/v1/"recommend"', b"/v1/recommend ", b"/" + b"a" * 3000, b"", b"/v1/nowhere"]
)
_VERSIONS = st.sampled_from(
    [b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"http/1.1", b"XTTP/1.1"]
)
_HOSTS = st.sampled_from(
    [[b"Host: a"]] * 10 + [[], [b"Host: a", b"Host: b"], [b"Host:"], [b"Host: a b"], [b"HOST:a:80 "]]
)
_EXTRAS = st.lists(
    st.sampled_from([
        b"X-Request-ID: mine", b"X-Request-ID: a\x80", b"Connection: close", b"Connection: keep-alive",
        b"Expect: 100-continue", b"Expect: something", b"Connection: Upgrade\r\nUpgrade: h2c",
        b"Connection: Upgrade\r\nUpgrade: websocket", b"Accept: a,\r\n b", b"Bad : b", b": b", b"NoColon", b"A: \x00",
        b"A: b\rc", b"A: b\nC: d", b"Content-Encoding: gzip", b"Content-Encoding: br", b"Origin: http://shop.example",
        b"traceparent: 00-1", b"Content-Length: 17", b"Content-Length: 3", b"Content-Length: -1",
        b"Content-Length: 17 ",
        b"Content-Length: " + b"0" * 5000 + b"17",
        b"Transfer-Encoding: gzip, chunked", b"Authorization: nobody", b"Large: " + b"y" * 9000,
    ]),
    max_size=2,
)  # fmt: skip
_BODIES = st.sampled_from(
    [_BODY] * 6
    + [b"", b"{}", b"not json", b" " * 1500, gzip.compress(_BODY), gzip.compress(bytes(5000)), _BODY + b"\r\n"]
)
_FRAMINGS = st.sampled_from(["length"] * 5 + ["chunked", "chunked", "short", "long", "none", "broken chunks", "both"])


def _chunked(body: bytes, broken: bool) -> bytes:
    parts = [body[i : i + 7] for i in range(0, len(body), 7)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    end = b"0\r\nX-Request-ID: after\r\n\r\n" if len(body) % 2 else b"0\r\n\r\n"
    return chunks + (b"zz\r\n" if broken else end)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, good or bad."""
    body, framing = draw(_BODIES), draw(_FRAMINGS)
    lines = [b" ".join([draw(_METHODS), draw(_TARGETS), draw(_VERSIONS)]), *draw(_HOSTS), *draw(_EXTRAS)]
    if framing in ("length", "short", "long", "both"):
        lines.append(b"Content-Length: %d" % (len(body) + {"short": -1, "long": 3}.get(framing, 0)))
    if "chunk" in framing or framing == "both":
        lines.append(b"Transfer-Encoding: chunked")
        body = _chunked(body, broken=framing == "broken chunks")
    return b"\r\n".join([*lines, b"", body])


@st.composite
def connections(draw: st.DrawFn) -> list[bytes]:
    """The bytes of a connection, cut anywhere: some requests, one after another or pipelined, now and then damaged."""
    data = bytearray(b"".join(draw(st.lists(requests(), min_size=1, max_size=4))))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=5)))
    pieces = [bytes(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [piece for piece in pieces if piece]
