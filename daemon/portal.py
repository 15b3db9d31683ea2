"""The sockets that hosts log in to: an asyncio protocol per connection around `scsi.iscsi.connection.Connection`.

One wake-up of a connection is: bytes from the socket straight into the buffer that the protocol core names, every
complete command in them executed, and all that these left to send written in one call. A completion that comes later,
from a worker thread or the external array, asks for one more write at the end of the loop's present turn.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Protocol, cast

from daemon.deadline import Deadline
from daemon.draining import Drain
from daemon.host_history import HostHistory
from daemon.latency_sampler import NEVER, LatencySampler
from scsi.iscsi.connection import Connection
from scsi.iscsi.directory import Addresses, TargetDirectory
from scsi.iscsi.errors import LoginStatus
from scsi.iscsi.events import Event, LoggedIn, LoginFailed, ProtocolFault, ScsiCommand, SessionEnded, TaskManagement
from scsi.iscsi.registry import SessionRegistry
from scsi.iscsi.session import Session
from scsi.target import execute_without_unit

BACKLOG = 1024
MAX_IN_LOGIN = 2048  # conformance.md V41: above it the oldest half-open login is closed, and never an address banned
# Large reads go out while the next ones of the same wake-up are read: the host works meanwhile, and the data is still
# in the processor's cache. For 128 KiB reads that is 1.6 times the speed of one write at the end, for half the time.
EARLY_SEND_BYTES = 256 << 10
WRITE_BUFFER_BYTES = 4 << 20  # above it annex stops reading from a host until that has taken what it asked for

_log = logging.getLogger(__name__)


class SessionHandler(Protocol):
    """Where a portal takes what its connections say (`daemon.sessions.Sessions`)."""

    def logged_in(self, session: Session, end: Callable[[], None]) -> Callable[[ScsiCommand], None]:
        """Take a new session, and what ends it; give what executes its commands."""

    def manage(self, request: TaskManagement) -> None: ...
    def session_ended(self, event: SessionEnded) -> None: ...


class Portal:
    """One address that hosts log in to.

    Args:
        directory: the targets that answer there.
        registry: the sessions of the daemon.
        handler: takes commands and sessions.
        history: counts them.
    """

    def __init__(
        self,
        directory: TargetDirectory,
        registry: SessionRegistry,
        handler: SessionHandler,
        history: HostHistory | None = None,
    ) -> None:
        self.directory = directory
        self.registry = registry
        self.handler = handler
        self._connections: set[HostConnection] = set()
        self._in_login: dict[HostConnection, None] = {}
        self.history = history or HostHistory()
        self._server: asyncio.Server | None = None
        self._drain: Drain | None = None

    async def listen(self, host: str, port: int, inherited: socket.socket | None = None) -> None:
        """Listen on an address.

        Args:
            host: the address.
            port: of TCP.
            inherited: listens there already; closed with the portal.

        Raises:
            OSError: that can not be.
        """
        loop = asyncio.get_running_loop()
        if inherited is not None:
            self._server = await loop.create_server(self._connection, sock=inherited, backlog=BACKLOG)
        else:
            self._server = await loop.create_server(self._connection, host, port, backlog=BACKLOG)

    @property
    def listening(self) -> bool:
        """Whether hosts can connect."""
        return self._server is not None and self._server.is_serving()

    def stop_listening(self) -> None:
        """Take no more connections; those there are go on."""
        if self._server is not None:
            self._server.close()

    def send_away(self, name: str, within_s: int) -> None:
        """Ask the hosts of all sessions to log out, and drop those that are still there when the time is up.

        Args:
            name: of the portal, for the log.
            within_s: the time.
        """
        if self._drain is not None:
            self._drain.close()
        self._drain = Drain(name, lambda: self._connections, within_s)

    def let_stay(self) -> None:
        """Drop nobody after all."""
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None

    async def close(self) -> None:
        """Take no more connections, end those there are, and wait until what they were told has gone out."""
        self.stop_listening()
        if self._drain is not None:
            self._drain.close()
            self._drain = None
        ending = list(self._connections)
        for connection in ending:
            connection.drop()
        await asyncio.gather(*(connection.gone.wait() for connection in ending))

    def _connection(self) -> HostConnection:
        return HostConnection(self, asyncio.get_running_loop())

    def opened(self, connection: HostConnection) -> None:
        """Take note of a new connection; too many that do not log in cost the oldest of them its place."""
        self._connections.add(connection)
        self._in_login[connection] = None
        if len(self._in_login) > MAX_IN_LOGIN:
            oldest = next(iter(self._in_login))
            _log.warning(
                "closing a connection from %s: %d others have not logged in",
                oldest.peer,
                MAX_IN_LOGIN,
                extra={"event": "half_open_dropped"},
            )
            oldest.drop()

    def logged_in(self, connection: HostConnection) -> None:
        """Take note that a connection has got through its login."""
        self._in_login.pop(connection, None)

    def closed(self, connection: HostConnection) -> None:
        """Take note that a connection is gone."""
        self._connections.discard(connection)
        if self._drain is not None:
            self._drain.closed(connection)
        self._in_login.pop(connection, None)


class HostConnection(asyncio.BufferedProtocol):
    """One TCP connection of a host: its socket and timer on one side, the protocol core on the other.

    Attributes:
        peer: address of the host, for the log.
        gone: set once the socket is closed.
    """

    _transport: asyncio.Transport
    _core: Connection
    _deadline: Deadline

    def __init__(self, portal: Portal, loop: asyncio.AbstractEventLoop) -> None:
        self.peer = "?"
        self.gone = asyncio.Event()
        self._portal = portal
        self._loop = loop
        self._execute: Callable[[ScsiCommand], None] = execute_without_unit
        self._paused = False
        self._woken_due = False
        self._handle: dict[type[Event], Callable[[Event], None]] = {
            LoggedIn: self._logged_in,
            TaskManagement: lambda event: portal.handler.manage(cast(TaskManagement, event)),
            SessionEnded: self._session_ended,
            LoginFailed: self._login_failed,
            ProtocolFault: self._fault,
        }
        self._until_sample = NEVER
        self._sampler: LatencySampler

    # --- asyncio.BufferedProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the login."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        peer, local = (self._transport.get_extra_info(name) for name in ("peername", "sockname"))
        if not peer:  # gone before it was accepted
            self._transport.abort()
            peer = ("0.0.0.0", 0)  # noqa: S104 - stands for no address
        addresses = Addresses(peer[0], peer[1], local[0], local[1])
        self.peer = f"{peer[0]} port {peer[1]}"
        self._core = Connection(
            self._portal.directory, self._portal.registry, addresses, clock=self._loop.time, wake=self._wake
        )
        self._deadline = Deadline(self._loop, self._core.next_deadline, self._on_timer)
        self._portal.opened(self)
        self._deadline.arm()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes go."""
        return self._core.receive_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Handle what came."""
        events = self._core.bytes_received(nbytes)
        self._until_sample -= 1
        if self._until_sample < 0:
            self._until_sample = self._sampler.begin(events)
        self._act(events)
        self._flush()

    def eof_received(self) -> bool:
        """Close the socket: a host that sends nothing more can not be asked for data."""
        return False

    def pause_writing(self) -> None:
        """Read nothing more from a host that does not take its answers."""
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the session that it carried."""
        self._deadline.cancel()
        self._act(self._core.connection_lost())
        self._portal.closed(self)
        self.gone.set()

    # --- inside ---

    def drop(self) -> None:
        """End the connection from this side."""
        self._act(self._core.drop())
        self._flush()

    @property
    def discovering(self) -> bool:
        """Whether it carries a Discovery session."""
        session = self._core.session
        return session is not None and session.discovery

    @property
    def in_session(self) -> bool:
        """Whether it carries a session that the host does its work in."""
        return self._core.session is not None and not self.discovering

    def request_logout(self, within_s: int) -> None:
        """Ask the host to log out."""
        self._core.request_logout(within_s)

    def _act(self, events: list[Event]) -> None:
        asked_bytes = 0
        for event in events:
            if event.__class__ is ScsiCommand:
                self._execute(event)
                asked_bytes += event.data_in_bytes
                if asked_bytes >= EARLY_SEND_BYTES:
                    asked_bytes = 0
                    self._send()
            else:
                self._handle[event.__class__](event)

    def _logged_in(self, event: Event) -> None:
        session = cast(LoggedIn, event).session
        history = self._portal.history
        self._portal.logged_in(self)
        self._execute = self._portal.handler.logged_in(session, self.drop)
        history.session_begun(session)
        if not session.discovery:
            counts = history.counts(session)
            self._sampler = LatencySampler(session, time.monotonic, counts.reads, counts.writes)
            self._until_sample = 0

    def _session_ended(self, event: Event) -> None:
        ended = cast(SessionEnded, event)
        self._portal.history.session_ended(ended.session)
        self._portal.handler.session_ended(ended)

    def _login_failed(self, event: Event) -> None:
        failed = cast(LoginFailed, event)
        self._portal.history.refused[failed.status.name] += 1
        arguments = self.peer, failed.initiator_name, failed.text
        if failed.status == LoginStatus.AUTHENTICATION_FAILURE:
            _log.warning("%s, %r: %s", *arguments, extra={"event": "chap_failed"})
        else:
            _log.warning("%s, %r: %s", *arguments, extra={"event": "login_refused"})

    def _fault(self, event: Event) -> None:
        self._portal.history.protocol_faults += 1
        _log.warning("%s: %s", self.peer, cast(ProtocolFault, event).text, extra={"event": "protocol_fault"})

    def _wake(self) -> None:
        if not self._woken_due:
            self._woken_due = True
            self._loop.call_soon(self._woken)
        elif self._core.much_to_send:
            self._send()

    def _woken(self) -> None:
        self._woken_due = False
        self._act(self._core.take_events())
        self._flush()

    def _flush(self) -> None:
        """Send what there is, and go on with what may go on because of that."""
        core = self._core
        while not self._paused:
            self._send()
            events = core.take_events()
            if not events:
                break
            self._act(events)
        if core.closing and not self._paused:
            self._transport.close()
        else:
            self._deadline.arm()

    def _send(self) -> None:
        if not self._paused:
            out = self._core.data_to_send()
            if out:
                self._transport.writelines(out)

    def _on_timer(self) -> None:
        self._act(self._core.on_timer(self._loop.time()))
        self._flush()
