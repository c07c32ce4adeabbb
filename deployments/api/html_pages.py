"""The pages for a browser: the demo at /, and drift. Each allows only its own scripts and styles."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse

from deployments.api.schemas import Body, Id, parse

PAGE = Path(__file__).parent / "pages" / "demo.html"
DRIFT_PAGE = Path(__file__).parent / "pages" / "drift.html"
_CLOSED = "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"


class PageOperations(Protocol):
    """What the pages show; `deployments.api.operations.Recommender`."""

    async def history(self, user_id: str) -> list[dict[str, Any]]: ...
    async def drift(self) -> dict[str, Any]: ...
    async def drift_page(self, name: str) -> str: ...
    def example_users(self) -> list[str]: ...


class _User(Body):
    user_id: Id
    """The user whose history is shown."""


def add_drift_pages(app: FastAPI, operations: PageOperations) -> None:
    """/drift, and Evidently's reports below it."""
    template = DRIFT_PAGE.read_text("utf-8")

    @app.get("/drift", include_in_schema=False)
    async def verdicts() -> HTMLResponse:
        await operations.drift()  # a problem document, not an empty page, where there is nothing to show
        return _page(template)

    @app.get("/drift/{name}", include_in_schema=False)
    async def report(name: str) -> HTMLResponse:
        # Evidently's page has its own scripts; without allow-same-origin they can't act as this site.
        policy = f"sandbox allow-scripts; default-src 'unsafe-inline' data: blob:; {_CLOSED}"
        return HTMLResponse(await operations.drift_page(name), headers={"Content-Security-Policy": policy})


def _page(template: str) -> HTMLResponse:
    """One of our own pages: only the scripts and styles that carry the nonce."""
    nonce = secrets.token_urlsafe()
    policy = f"default-src 'self'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; {_CLOSED}"
    return HTMLResponse(template.replace("NONCE", nonce), headers={"Content-Security-Policy": policy})


def add_demo(app: FastAPI, operations: PageOperations) -> None:
    """The page at /, and the routes that it reads."""

    @app.get("/demo/history", include_in_schema=False)
    async def history(user_id: str = "") -> Response:
        user = parse(_User, {"user_id": user_id})
        return _json({"events": await operations.history(user.user_id)})

    @app.get("/demo/users", include_in_schema=False)
    async def users() -> Response:
        return _json({"user_ids": operations.example_users()})

    template = PAGE.read_text("utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return _page(template)


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
