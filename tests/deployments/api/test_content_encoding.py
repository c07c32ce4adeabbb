"""Bodies sent with gzip: inflated up to the limit, and no further."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.api.content_encoding import decoded
from deployments.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding

LIMIT = 2**20


@given(st.binary(max_size=5000), st.integers(1, 3))
def test_a_body_comes_back_as_it_was_whatever_its_members(body: bytes, members: int) -> None:
    step = max(1, len(body) // members)
    parts = [body[i : i + step] for i in range(0, len(body), step)] or [b""]
    assert decoded(b"".join(map(gzip.compress, parts)), b"gzip", LIMIT) == body


@pytest.mark.parametrize("encoding", [b"", b"identity", b" Identity "])
def test_a_plain_body_stays_as_it_is(encoding: bytes) -> None:
    assert decoded(b"plain", encoding, LIMIT) == b"plain"


@pytest.mark.parametrize("members", [1, 90])
def test_a_bomb_is_refused_before_it_is_inflated(members: int) -> None:
    bomb = gzip.compress(bytes((200 * LIMIT) // members)) * members
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        decoded(bomb, b"gzip", LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * LIMIT


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        gzip.compress(b"{}")[:-3],
        gzip.compress(b"{}")[:5],
        gzip.compress(b"{}") + b"more",
        gzip.compress(b"{}")[:-4] + b"\xff\0\0\0",
    ],
    ids=["empty", "plain", "cut short", "head alone", "more after it", "a lie about its length"],
)
def test_what_is_not_whole_gzip_is_refused_by_name(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not valid gzip"):
        decoded(body, b"gzip", LIMIT)


def test_a_body_of_very_many_members_is_refused_in_little_time() -> None:
    with pytest.raises(InvalidRequest, match="more than 100 members"):
        decoded(gzip.compress(b"") * 50_000, b"gzip", LIMIT)


@pytest.mark.parametrize("encoding", [b"br", b"deflate", b"gzip, gzip", b"zstd", b"x" * 5000])
def test_other_encodings_are_415(encoding: bytes) -> None:
    with pytest.raises(UnsupportedEncoding, match="send gzip or none") as refused:
        decoded(b"{}", encoding, LIMIT)
    assert refused.value.status == 415
    assert len(str(refused.value)) < 200
