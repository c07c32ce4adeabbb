"""HTTP as callers send it, on the real server: through HAProxy, by the fast path and by uvicorn and Serve."""

from __future__ import annotations

import gzip
import json
import socket

import pytest

from tests.e2e.conftest import SHOP
from tests.e2e.test_logs import request_lines
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster

BODY = {"user_id": "u1", "n": 3, "deadline_ms": 10_000}
PATHS = pytest.mark.parametrize(
    "path", ["/v1/recommend", "/v1/recommend?slow=1"], ids=["fast path", "uvicorn and Serve"]
)
HEADERS = {"Content-Type": "application/json"}


def ask(cluster: Cluster, head: bytes) -> int:
    """The status of a request that is sent as it stands."""
    with socket.create_connection(("127.0.0.1", cluster.http_port), timeout=20) as sock:
        sock.sendall(head)
        return int(sock.makefile("rb").readline().split()[1])


@PATHS
def test_head_body_log_line_and_trace_carry_one_request_id(observed: Cluster, path: str) -> None:
    for given in ("mine-1", "a b", None):
        headers = HEADERS | ({"X-Request-ID": given} if given else {})
        answer = observed.client.post(path, json=BODY, headers=headers)
        request_id = answer.json()["request_id"]
        assert answer.headers.get_list("x-request-id") == [request_id]
        assert (request_id == given) == (given == "mine-1")
        line = wait_for("the request's line", lambda: request_lines(observed).get(request_id))  # noqa: B023
        assert (line["trace.id"] == request_id) == (given != "mine-1"), (
            "an id that can't be a trace's has one beside it"
        )
        refused = observed.client.post(path, json={}, headers=headers)
        assert refused.status_code == 422
        assert refused.headers.get_list("x-request-id") == [refused.json()["request_id"]]


def test_what_no_operation_sees_has_its_line_too(observed: Cluster) -> None:
    asked = [("/v1/nowhere", {}, 404), ("/v1/recommend", {"content": bytes(2_000_000)}, 413)]
    for path, sent, status in asked:
        answer = observed.client.post(path, **sent)
        assert answer.status_code == status
        request_id = answer.json()["request_id"]
        line = wait_for("the request's line", lambda: request_lines(observed).get(request_id))  # noqa: B023
        assert line["http.response.status_code"] == status


@PATHS
def test_pages_of_the_configured_origin_may_read_answers_and_refusals(observed: Cluster, path: str) -> None:
    preflight = {
        "Origin": SHOP,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    allowed = observed.client.options(path, headers=preflight)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, SHOP)
    assert observed.client.options(path, headers=preflight | {"Origin": "https://other.example"}).status_code == 400
    for body, status in ((BODY, 200), ({}, 422)):
        answer = observed.client.post(path, json=body, headers={"Origin": SHOP})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, SHOP)


@PATHS
def test_gzip_bodies_are_read_within_the_limit(observed: Cluster, path: str) -> None:
    def post(content: bytes, encoding: str = "gzip") -> int:
        headers = HEADERS | {"Content-Encoding": encoding}
        return observed.client.post(path, content=content, headers=headers).status_code

    whole = gzip.compress(json.dumps(BODY).encode())
    assert post(whole) == 200
    assert post(whole[:-4]) == 422
    assert post(whole[:-4] + b"\xff\0\0\0") == 422, "it lies about its length"
    assert post(gzip.compress(bytes(50 * 2**20))) == 413
    assert post(whole, "br") == 415


@PATHS
def test_a_request_names_one_host_and_one_valid_target(observed: Cluster, path: str) -> None:
    body = json.dumps(BODY).encode()

    def post(host: bytes, target: bytes = path.encode()) -> int:
        length = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        return ask(observed, b"POST " + target + b" HTTP/1.1\r\n" + host + HEAD_TYPE + length + body)

    assert post(b"Host: a\r\n") == 200
    assert post(b"") == 400
    assert post(b"Host: a\r\nHost: b\r\n") == 400
    assert post(b"Host: a\r\n", path.encode() + b"#f") == 400
    assert post(b"Host: a\r\n", b"/v1/recommend%zz") == 400


HEAD_TYPE = b"Content-Type: application/json\r\n"


def test_head_is_answered_wherever_get_is(observed: Cluster) -> None:
    for path in ("/v1/health/live", "/v1/health/ready", "/metrics", "/openapi.json", "/docs"):
        head = observed.client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == observed.client.get(path).headers["content-type"]
