"""Draining a portal: its sessions are asked to go, and in the end made to, and the log says how that went.

A drain is for work on a network or before a stop, and lives as long as this process: a portal that is open after a
restart admits hosts, as the configuration says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

_log = logging.getLogger(__name__)


class DrainedConnection(Protocol):
    """What a drain does with a connection of its portal."""

    def request_logout(self, within_s: int) -> None:
        """Ask the host to log out."""

    def drop(self) -> None:
        """End it from this side."""

    @property
    def discovering(self) -> bool:
        """Whether it carries a Discovery session, which ends by itself."""

    @property
    def in_session(self) -> bool:
        """Whether it carries a session that hosts do their work in."""


class Drain:
    """One drain, from the order to the end of the last session.

    Args:
        portal: its address, for the log.
        connections: gives those that the portal has now.
        within_s: hosts are asked to log out within this time, and dropped after it.
    """

    def __init__(self, portal: str, connections: Callable[[], Iterable[DrainedConnection]], within_s: int) -> None:
        self._portal = portal
        self._connections = connections
        self._asked = {connection for connection in connections() if connection.in_session}
        self._left = set(self._asked)
        self._over = False
        self._timer = asyncio.get_running_loop().call_later(within_s, self._time_is_up)
        _log.info(
            "draining %s: sessions asked to log out within %d s: %d",
            portal,
            within_s,
            len(self._asked),
            extra={"event": "drain_begun"},
        )
        for connection in list(connections()):
            connection.request_logout(within_s)
        self._look(0)

    def closed(self, connection: DrainedConnection) -> None:
        """Take note that a connection is gone."""
        self._left.discard(connection)
        self._look(0)

    def cancel(self) -> None:
        """Drop nobody after all: the portal admits sessions again."""
        self.close()
        _log.info(
            "%s admits sessions again; of those before, still there: %d",
            self._portal,
            len(self._left),
            extra={"event": "drain_cancelled"},
        )

    def close(self) -> None:
        """End it without a word: there will be another, or the portal goes."""
        self._over = True
        self._timer.cancel()

    def _time_is_up(self) -> None:
        dropped = len(self._left)
        self._left.clear()
        self._look(dropped)
        # Also those that were in their login, and were asked nothing. Discovery sessions end by themselves.
        for connection in list(self._connections()):
            if not connection.discovering:
                connection.drop()

    def _look(self, dropped: int) -> None:
        if self._left or self._over:
            return
        self._over = True
        _log.info(
            "%s is drained: sessions that logged out: %d, that were dropped: %d",
            self._portal,
            len(self._asked) - dropped,
            dropped,
            extra={"event": "drain_ended"},
        )
