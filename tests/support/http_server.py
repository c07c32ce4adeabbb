"""The application's HTTP on a real socket, without Ray: uvicorn with the fast path, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from deployments.api.access import AccessChain
from deployments.api.fast_path.install import replacing_uvicorns
from deployments.api.fast_path.listener import accept_all
from deployments.api.fast_path.routes import FastPath
from deployments.api.http import HttpConfig, make_app
from deployments.api.operations import Recommender
from tests.deployments.api.fast_path.test_listener import listening


@contextmanager
def http_server(build: Callable[[], Recommender], config: HttpConfig) -> Iterator[str]:
    """Serves what `build` makes; yields the URL."""
    sock = listening()
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        recommender, access = build(), AccessChain(config.cors)
        await recommender.readiness.warm_up()
        fast_path = FastPath(recommender, access, config.max_body_bytes)
        accept_all(asyncio.get_running_loop(), replacing_uvicorns(fast_path, lambda: None))
        app = make_app(recommender, config, access, fast_path.routes)
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        servers.append(server)
        await server.serve(sockets=[sock])

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while not (servers and servers[0].started):
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        host, port = sock.getsockname()
        yield f"http://{host}:{port}"
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(20)
