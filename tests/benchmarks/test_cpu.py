"""The part of the ingress that a sample of py-spy counts for."""

from __future__ import annotations

from benchmarks.serving.cpu import part_of, shares

LOOP = "run_forever (asyncio/base_events.py:607);_run (asyncio/events.py:84)"
HTTP = f"{LOOP};_direct_ingress_asgi (ray/serve/_private/replica.py:3180);__call__ (deployments/api/http.py:210)"


def test_a_sample_counts_for_the_innermost_part_it_is_in() -> None:
    assert part_of(HTTP) == "ours: HTTP"
    assert part_of(f"{HTTP};model_validate_json (pydantic/main.py:746)") == "ours: HTTP"
    assert part_of(f"{HTTP};send (uvicorn/protocols/http/httptools_impl.py:500)") == "uvicorn, Starlette, FastAPI"
    assert (
        part_of(f"{HTTP};parse (deployments/api/schemas.py:99);validate (pydantic/main.py:7)")
        == "ours: validation, answer"
    )
    assert part_of(LOOP) == "event loop"


def test_threads_that_wait_do_not_count() -> None:
    waiting = "run (threading.py:982);_worker (concurrent/futures/thread.py:81)"
    assert shares([f"{waiting} 900", f"{HTTP} 3", f"{LOOP} 1"]) == {
        "ours: HTTP": 0.75,
        "event loop": 0.25,
    }
