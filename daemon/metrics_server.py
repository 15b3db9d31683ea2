"""Where Prometheus reads the metrics: GET /metrics over HTTP, on an address of this machine. A `daemon.Endpoint`.

Nobody is asked who he is there, so nothing but numbers and names is said, and little of the daemon's time is spent: few
connections, short waits, one exposition at a time, made by a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from config import model
from config.errors import ListenError
from daemon import metrics, statistics
from daemon.daemon import Daemon
from daemon.server_header import name_only

MAX_CONNECTIONS = 16  # the next one is closed at once
FIRST_REQUEST_LIMIT_S = 5.0
IDLE_LIMIT_S = 90.0  # longer than the usual time between two scrapes
CLOSE_LIMIT_S = 2.0
MAX_WAITING = 4  # more scrapes at a time get 503

Address = tuple[str, int]


class MetricsServer:
    """The metrics of a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._address: Address | None = None
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._making = asyncio.Lock()
        self._waiting = 0

    async def listen(self, config: model.Config) -> None:
        """Listen where `config.metrics` says, or nowhere; see `Endpoint`.

        Raises:
            ListenError: that can not be; then it listens where it did.
        """
        wanted = model.split_portal(config.metrics.listen) if config.metrics else None
        if wanted == self._address:
            return
        old_runner, old_server = self._runner, self._server
        if wanted is None:
            self._runner = self._server = None
        else:
            await self._open(wanted)
        self._address = wanted
        if old_server is not None:
            old_server.close()
        if old_runner is not None:
            await old_runner.cleanup()

    async def close(self) -> None:
        """Listen nowhere."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = self._server = self._address = None

    async def _open(self, address: Address) -> None:
        silent: dict[Any, asyncio.TimerHandle] = {}  # connections that have asked nothing yet

        @web.middleware
        async def heard(request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
            timer = silent.pop(request.protocol, None)
            if timer is not None:
                timer.cancel()
            response: web.StreamResponse = await handler(request)
            return response

        app = web.Application(middlewares=[heard], client_max_size=0)
        name_only()
        app.router.add_get("/metrics", self._answer, allow_head=False)
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, keepalive_timeout=IDLE_LIMIT_S, shutdown_timeout=CLOSE_LIMIT_S
        )
        await runner.setup()
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.BaseProtocol:
            server = runner.server
            assert server is not None
            handler = server()
            limit_s = FIRST_REQUEST_LIMIT_S if len(server.connections) < MAX_CONNECTIONS else 0.0
            silent[handler] = loop.call_later(limit_s, end, handler)
            return handler

        def end(handler: Any) -> None:
            del silent[handler]
            if handler.transport is not None:
                handler.transport.abort()

        try:
            self._server = await loop.create_server(connection, *address, backlog=MAX_CONNECTIONS)
        except (OSError, UnicodeError) as error:
            await runner.cleanup()
            reason = error.strerror if isinstance(error, OSError) else error
            raise ListenError(
                "metrics.listen", f"{model.join_portal(*address)} can not be listened on: {reason}"
            ) from None
        self._runner = runner

    async def _answer(self, request: web.Request) -> web.Response:
        if self._waiting >= MAX_WAITING:
            return web.Response(status=503, text="busy\n")
        self._waiting += 1
        try:
            async with self._making:
                counted = statistics.collect(self._daemon, asyncio.get_running_loop().time())
                body = await asyncio.to_thread(metrics.text, counted)
        finally:
            self._waiting -= 1
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
