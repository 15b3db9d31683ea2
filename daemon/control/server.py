"""Where the control API listens: on Unix sockets, and over TLS if the configuration says so. A `daemon.Endpoint`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from config import model
from config.errors import ConfigError, ListenError
from daemon.control import openapi, sockets
from daemon.control.authorization import Right, peer_right, token_right
from daemon.control.requests import application
from daemon.control.route import Control
from daemon.daemon import Daemon

FIRST_REQUEST_LIMIT_S = 5.0  # a connection that has asked nothing by then is closed; its TLS handshake has as long
IDLE_LIMIT_S = 30.0
CLOSE_LIMIT_S = 5.0
MAX_CONNECTIONS = 256  # of one listener; the next one is closed at once

_log = logging.getLogger(__name__)


class Spec(NamedTuple):
    """One place to listen at: a Unix socket with its groups, or an address with TLS.

    Attributes:
        path: of the Unix socket, "" for TLS.
        read_only: it only answers questions.
        admin_groups, reader_groups: who is let in.
        tcp: address, certificate, key and token file.
    """

    path: str = ""
    read_only: bool = False
    admin_groups: tuple[str, ...] = ()
    reader_groups: tuple[str, ...] = ()
    tcp: tuple[str, str, str, str] | None = None


class ControlServer:
    """The control API of a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._control = Control(daemon)
        self._document = msgspec.json.encode(openapi.document())
        self._listeners: dict[Spec, _Listener] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def listen(self, config: model.Config) -> None:
        """Listen where `config.control` says, or at its defaults; see `Endpoint`.

        Raises:
            ConfigError: that can not be; then it listens where it did.
        """
        wanted = _specs(config.control or model.Control())
        # Another group for a socket that stays is a new socket at its path: the old one must make way first.
        paths = {spec.path for spec in wanted if spec.path and spec not in self._listeners}
        displaced = [spec for spec in self._listeners if spec.path in paths]
        for spec in displaced:
            self._listeners[spec].withdraw()
        made: dict[Spec, _Listener] = {}
        try:
            for spec in wanted:
                if spec not in self._listeners:
                    made[spec] = await self._open(spec)
        except ConfigError:
            for listener in made.values():
                listener.withdraw()
                await listener.close()
            for spec in displaced:
                await self._listeners.pop(spec).close()
                with suppress(ConfigError):
                    self._listeners[spec] = await self._open(spec)
            raise
        gone = [self._listeners.pop(spec) for spec in list(self._listeners) if spec not in wanted]
        self._listeners |= made
        for listener in gone:
            listener.withdraw()
            # Not awaited: the request that has changed the section is one of those that are still answered.
            task = asyncio.ensure_future(listener.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Answer what is under way, and listen nowhere."""
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            listener.withdraw()
        await asyncio.gather(*(listener.close() for listener in listeners.values()), *self._closing)

    async def _open(self, spec: Spec) -> _Listener:
        context: ssl.SSLContext | None = None
        if spec.tcp is None:
            readers = spec.reader_groups if spec.read_only else None

            def right_of(request: web.Request) -> Right:
                if request.transport is None:  # gone already
                    return Right.NOTHING
                return peer_right(request.transport.get_extra_info("socket"), spec.admin_groups, readers)

            listening = sockets.listen_unix(Path(spec.path), spec.reader_groups or spec.admin_groups)
        else:
            tcp = _tcp(spec.tcp)
            token = sockets.read_token(tcp)
            context = sockets.tls_context(tcp)

            def right_of(request: web.Request) -> Right:
                return token_right(request.headers.get("Authorization", ""), token)

            listening = _listen_tcp(tcp)
        listener = _Listener(application(self._control, right_of, self._document), spec.path)
        await listener.start(listening, context)
        return listener


class _Listener:
    """One socket, and the connections that came in there."""

    def __init__(self, app: web.Application, path: str) -> None:
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, keepalive_timeout=IDLE_LIMIT_S, shutdown_timeout=CLOSE_LIMIT_S
        )
        self._path = path
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._silent: dict[Any, asyncio.TimerHandle] = {}
        app.middlewares.insert(0, self._heard)

    async def start(self, listening: socket.socket, context: ssl.SSLContext | None) -> None:
        """Serve what connects."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        if self._path:
            self._inode = os.lstat(self._path).st_ino
            self._server = await loop.create_unix_server(self._connection, sock=listening)
        else:
            limit_s = None if context is None else FIRST_REQUEST_LIMIT_S
            self._server = await loop.create_server(
                self._connection, sock=listening, ssl=context, ssl_handshake_timeout=limit_s
            )

    def withdraw(self) -> None:
        """Take no more connections, and give the path back."""
        if self._server is not None:
            self._server.close()
        path = Path(self._path)
        with suppress(OSError):
            if self._path and path.lstat().st_ino == self._inode:  # not another daemon's
                path.unlink()

    async def close(self) -> None:
        """Answer what is under way, and end all connections."""
        await self._runner.cleanup()
        for timer in self._silent.values():
            timer.cancel()

    def _connection(self) -> asyncio.BaseProtocol:
        assert self._runner.server is not None
        handler = self._runner.server()
        loop = asyncio.get_running_loop()
        limit_s = FIRST_REQUEST_LIMIT_S if len(self._runner.server.connections) < MAX_CONNECTIONS else 0.0
        self._silent[handler] = loop.call_later(limit_s, self._too_silent, handler, True)
        return handler

    def _too_silent(self, handler: Any, first: bool) -> None:
        if handler.transport is not None:
            del self._silent[handler]
            handler.transport.abort()
        elif first:  # in its TLS handshake, which has as long itself: a request must follow in the same time
            loop = asyncio.get_running_loop()
            self._silent[handler] = loop.call_later(FIRST_REQUEST_LIMIT_S, self._too_silent, handler, False)
        else:
            del self._silent[handler]

    @web.middleware
    async def _heard(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        timer = self._silent.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()
        response: web.StreamResponse = await handler(request)
        return response


def _specs(control: model.Control) -> list[Spec]:
    admins, readers = tuple(control.admin_groups), tuple(control.reader_groups)
    specs = [Spec(control.socket, admin_groups=admins)]
    if control.read_only_socket is not None:
        specs.append(Spec(control.read_only_socket, read_only=True, admin_groups=admins, reader_groups=readers))
    if control.tcp is not None:
        tcp = control.tcp
        specs.append(Spec(tcp=(tcp.listen, tcp.certificate, tcp.key, tcp.token_file)))
    return specs


def _tcp(fields: tuple[str, str, str, str]) -> model.ControlTcp:
    listen, certificate, key, token_file = fields
    return model.ControlTcp(listen=listen, certificate=certificate, key=key, token_file=token_file)


def _listen_tcp(config: model.ControlTcp) -> socket.socket:
    host, port = model.split_portal(config.listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(64)
    except OSError as error:
        made.close()
        raise ListenError("control.tcp.listen", f"{config.listen} can not be listened on: {error.strerror}") from None
    return made
