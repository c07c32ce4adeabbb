"""Inflates request bodies that were sent with `Content-Encoding: gzip`."""

from __future__ import annotations

import zlib

from deployments.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding

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
        while True:  # one gzip member after another (RFC 1952)
            member = zlib.decompressobj(_GZIP)
            inflated += member.decompress(body, most_bytes + 1 - len(inflated))
            if len(inflated) > most_bytes:
                raise BodyTooLarge(most_bytes)
            if not member.eof:
                raise zlib.error("it ends too early")
            if not (body := member.unused_data):
                return bytes(inflated)
    except zlib.error as error:
        raise InvalidRequest([("body", f"Content-Encoding says gzip, but it is not valid gzip ({error})")]) from None
