"""Keyed hashes in place of user ids, for log lines and drift samples."""

from __future__ import annotations

import hashlib
import os
import secrets

KEY_VARIABLE = "RAYFUNNEL_LOG_KEY"
"""Environment variable with the key of the hashes: the same in every process whose lines are to be compared."""


class Pseudonyms:
    """The same user has the same pseudonym; without the key nobody can compute it."""

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.blake2b(key, digest_size=32).digest()

    @classmethod
    def of(cls, fallback: bytes) -> Pseudonyms:
        """With the key in the environment variable, else `fallback`."""
        return cls(os.environ.get(KEY_VARIABLE, "").encode() or fallback)

    @classmethod
    def random(cls) -> Pseudonyms:
        """With a random key."""
        return cls(secrets.token_bytes(32))

    def text(self, user_id: str) -> str:
        """For log lines: 32 hexadecimal digits."""
        return self._digest(user_id, 16, b"rayfunnel log").hex()

    def number(self, user_id: str) -> int:
        """For drift samples: 64 bits, not related to `text`."""
        return int.from_bytes(self._digest(user_id, 8, b"rayfunnel drift"), "big")

    def _digest(self, user_id: str, size: int, purpose: bytes) -> bytes:
        text = user_id.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=size, key=self._key, person=purpose).digest()
