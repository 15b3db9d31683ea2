"""The way to an external array on asyncio: TCP connections, one after another, around `InitiatorConnection`.

How this works. A link connects, logs in, and stays; whenever that ends it connects again, after a pause that grows with
each failure (`daemon.login_pauses`). Every connection has a
connection object of its own; what the older ones still had to say is gone with their sockets.

What is submitted outside of a receive is sent at the end of the event loop's iteration, or when much of it waits.

Works alike on uvloop and on asyncio's own loops.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from backends.external.path import PathListener
from config.model import join_portal
from daemon.answer_polling import AnswerPolling
from daemon.deadline import Deadline
from daemon.login_pauses import LoginPauses
from scsi.iscsi.initiator import InitiatorConnection
from scsi.iscsi.initiator_options import InitiatorEvent, InitiatorOptions, SessionOver, SessionReady
from scsi.iscsi.initiator_task import Task, Undelivered

Buffer = bytes | bytearray | memoryview

LOGIN_TIMEOUT_S = 15.0
UNSENT_BYTES = 64 * 1024  # above this nothing more is given to the socket
MOST_HOPS = 3  # from one "target moved" to the next, without a pause
DEFAULT_PORT = 3260
_CHANGED = "its configuration has changed"
_INITIATOR_ERROR = 0x02  # Status-Class of a login that will be refused again

log = logging.getLogger(__name__)


class ArrayLink:
    """An `ArrayPath` over TCP.

    Attributes:
        name: the array's, for the log.
        reason: why there is no session, "" while there is one.
        submit: sends one SCSI command: the session's own while there is one, with nothing in between.
        logins: how many have worked.
        failures: how many connections and logins have not, or ended.
    """

    def __init__(self, name: str, host: str, port: int, options: InitiatorOptions) -> None:
        """Prepare; nothing happens before `start`.

        Args:
            name: the array's, for the log.
            host: IPv4 or IPv6 address (without brackets) or host name.
            port: TCP port.
            options: whom to log in to, and as whom.
        """
        self.name = name
        self.reason = "not connected yet"
        self.submit: Callable[[Task], None] = self._not_sent
        self.logins = 0
        self.failures = 0
        self._host = host
        self._port = port
        self._options = options
        self._listener: PathListener | None = None
        self._connection: InitiatorConnection | None = None  # with a session only
        self._protocol: LinkProtocol | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._pauses = LoginPauses()
        self._up_since = 0.0
        self._moved_to: tuple[str, int] | None = None
        self._hops = 0
        self._algorithms = options.chap_algorithms
        self._closed = False
        self._closed_calls: list[Callable[[], None]] = []
        self._open: set[LinkProtocol] = set()  # sockets that are not closed yet

    @property
    def portal(self) -> str:
        """Where the array is configured to be."""
        return join_portal(self._host, self._port)

    @property
    def up(self) -> bool:
        """Whether there is a session."""
        return self._connection is not None

    @property
    def queue(self) -> int:
        """How many commands are sent, or wait for the array's window."""
        return self._connection.queue if self._connection is not None else 0

    # --- ArrayPath ---

    def start(self, listener: PathListener) -> None:
        """Begin to connect, and go on until `close`."""
        self._listener = listener
        self._connect()

    def _not_sent(self, task: Task) -> None:
        task.undeliver(Undelivered.NOT_SENT, self.reason)

    def reset_unit(self, lun: bytes, done: Callable[[bool], None]) -> None:
        """Send LOGICAL UNIT RESET."""
        if self._connection is None:
            done(False)
        else:
            self._connection.reset_unit(lun, done)

    def drop(self, reason: str) -> None:
        """End the session without a word, and connect again."""
        if self._protocol is not None:
            self._protocol.end(reason)

    def close(self, done: Callable[[], None]) -> None:
        """Log out, end the connection, and stay so."""
        self._closed = True
        self._closed_calls.append(done)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._attempt is not None:
            self._attempt.cancel()
        if self._protocol is not None:
            self._protocol.logout()
        self._tell_if_closed()

    def change(self, host: str, port: int, options: InitiatorOptions) -> None:
        """Reach the array in another way from now on; what there is of the old one ends."""
        self._host, self._port, self._options = host, port, options
        self._algorithms = options.chap_algorithms
        self._moved_to = None
        self._pauses.reset()
        if self._protocol is not None:
            self._protocol.end(_CHANGED)
        elif self._retry is not None:
            self._retry.cancel()
            self._connect()

    # --- Connecting ---

    def _connect(self) -> None:
        self._retry = None
        self._attempt = asyncio.get_running_loop().create_task(self._attempt_once(), name=f"array {self.name}")

    async def _attempt_once(self) -> None:
        """Make one TCP connection; the login goes on in the protocol."""
        loop = asyncio.get_running_loop()
        host, port = self._moved_to or (self._host, self._port)
        self._moved_to = None
        configured = self._host, self._port, self._options
        options = replace(self._options, chap_algorithms=self._algorithms)
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT_S):
                _, protocol = await loop.create_connection(lambda: LinkProtocol(self, options, loop), host, port)
        except TimeoutError:
            self._failed(f"no connection to {host} port {port} in {LOGIN_TIMEOUT_S:.0f} s")
        except (OSError, ValueError) as error:  # ValueError: a host name that can not be one
            self._failed(f"no connection to {host} port {port}: {error}")
        else:
            self._protocol = protocol
            if protocol.ended:
                self.protocol_ended(protocol, SessionOver(protocol.connection.reason))
            elif configured != (self._host, self._port, self._options):
                protocol.end(_CHANGED)
        finally:
            self._attempt = None
            self._tell_if_closed()

    def _failed(self, reason: str, refused: bool = False) -> None:
        if reason != self.reason:
            if self._closed:
                log.info("array %s: %s", self.name, reason, extra={"event": "array_closed"})
            else:
                log.warning("array %s: %s", self.name, reason, extra={"event": "array_lost"})
        self.reason = reason
        self.failures += not self._closed
        if not self._closed:
            self._retry = asyncio.get_running_loop().call_later(self._pauses.take_s(), self._connect)
        if self._listener is not None:
            self._listener.path_down(reason, refused)

    # --- From the protocol ---

    def protocol_ready(self, protocol: LinkProtocol) -> None:
        """Take a session that has logged in."""
        self._protocol = protocol
        self._connection = protocol.connection
        self.submit = protocol.connection.submit
        self.reason = ""
        self.logins += 1
        self._up_since = asyncio.get_running_loop().time()
        log.info("array %s: logged in to %s", self.name, self._options.target_name, extra={"event": "array_back"})
        if self._listener is not None:
            self._listener.path_up()

    def protocol_ended(self, protocol: LinkProtocol, over: SessionOver) -> None:
        """Learn that a connection has ended, whether it ever logged in or not."""
        if protocol is not self._protocol:
            return  # still connecting: `_attempt_once` finds it ended
        self._protocol = None
        if self._connection is not None:
            self._pauses.session_ended(asyncio.get_running_loop().time() - self._up_since)
        self._connection = None
        self.submit = self._not_sent
        self._moved_to = parse_target_address(over.moved_to)
        moved = self._moved_to is not None and self._hops < MOST_HOPS
        if not self._closed and (moved or self._other_algorithms(over.chap_algorithm)):
            self._hops += moved
            self._connect()
            return
        self._hops = 0
        self._failed(over.reason, over.status is not None and over.status >> 8 == _INITIATOR_ERROR)

    def _other_algorithms(self, refused: int | None) -> bool:
        """Leave out a CHAP algorithm with which the login was refused; False when that leaves none.

        Some targets (tgt, IET) use 7, which is SHA-256, for SHA-1 and refuse the right answer to their own challenge.
        """
        if refused is None:
            return False
        self._algorithms = tuple(number for number in self._algorithms if number != refused)
        if self._algorithms:
            return True
        self._algorithms = self._options.chap_algorithms  # the secret is wrong; begin anew, at the usual pace
        return False

    def protocol_opened(self, protocol: LinkProtocol) -> None:
        """Learn that a protocol has a socket."""
        self._open.add(protocol)

    def protocol_closed(self, protocol: LinkProtocol) -> None:
        """Learn that its socket is closed."""
        self._open.discard(protocol)
        self._tell_if_closed()

    def _tell_if_closed(self) -> None:
        if self._closed and self._attempt is None and not self._open:
            calls, self._closed_calls = self._closed_calls, []
            for call in calls:
                call()


class LinkProtocol(asyncio.BufferedProtocol):
    """One TCP connection.

    Attributes:
        connection: its initiator.
        ended: it is over.
    """

    def __init__(self, link: ArrayLink, options: InitiatorOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.ended = False
        self._link = link
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._receiving = False
        self._flush_due = False
        self._login_timer: asyncio.TimerHandle | None = None
        self.connection = InitiatorConnection(options, loop.time, secrets.token_bytes, self._wake)
        self._deadline = Deadline(loop, self.connection.next_deadline, self._on_timer)
        self._polling = AnswerPolling(loop, lambda: self.connection.queue)

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first Login Request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES)
        raw_socket = transport.get_extra_info("socket")
        if raw_socket is not None:
            raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._link.protocol_opened(self)
        self._login_timer = self._loop.call_later(LOGIN_TIMEOUT_S, self._login_too_long)
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Name the memory for the next bytes."""
        del sizehint
        return self.connection.receive_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that came, and send all that follows from them at once."""
        self._receiving = True
        events = self.connection.bytes_received(nbytes)
        if events:
            self._act(events)
        self._receiving = False
        self._flush()
        self._polling.answers_came()

    def pause_writing(self) -> None:
        """Keep what is to be sent: the array does not take it."""
        self._paused = True

    def resume_writing(self) -> None:
        """Send what was kept."""
        self._paused = False
        self._flush()

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and say so."""
        events = self.connection.fail(str(exc)) if exc is not None else self.connection.connection_lost()
        self._act(events)
        self._end(SessionOver(self.connection.reason))
        self._link.protocol_closed(self)

    # --- From the link ---

    def end(self, reason: str) -> None:
        """Cut the connection."""
        self._act(self.connection.fail(reason))

    def logout(self) -> None:
        """Log out; the end follows."""
        self.connection.logout()
        self._flush()

    # --- Inside ---

    def _wake(self) -> None:
        if self._receiving:
            return
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        elif self.connection.much_to_send:
            self._send()

    def _flush(self) -> None:
        """Send what there is, once, and set the timer anew."""
        self._flush_due = False
        transport, connection = self._transport, self.connection
        if transport is None or self.ended:
            return
        self._send()
        if connection.closing:
            self._act(connection.connection_lost())
            transport.close()
        else:
            self._deadline.arm()

    def _send(self) -> None:
        if self._transport is not None and not self._paused and not self.ended:
            out = self.connection.data_to_send()
            if out:
                self._transport.writelines(out)

    def _on_timer(self) -> None:
        self._act(self.connection.on_timer(self._loop.time()))
        self._flush()

    def _login_too_long(self) -> None:
        self._login_timer = None
        self.end(f"no login in {LOGIN_TIMEOUT_S:.0f} s")

    def _act(self, events: list[InitiatorEvent]) -> None:
        for event in events:
            if isinstance(event, SessionReady):
                if self._login_timer is not None:
                    self._login_timer.cancel()
                    self._login_timer = None
                self._link.protocol_ready(self)
            else:
                self._end(event)

    def _end(self, over: SessionOver) -> None:
        if self.ended:
            return
        self.ended = True
        self._deadline.cancel()
        if self._login_timer is not None:
            self._login_timer.cancel()
        self._timer = self._login_timer = None
        transport = self._transport
        if transport is not None:
            if self.connection.reason == "logged out":
                transport.close()
            else:
                transport.abort()  # what is unsent must not reach the array any more
        self._link.protocol_ended(self, over)


def parse_target_address(text: str) -> tuple[str, int] | None:
    """Return host and port of a TargetAddress, or None. Spec: RFC 7143 13.8 "TargetAddress"."""
    address = text.partition(",")[0]
    if address.startswith("["):
        host, bracket, port = address[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return None
        port = port[1:]
    else:
        host, _, port = address.partition(":")
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        return None
    return host, int(port) if port else DEFAULT_PORT
