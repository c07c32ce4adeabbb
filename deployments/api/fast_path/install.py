"""Puts our protocol in the place of uvicorn's, if uvicorn is as tested; else leaves everything to uvicorn."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from deployments.api.fast_path.listener import Factory, Wrap
from deployments.api.fast_path.routes import FastPath

log = logging.getLogger("rayfunnel.http")

_ARGUMENTS = ("config", "server_state", "app_state", "_loop")
_METHODS = (
    "_should_upgrade", "_start_asgi_task", "_unset_keepalive_if_required", "connection_lost", "on_body", "on_header",
    "on_headers_complete", "on_message_begin", "on_message_complete", "on_response_complete", "send_400_response",
)  # fmt: skip
_FIELDS = (
    "app", "client", "connections", "cycle", "expect_100_continue", "flow", "headers", "loop", "parser", "pipeline",
    "root_path", "server_state", "tasks", "transport",
)  # fmt: skip
_FLOW = ("drain", "pause_reading", "resume_reading", "write_paused")


def replacing_uvicorns(fast_path: FastPath, unsupported: Callable[[], None]) -> Wrap:
    """Wraps the protocol factory of uvicorn's server: its connections are `FastPathConnection`s. `unsupported`: called
    if uvicorn is not as tested, and its protocol stays."""

    def wrap(factory: Factory) -> Factory:
        if not _of_uvicorn(factory):
            return factory  # another server of this event loop
        try:
            from deployments.api.fast_path.connection import FastPathConnection

            probe: Any = factory()
            if missing := _missing(probe):
                raise TypeError(missing)
            arguments = {"config": probe.config, "server_state": probe.server_state, "app_state": probe.app_state}
            FastPathConnection(fast_path, **arguments)
        except Exception as error:
            log.warning(
                "uvicorn is not as this version was tested with (%s), so it answers every request itself, at more CPU "
                "time each; install the versions of constraints.txt",
                error,
            )
            unsupported()
            return factory
        return lambda: FastPathConnection(fast_path, **arguments)

    return wrap


def _of_uvicorn(factory: Any) -> bool:
    while isinstance(factory, functools.partial):
        factory = factory.func
    return str(getattr(factory, "__module__", "")).startswith("uvicorn.")


def _missing(probe: Any) -> str:
    """What the protocol needs of uvicorn's and does not find; empty: nothing."""
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    if type(probe) is not HttpToolsProtocol:
        return f"its HTTP protocol is {type(probe).__name__}, not HttpToolsProtocol"
    arguments = tuple(inspect.signature(HttpToolsProtocol).parameters)
    if arguments != _ARGUMENTS:
        return f"HttpToolsProtocol takes {', '.join(arguments)}"
    missing = [name for name in (*_METHODS, *_FIELDS) if not hasattr(probe, name)]
    missing += [f"flow.{name}" for name in _FLOW if not hasattr(FlowControl(probe.transport), name)]
    return f"HttpToolsProtocol has no {', '.join(missing)}" if missing else ""
