"""A TCP proxy between annexd and its array, which can fall silent or break a connection at any byte."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

from tests.support.ports import free_port

_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: a close is an RST
_CHUNK = 65536
_POLL_S = 0.02


class _Half:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, left: int | None, towards_array: bool) -> None:
        self.source = source
        self.sink = sink
        self.left = left  # bytes until it breaks
        self.towards_array = towards_array


class LinkProxy:
    """A proxy on a free port of 127.0.0.1 to another port there.

    Attributes:
        port: where it listens.
        connections: how many it has passed on.
        frozen: nothing is passed on, and nothing is closed.
        limit: how many bytes towards the array, and from it, the next connection lives for; None for ever.
        resets: it breaks with RST, else with FIN.
        delay_s: how long each piece of up to 64 KiB takes.
    """

    def __init__(self, to_port: int) -> None:
        self.port = free_port()
        self.connections = 0
        self.frozen = False
        self.limit: Callable[[], tuple[int | None, int | None]] = lambda: (None, None)
        self.resets = True
        self.delay_s = 0.0
        self._freeze_after: int | None = None
        self._break_after: int | None = None
        self._to_port = to_port
        self._halves: dict[socket.socket, _Half] = {}
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._ended = False
        self._broken = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        for source in list(self._halves):
            self._close(source)
        self._listener.close()
        self._selector.close()

    def freeze_after(self, count: int) -> None:
        """Fall silent once so many more bytes went towards the array."""
        self._freeze_after = count

    def break_after(self, count: int) -> None:
        """Break the connection that carries the last of so many more bytes towards the array."""
        self._break_after = count

    def break_now(self) -> None:
        """Break every connection."""
        self._broken.set()

    def thaw(self) -> None:
        """Pass on again what was held back."""
        self._freeze_after = None
        self.frozen = False

    def _run(self) -> None:
        while not self._ended:
            if self._broken.is_set():
                self._broken.clear()
                for source in list(self._halves):
                    self._close(source)
            for key, _ in self._selector.select(_POLL_S):
                if self.frozen:
                    threading.Event().wait(_POLL_S)
                    break
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._halves:
                    self._pass_on(self._halves[key.fileobj])

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._to_port))
        except OSError:
            near.close()
            return
        self.connections += 1
        out, back = self.limit()
        for half in (_Half(near, far, out, True), _Half(far, near, back, False)):
            half.source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._halves[half.source] = half
            self._selector.register(half.source, selectors.EVENT_READ)

    def _pass_on(self, half: _Half) -> None:
        size = _CHUNK if half.left is None else max(1, min(_CHUNK, half.left))
        if half.towards_array and self._freeze_after is not None:
            size = max(1, min(size, self._freeze_after))
        if half.towards_array and self._break_after is not None:
            size = max(1, min(size, self._break_after))
        if self.delay_s:
            threading.Event().wait(self.delay_s)
        try:
            data = half.source.recv(size)
            half.sink.sendall(data)
        except OSError:
            data = b""
        if half.left is not None:
            half.left -= len(data)
        breaks = False
        if half.towards_array and self._break_after is not None:
            self._break_after -= len(data)
            if breaks := self._break_after <= 0:
                self._break_after = None
        if not data or half.left == 0 or breaks:
            self._close(half.source)
        elif half.towards_array and self._freeze_after is not None:
            self._freeze_after -= len(data)
            self.frozen = self._freeze_after <= 0

    def _close(self, source: socket.socket) -> None:
        half = self._halves.get(source)
        if half is None:
            return
        for end in (half.source, half.sink):
            if self._halves.pop(end, None) is not None:
                self._selector.unregister(end)
            if self.resets:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            end.close()
