"""annex as the initiator of one connection to another target: login, full feature phase, logout. No I/O in it.

How this works. The adapter puts bytes into `receive_buffer()`, says `bytes_received()`, sends `data_to_send()`, calls
`on_timer()` at `next_deadline()`, and tells `connection_lost()`. When there is something to send outside of those
calls, `wake` is called once. A connection object lives for one TCP connection and one session; task tags and numbers
begin anew with the next object, and a reply can only ever meet a task of its own connection.

    LOGIN → FULL_FEATURE → LOGOUT → OVER        any of them → OVER, when the peer errs, is silent or goes

`initiator_login` has the first phase, `initiator_session` the second.

Spec: RFC 7143 8 "State Transitions", 6.3 "Login Phase", 11.14 "Logout Request".
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from scsi.iscsi.chap import RandomBytes
from scsi.iscsi.errors import ConnectionFault
from scsi.iscsi.framing import PduReader, PduWriter
from scsi.iscsi.initiator_login import InitiatorLogin, LoginFailed, Stage
from scsi.iscsi.initiator_options import InitiatorEvent, InitiatorOptions, SessionOver, SessionReady
from scsi.iscsi.initiator_session import NEVER, InitiatorSession
from scsi.iscsi.initiator_task import Task, Undelivered
from scsi.iscsi.initiator_text import Targets
from scsi.iscsi.keys import Parameters
from scsi.iscsi.pdu import CLOSE_SESSION, LOGIN_RESPONSE, RESPONSE, Header
from scsi.iscsi.session_pdus import (
    LoginRequest,
    LogoutRequest,
    decode_login_response,
    encode_login_request,
    encode_logout_request,
)

Buffer = bytes | bytearray | memoryview

EARLY_SEND_PIECES: Final = 16  # headers and data that wait: 8 writes, with which the target can begin
RECEIVE_BUFFER_BYTES: Final = 512 * 1024
LOGIN_TAG: Final = 1
INITIAL_CMD_SN: Final = 1


class State(enum.Enum):
    """Where the connection stands."""

    LOGIN = "login"
    FULL_FEATURE = "full feature phase"
    LOGOUT = "logout"
    OVER = "over"


class InitiatorConnection:
    """The initiator's side of one connection, which is a whole session.

    Attributes:
        closing: send what `data_to_send` still has, then close the socket.
        parameters: what the login negotiated.
        reason: why it is over, "" before.
    """

    def __init__(
        self,
        options: InitiatorOptions,
        clock: Callable[[], float],
        random_bytes: RandomBytes,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin the login; its first request is there to be sent at once.

        Args:
            options: what to log in to, and as whom.
            clock: monotonic seconds.
            random_bytes: for CHAP challenges.
            wake: called when there is something to send, see `PduWriter`; and again when much waits.
        """
        self.closing = False
        self.parameters = Parameters()
        self.reason = ""
        self._options = options
        self._clock = clock
        self._state = State.LOGIN
        self._events: list[InitiatorEvent] = []
        self._reader = PduReader(RESPONSE, self, self.parameters.max_recv_data_segment_length, 0)
        self._writer = PduWriter(wake, EARLY_SEND_PIECES)
        self._login = InitiatorLogin(options, INITIAL_CMD_SN, random_bytes)
        self._session: InitiatorSession | None = None
        self._heard_at = clock()
        self._logout_tag = 0
        self._logout_at = NEVER
        self._logout_done: Callable[[], None] | None = None
        try:
            self._send_login(*self._login.first_request())
        except LoginFailed as error:
            self._fail(str(error))

    # --- The surface of every connection ---

    def receive_buffer(self) -> memoryview:
        """Return where the next bytes from the socket must go; never empty."""
        return self._reader.receive_buffer()

    def bytes_received(self, count: int) -> list[InitiatorEvent]:
        """Take `count` bytes that are at the beginning of the last `receive_buffer()`."""
        self._heard_at = self._clock()
        if self._session is not None:
            self._session.heard(self._heard_at)
        self._reader.bytes_received(count)
        return self._take_events()

    def receive_data(self, data: Buffer) -> list[InitiatorEvent]:
        """Take bytes from anywhere."""
        events: list[InitiatorEvent] = []
        view = memoryview(data)
        while view:
            place = self.receive_buffer()
            count = min(len(place), len(view))
            place[:count] = view[:count]
            view = view[count:]
            events += self.bytes_received(count)
        return events

    @property
    def much_to_send(self) -> bool:
        """Whether so much waits that it is worth sending now."""
        return self._writer.much

    def data_to_send(self) -> list[Buffer]:
        """Drain what is to be sent."""
        if self._session is not None:
            self._session.sent()
        return self._writer.drain()

    def next_deadline(self) -> float | None:
        """Say when to call `on_timer`."""
        if self._state is State.OVER or self._session is None:
            return None
        return min(self._session.next_deadline(self._heard_at), self._logout_at)

    def on_timer(self, now: float) -> list[InitiatorEvent]:
        """Do what is due at `now`."""
        if now >= self._logout_at:
            self._fail("no answer to Logout")
        if self._session is not None and not self._session.over:
            self._session.on_timer(now, self._heard_at)
        return self._take_events()

    def connection_lost(self) -> list[InitiatorEvent]:
        """Learn that the socket is gone."""
        self._fail("the connection was closed" if self._state is not State.LOGOUT else "logged out")
        return self._take_events()

    # --- Requests ---

    @property
    def queue(self) -> int:
        """How many commands are sent, or wait for the window."""
        return self._session.queue if self._session is not None else 0

    def submit(self, task: Task) -> None:
        """Send a SCSI command, or let it wait for the window; without a session it ends at once."""
        if self._session is None:
            task.undeliver(Undelivered.NOT_SENT, self.reason or "no session yet")
        else:
            self._session.submit(task)

    def reset_unit(self, lun: bytes, done: Callable[[bool], None]) -> None:
        """Send LOGICAL UNIT RESET; `done(True)` when the target says it is complete.

        Commands to the LU that were sent before and have not been answered then, end as ABORTED.
        """
        if self._session is None:
            done(False)
        else:
            self._session.reset_unit(lun, done)

    def send_targets(self, done: Callable[[Targets | None], None]) -> None:
        """Ask a discovery session's target for all targets; `done` gets (name, addresses) pairs, or None."""
        if self._session is None:
            done(None)
        else:
            self._session.send_targets(done)

    def logout(self, done: Callable[[], None] | None = None) -> None:
        """End the session in good order; what is in flight ends as LINK_LOST when the target has answered."""
        if self._state is State.LOGIN:
            self._fail("closed during login")
        if self._state is State.OVER:
            if done is not None:
                done()
            return
        self._logout_done = done
        self._begin_logout()

    def fail(self, reason: str) -> list[InitiatorEvent]:
        """End the connection without a word."""
        self._fail(reason)
        return self._take_events()

    # --- PduSink, until the session takes over ---

    def receive(self, header: Header, ahs: bytes, data: memoryview, placed: bool) -> None:
        """Take one PDU."""
        del ahs, placed
        if header[0] == LOGIN_RESPONSE:
            self._receive_login(header, bytes(data))
        else:
            self._fail(f"PDU with opcode {header[0]:#04x} during login")

    def receive_damaged(self, header: Header) -> None:
        """Take a PDU with a wrong data digest; there are no digests during login."""

    def destination(self, header: Header) -> memoryview | None:
        """Name no place: a login's text is short."""

    def framing_failed(self, fault: ConnectionFault) -> None:
        """Learn that nothing more can be read."""
        self._fail(str(fault))

    # --- SessionOwner ---

    def fail_connection(self, reason: str) -> None:
        """End the connection, as the session asks."""
        self._fail(reason)

    def logout_requested(self) -> None:
        """Log out, as the target asks; a new session follows, which negotiates as well."""
        self._begin_logout()

    def logout_answered(self, initiator_task_tag: int) -> None:
        """Take a Logout Response."""
        if initiator_task_tag != self._logout_tag or self._state is not State.LOGOUT:
            self._fail(f"Logout Response for an unknown task tag {initiator_task_tag:#x}")
        else:
            self._fail("logged out")

    # --- Login ---

    def _send_login(self, request: LoginRequest, text: bytes) -> None:
        request = request._replace(initiator_task_tag=LOGIN_TAG)
        self._writer.send(encode_login_request(request, len(text)), text)

    def _receive_login(self, header: Header, data: bytes) -> None:
        response = decode_login_response(header)
        if response.initiator_task_tag != LOGIN_TAG:
            self._fail(f"Login Response with task tag {response.initiator_task_tag:#x}")
            return
        try:
            answer = self._login.answer(response, data)
        except LoginFailed as error:
            self._fail(str(error), error.status, error.moved_to)
            return
        if answer is not None:
            self._send_login(*answer)
            return
        assert self._login.stage is Stage.DONE
        # A login's requests are immediate and use up no number; some targets count one all the same.
        if response.exp_cmd_sn not in {INITIAL_CMD_SN, INITIAL_CMD_SN + 1}:
            self._fail(f"ExpCmdSN {response.exp_cmd_sn} after a login with CmdSN {INITIAL_CMD_SN}")
            return
        parameters = self.parameters = self._login.parameters
        reader, writer = self._reader, self._writer
        reader.header_digest = writer.header_digest = parameters.header_digest
        reader.data_digest = writer.data_digest = parameters.data_digest
        reader.set_limits(parameters.max_recv_data_segment_length, RECEIVE_BUFFER_BYTES)
        self._session = InitiatorSession(self, self._options, parameters, writer, self._clock, response)
        reader.sink = self._session
        self._state = State.FULL_FEATURE
        self._events.append(SessionReady(self._login.target_portal_group_tag))

    # --- The end ---

    def _begin_logout(self) -> None:
        session = self._session
        if self._state is not State.FULL_FEATURE or session is None:
            return
        self._state = State.LOGOUT
        self._logout_at = self._clock() + self._options.logout_timeout_s
        self._logout_tag = session.take_tag()
        request = LogoutRequest(CLOSE_SESSION, self._logout_tag, 0, session.cmd_sn, session.exp_stat_sn)
        self._writer.send(encode_logout_request(request))
        session.stop_submitting("logging out")

    def _fail(self, reason: str, status: int | None = None, moved_to: str = "") -> None:
        """End the connection and everything that waits on it, once."""
        if self._state is State.OVER:
            return
        self._state = State.OVER
        self.closing = True
        self.reason = reason
        self._logout_at = NEVER
        self._reader.stop()
        if self._session is not None:
            self._session.end(reason)
        algorithm = self._login.chap_algorithm if status is not None else None
        self._events.append(SessionOver(reason, status, moved_to, algorithm))
        logout_done, self._logout_done = self._logout_done, None
        if logout_done is not None:
            logout_done()

    def _take_events(self) -> list[InitiatorEvent]:
        events = self._events
        if events:
            self._events = []
        return events
