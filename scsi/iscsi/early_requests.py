"""Requests that came before one with a smaller CmdSN, kept until they are due.

On one connection that happens only when a request between was rejected, and can never be filled with some initiators;
so what is kept is bounded by the window, and its data by the session's memory.

Spec: RFC 7143 4.2.2.1 "Command Numbering and Acknowledging".
"""

from __future__ import annotations

from typing import NamedTuple

from scsi.iscsi.errors import ConnectionFault
from scsi.iscsi.pdu import Header


class EarlyRequest(NamedTuple):
    """One request as it came; `header` is empty for one that ABORT TASK has skipped."""

    header: Header
    ahs: bytes
    data: bytes


_SKIPPED = EarlyRequest((), b"", b"")


class EarlyRequests:
    """The early requests of one session.

    Attributes:
        requests: these by CmdSN; after every command the session looks whether there are any.
    """

    def __init__(self, max_bytes: int) -> None:
        """Begin empty; `max_bytes` is the most data to keep."""
        self.requests: dict[int, EarlyRequest] = {}
        self._bytes = 0
        self._max_bytes = max_bytes

    def keep(self, cmd_sn: int, header: Header, ahs: bytes, data: memoryview) -> None:
        """Keep a request; a second one of the same number is ignored.

        Raises:
            ConnectionFault: it is too much.
        """
        if cmd_sn in self.requests:
            return
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            raise ConnectionFault("too much data of requests that are not due yet")
        self.requests[cmd_sn] = EarlyRequest(header, ahs, bytes(data))

    def skip(self, cmd_sn: int) -> None:
        """Let a number count as received, with or without its request."""
        self.pop(cmd_sn)
        self.requests[cmd_sn] = _SKIPPED

    def pop(self, cmd_sn: int) -> EarlyRequest | None:
        """Return the request of this number and keep it no longer."""
        request = self.requests.pop(cmd_sn, None)
        if request is not None:
            self._bytes -= len(request.data)
        return request

    def clear(self) -> None:
        """Keep nothing any more."""
        self.requests.clear()
        self._bytes = 0
