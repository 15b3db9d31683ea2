"""One TCP connection at a target: login, then the session, then the end; the surface that the adapter works with.

How to drive it, all on one thread:

    received n bytes   events = connection.bytes_received(n), after receiving into connection.receive_buffer()
    timer at deadline  events = connection.on_timer(now)
    `wake` was called  events = connection.take_events()
    socket is gone     events = connection.connection_lost()

and after each of them: act on the events in their order, send `data_to_send()`, look for `take_events()` again (answers
that leave may let commands in line go on) until there are none, arm a timer for `next_deadline()`, and close the socket
after what was sent has gone when `closing` is set. While the transport is full the adapter neither calls
`data_to_send()` nor reads from the socket: what waits stays charged to the session's memory, and its commands wait in
line.

`wake` is called when there is something to send, and never from within the calls above. It may be called from within
`ScsiCommand.complete()` and from another connection's calls, so it should only schedule. Until the next
`data_to_send()` it is called again only while `much_to_send` holds: then what waits may be sent there and then, and the
rest, events first of all, when what was scheduled runs.

None of these methods raises, whatever the peer sent.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from typing import Final

from scsi.iscsi.chap import RandomBytes
from scsi.iscsi.directory import Addresses, TargetDirectory, TargetListing
from scsi.iscsi.errors import Rejected, RejectReason
from scsi.iscsi.events import EndReason, Event, LoggedIn, LoginFailed, ProtocolFault, SessionEnded
from scsi.iscsi.framing import Buffer, PduReader, PduWriter
from scsi.iscsi.keys import DEFAULT_DATA_SEGMENT_BYTES, Parameters
from scsi.iscsi.login import LoginPhase
from scsi.iscsi.options import TargetOptions
from scsi.iscsi.pdu import (
    ASYNC_CONNECTION_DROP,
    ASYNC_LOGOUT_REQUESTED,
    CLOSE_CONNECTION,
    CLOSE_SESSION,
    LOGOUT_CID_NOT_FOUND,
    LOGOUT_RECOVERY_NOT_SUPPORTED,
    LOGOUT_SUCCESS,
    NO_LUN,
    REMOVE_CONNECTION_FOR_RECOVERY,
    REQUEST,
    Header,
)
from scsi.iscsi.registry import SessionRegistry
from scsi.iscsi.session import Session
from scsi.iscsi.session_pdus import (
    AsyncMessage,
    LogoutRequest,
    LogoutResponse,
    decode_logout_request,
    encode_async_message,
    encode_logout_response,
)

logger = logging.getLogger(__name__)

EARLY_SEND_PIECES: Final = 8  # answers that wait: the host can go on with these
# Holds any PDU that may come before the session is there, so that a thousand idle connections stay cheap.
_LOGIN_BUFFER_BYTES: Final = 10 * 1024


class Connection:
    """The target's end of one TCP connection.

    Attributes:
        addresses: of both ends.
        session: what it carries, or None before the login is over.
        closing: send what `data_to_send` still returns, then close the socket.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        directory: TargetDirectory,
        registry: SessionRegistry,
        addresses: Addresses,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        options: TargetOptions | None = None,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        """Begin at the login of a connection that was just accepted.

        Args:
            directory: the configuration.
            registry: the sessions, shared by all connections.
            addresses: of both ends.
            clock: monotonic seconds.
            wake: see above.
            options: for connections whose admission has none of its own.
            random_bytes: where challenges come from.
        """
        self.addresses = addresses
        self.session: Session | None = None
        self.closing = False
        self.clock = clock
        self.events: list[Event] = []
        self.writer = PduWriter(wake, EARLY_SEND_PIECES)
        self._directory = directory
        self._registry = registry
        self._options = options or TargetOptions()
        login = LoginPhase(self, directory, registry, self._options, addresses, random_bytes)
        self._reader = PduReader(REQUEST, login, DEFAULT_DATA_SEGMENT_BYTES, _LOGIN_BUFFER_BYTES)
        self._deadline = clock() + self._options.login_timeout_s
        self._heard = False
        self._pinged = False
        self._adopted: Session | None = None  # taken from another connection, by a login that is not over yet
        self._waiting: Callable[[], None] | None = None
        self._wait_deadline: float | None = None

    # --- what the adapter calls ---

    def receive_buffer(self) -> memoryview:
        """Return where the next bytes from the socket must go; never empty."""
        return self._reader.receive_buffer()

    def bytes_received(self, count: int) -> list[Event]:
        """Take the bytes that were put to the beginning of the last `receive_buffer()`."""
        self._heard = True
        self.writer.announced = True
        try:
            self._reader.bytes_received(count)
        except Exception:  # a bug of ours, and one connection is all that it may cost
            logger.exception("while handling what %s sent", self.addresses.peer_address)
            self.fail("internal error")
        return self.take_events()

    def receive_data(self, data: Buffer) -> list[Event]:
        """Take bytes from anywhere, by way of `receive_buffer()`."""
        events: list[Event] = []
        rest = memoryview(data)
        while rest:
            place = self.receive_buffer()
            count = min(len(place), len(rest))
            place[:count] = rest[:count]
            rest = rest[count:]
            events += self.bytes_received(count)
        return events

    def take_events(self) -> list[Event]:
        """Return what has happened since the last call."""
        events = self.events[:]
        self.events.clear()
        return events

    @property
    def much_to_send(self) -> bool:
        """Whether so much waits that it is worth sending now."""
        return self.writer.much

    def data_to_send(self) -> list[Buffer]:
        """Return what has to be sent now, ready for `writelines`."""
        session = self.session
        if session is not None and session.connection is self:
            # First, so that the R2Ts of commands that go on by it are in what is returned.
            self.writer.announced = True
            session.line.answers_taken()
        return self.writer.drain()

    def next_deadline(self) -> float | None:
        """Return when to call `on_timer`, or None when there is nothing to wait for."""
        if self.closing:
            return None
        deadline = self._deadline
        if self._wait_deadline is not None:
            deadline = min(deadline, self._wait_deadline)
        if self.session is not None and self.session.task_management.by_tag:
            aborts = self.session.task_management.next_deadline()
            if aborts is not None:
                deadline = min(deadline, aborts)
        return deadline

    def on_timer(self, now: float) -> list[Event]:
        """Do what is due: end a login that takes too long, ping a peer that is silent, end one that stays so."""
        self.writer.announced = True
        session = self.session
        if not self.closing:
            if session is not None:
                session.task_management.on_timer(now)
            if self._waiting is not None and self._wait_deadline is not None and now >= self._wait_deadline:
                self.report("commands of an ended session are still at work; going on without them")
                self._go_on(self._waiting)
            if now >= self._deadline:
                self._on_deadline(now)
        return self.take_events()

    def connection_lost(self) -> list[Event]:
        """Take note that the socket is gone; a session does not outlive its connection."""
        self._end(EndReason.CONNECTION_LOST)
        self.writer.drain()
        return self.take_events()

    def drop(self, reason: EndReason = EndReason.ADMINISTRATIVE) -> list[Event]:
        """End the connection and its session from this side, telling the initiator that it will be."""
        session = self.session
        if session is not None:
            self._send_event(ASYNC_CONNECTION_DROP, (session.cid, session.parameters.default_time2wait, 0))
        self._end(reason)
        return self.take_events()

    def request_logout(self, within_s: int) -> None:
        """Ask the initiator to log out; to drop the connection of one that does not is the caller's.

        Spec: RFC 7143 11.9.1, event 1: "logout ... no later than Parameter3 seconds".
        """
        self._send_event(ASYNC_LOGOUT_REQUESTED, (0, 0, within_s))

    def _send_event(self, event: int, parameters: tuple[int, int, int]) -> None:
        """Send an Asynchronous Message, unless nobody would listen."""
        session = self.session
        if session is None or self.closing or session.discovery or session.end_reason is not None:
            return
        message = AsyncMessage(
            NO_LUN, session.take_stat_sn(), session.exp_cmd_sn, session.max_cmd_sn, event, 0, parameters
        )
        self.writer.send(encode_async_message(message))
        self.writer.announce()

    # --- what login and the session call ---

    def report(self, text: str) -> None:
        """Put a line into the log."""
        self.events.append(ProtocolFault(text))

    def fail(self, text: str) -> None:
        """End the connection because of what the peer did; with ErrorRecoveryLevel 0 the session goes with it (7.7)."""
        if not self.closing:
            self.report(f"connection closed: {text}")
            self._end(EndReason.PROTOCOL_ERROR)

    def refuse(self, failed: LoginFailed) -> None:
        """End a connection whose login was answered with a status."""
        self.events.append(failed)
        self._end(EndReason.PROTOCOL_ERROR)

    def list_targets(self) -> Iterable[TargetListing]:
        """Return the targets that the initiator of this session may know of."""
        assert self.session is not None
        return self._directory.targets(self.session.initiator_name, self.addresses)

    def enter_full_feature_phase(self, session: Session, parameters: Parameters, stat_sn: int) -> None:
        """Leave the connection to a session, the last Login Response being on its way."""
        self.session = session
        self._reader.header_digest = self.writer.header_digest = parameters.header_digest
        self._reader.data_digest = self.writer.data_digest = parameters.data_digest
        self._reader.set_limits(parameters.max_recv_data_segment_length, session.options.receive_buffer_bytes)
        self._reader.sink = session
        session.attach(self, parameters, stat_sn)
        self._heard = True
        self._deadline = self.clock() + session.options.ping_interval_s

    def announce_session(self) -> None:
        """Tell of the session that this connection now carries."""
        assert self.session is not None
        self.events.append(LoggedIn(self.session))
        self.writer.announce()

    def take_over(self, old: Session) -> None:
        """End another session, whose place this connection's login takes; its end is told here, before the new one."""
        connection = old.connection
        old.end(EndReason.REINSTATED)
        self._registry.remove(old)
        self.events.append(SessionEnded(old, EndReason.REINSTATED))
        self.writer.announce()
        connection.hand_over("another login of the same host took the session's place")

    def take_connection(self, session: Session) -> None:
        """Take a session from its connection, which is logged out by that (6.3.4)."""
        connection = session.connection
        session.end_tasks()
        session.connection = self
        self._adopted = session
        connection.hand_over("another login took the connection's place")

    def hand_over(self, text: str) -> None:
        """Close a connection whose session is no longer its own, without sending anything more."""
        self.writer.drain()
        self.report(text)
        self._close()

    def wait_until_drained(self, session: Session, go_on: Callable[[], None]) -> None:
        """Go on once, maybe at once, when a session that has ended is drained, or when that takes too long."""
        self._waiting = go_on
        self._wait_deadline = self.clock() + session.options.orphan_wait_s
        session.when_drained(lambda: self._go_on(go_on))

    def _go_on(self, go_on: Callable[[], None]) -> None:
        if self._waiting is go_on:  # otherwise it went on already, when its time was up
            self._waiting = self._wait_deadline = None
            go_on()

    def log_out(self, header: Header) -> None:
        """Answer a Logout Request; a successful one ends the connection once its tasks have ended (11.14, 11.15).

        Raises:
            Rejected: the reason is unknown.
        """
        session = self.session
        assert session is not None
        request = decode_logout_request(header)
        if request.reason == REMOVE_CONNECTION_FOR_RECOVERY:
            self._answer_logout(session, request, LOGOUT_RECOVERY_NOT_SUPPORTED)
        elif request.reason == CLOSE_CONNECTION and request.cid != session.cid:
            self._answer_logout(session, request, LOGOUT_CID_NOT_FOUND)
        elif request.reason in (CLOSE_SESSION, CLOSE_CONNECTION):
            self._reader.stop()
            session.end(EndReason.LOGOUT)
            self._registry.remove(session)
            self.events.append(SessionEnded(session, EndReason.LOGOUT))
            self.wait_until_drained(session, lambda: self._finish_logout(session, request))
        else:
            raise Rejected(RejectReason.INVALID_PDU_FIELD, f"logout reason {request.reason}")

    def end_after_reset(self) -> None:
        """End the session after a TARGET COLD RESET was answered (11.5.1)."""
        self._end(EndReason.TARGET_RESET)

    # --- inside ---

    def _finish_logout(self, session: Session, request: LogoutRequest) -> None:
        if not self.closing:
            self._answer_logout(session, request, LOGOUT_SUCCESS)
            self._close()

    def _answer_logout(self, session: Session, request: LogoutRequest, response: int) -> None:
        stat_sn = session.take_stat_sn()
        parameters = session.parameters
        answer = LogoutResponse(
            response,
            request.initiator_task_tag,
            stat_sn,
            session.exp_cmd_sn,
            session.max_cmd_sn,
            parameters.default_time2wait,
            0,  # nothing of the session is kept
        )
        self.writer.send(encode_logout_response(answer))

    def _on_deadline(self, now: float) -> None:
        session = self.session
        if session is None:
            self.report("login takes too long")
            self._end(EndReason.TIMED_OUT)
            return
        options = session.options
        if session.end_reason is not None:  # logging out; its tasks do not end
            self._deadline = now + options.ping_interval_s
        elif self._heard:
            self._heard = False
            self._pinged = False
            self._deadline = now + options.ping_interval_s
        elif not self._pinged and not session.discovery:
            self._pinged = True
            self._deadline = now + options.ping_timeout_s
            session.send_nop_in(session.collector.allocate_tag())
        else:
            self.report("the initiator is silent and does not answer a ping")
            self._end(EndReason.TIMED_OUT)

    def _end(self, reason: EndReason) -> None:
        """End the connection, and the session if it is still this connection's."""
        session = self.session or self._adopted
        if session is not None and session.connection is self and session.end_reason is None:
            session.end(reason)
            self._registry.remove(session)
            self.events.append(SessionEnded(session, reason))
        self._close()

    def _close(self) -> None:
        if not self.closing:
            self.closing = True
            self._reader.stop()
            self.writer.announce()
