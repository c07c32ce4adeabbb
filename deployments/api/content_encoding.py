"""Inflates request bodies that were sent with `Content-Encoding: gzip`."""

from __future__ import annotations

import zlib

from deployments.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding

MOST_MEMBERS = 100
"""gzip members of a body. Each costs a copy of what follows it, so more would take the event loop for seconds."""
_GZIP = 31
"""zlib's `wbits` for the gzip format alone."""


def decoded(body: bytes, encoding: bytes, most_bytes: int) -> bytes:
    """The body as its caller wrote it. `encoding`: the value of Content-Encoding, empty if there is none.

    Never makes more than `most_bytes` + 1 bytes of it.

    Raises:
        UnsupportedEncoding: the encoding is not gzip.
        BodyTooLarge: the body inflates to more than `most_bytes`.
        InvalidRequest: it is not gzip, or not complete.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name not in (b"gzip", b"x-gzip"):
        raise UnsupportedEncoding(encoding.decode("latin-1"))
    inflated = bytearray()
    try:
        for _ in range(MOST_MEMBERS):  # one after another (RFC 1952)
            member = zlib.decompressobj(_GZIP)
            inflated += member.decompress(body, most_bytes + 1 - len(inflated))
            if len(inflated) > most_bytes:
                raise BodyTooLarge(most_bytes)
            if not member.eof:
                raise zlib.error("it ends too early")
            if not (body := member.unused_data):
                return bytes(inflated)
        raise zlib.error(f"more than {MOST_MEMBERS} members")
    except zlib.error as error:
        raise InvalidRequest([("body", f"Content-Encoding says gzip, but it is not valid gzip ({error})")]) from None
