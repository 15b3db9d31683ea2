"""The login phase at a target: from the first Login Request to the session that it makes.

How this works: requests and responses alternate. Text that spans several requests (C bit) is put together first, then
every key is answered: the security keys by CHAP, the operational ones by the table of `keys`. The initiator asks for
the next stage with the T bit, and gets it when nothing stands against it; the step to FullFeaturePhase makes the
session. Whatever goes wrong ends the login with a status, and the connection with it (RFC 7143 7.12): there is no
second try on it.

    SecurityNegotiation (0) ──T, authenticated──▶ OperationalNegotiation (1) ──T──▶ FullFeaturePhase (3)
             └───────────────────────T, authenticated────────────────────────────────▲

A login that takes the place of an older session of the same host waits, before its last response, until nothing can be
written any more on behalf of the old session's tasks (6.3.5).

Spec: RFC 7143 6.3 "Login Phase", 11.12, 11.13, 12.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from scsi.iscsi.chap import ChapFailure, RandomBytes
from scsi.iscsi.directory import Addresses, Admission, TargetDirectory
from scsi.iscsi.errors import ConnectionFault, LoginRefused, LoginStatus
from scsi.iscsi.events import LoginFailed
from scsi.iscsi.keys import (
    DEFAULT_DATA_SEGMENT_BYTES,
    MAX_NEGOTIATION_BYTES,
    Parameters,
    TextError,
    decode_text,
    encode_text,
)
from scsi.iscsi.login_keys import OperationalKeys
from scsi.iscsi.login_security import SecurityNegotiation, is_security_key
from scsi.iscsi.names import InvalidName, check_peer_name
from scsi.iscsi.options import TargetOptions
from scsi.iscsi.pdu import (
    FULL_FEATURE_PHASE,
    LOGIN_REQUEST,
    OPCODE_MASK,
    OPERATIONAL_NEGOTIATION,
    SECURITY_NEGOTIATION,
    Header,
)
from scsi.iscsi.registry import SessionKey, SessionRegistry
from scsi.iscsi.serial_numbers import MASK
from scsi.iscsi.session import Session
from scsi.iscsi.session_pdus import LoginRequest, LoginResponse, decode_login_request, encode_login_response

if TYPE_CHECKING:
    from scsi.iscsi.connection import Connection

# (CurrentStage, NextStage) that a request with T may have (11.12.3).
_TRANSITIONS = frozenset(
    {
        (SECURITY_NEGOTIATION, OPERATIONAL_NEGOTIATION),
        (SECURITY_NEGOTIATION, FULL_FEATURE_PHASE),
        (OPERATIONAL_NEGOTIATION, FULL_FEATURE_PHASE),
    }
)
_STAGES = frozenset({SECURITY_NEGOTIATION, OPERATIONAL_NEGOTIATION})
_VERSION = 0


class _Wish(NamedTuple):
    """What the first text of a login asks for, and what came of asking the directory."""

    key: SessionKey
    admission: Admission
    options: TargetOptions
    discovery: bool
    security: SecurityNegotiation
    keys: OperationalKeys


class LoginPhase:
    """One login on one connection; a `PduSink` until the session takes over."""

    def __init__(
        self,
        connection: Connection,
        directory: TargetDirectory,
        registry: SessionRegistry,
        options: TargetOptions,
        addresses: Addresses,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self._connection = connection
        self._directory = directory
        self._registry = registry
        self._options = options
        self._addresses = addresses
        self._random_bytes = random_bytes
        self._first: LoginRequest | None = None
        self._stage = SECURITY_NEGOTIATION
        self._stat_sn = 0
        self._text = b""
        self._seen: set[str] = set()
        self._wish: _Wish | None = None
        self._finishing = False
        self._initiator_name = ""  # as soon as it is known
        self._waited_for: set[Session] = set()

    # --- PduSink ---

    def receive(self, header: Header, ahs: bytes, data: memoryview, _placed: bool) -> None:
        """Take one PDU; only a Login Request may come before the session (6.3)."""
        if header[0] & OPCODE_MASK != LOGIN_REQUEST or ahs or self._finishing:
            self._connection.fail("something else than a Login Request during login")
            return
        request = decode_login_request(header)
        self._guard(request, lambda: self._handle(request, bytes(data)))

    def receive_damaged(self, _header: Header) -> None:
        """Never called: there are no digests during login."""
        self._connection.fail("digest during login")

    def destination(self, _header: Header) -> memoryview | None:
        """Name no memory: nothing that is large may come."""
        return None

    def framing_failed(self, fault: ConnectionFault) -> None:
        """Give up on the connection."""
        self._connection.fail(str(fault))

    def _guard(self, request: LoginRequest, step: Callable[[], None]) -> None:
        """Run one step; what it raises is the end of the login, as a status."""
        try:
            step()
        except LoginRefused as refused:
            self._refuse(request, refused)
        except ChapFailure as failure:
            self._refuse(request, LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, str(failure)))
        except TextError as error:
            self._refuse(request, LoginRefused(LoginStatus.INITIATOR_ERROR, str(error)))

    # --- one request ---

    def _handle(self, request: LoginRequest, data: bytes) -> None:
        self._check_request(request)
        self._text += data
        if len(self._text) > MAX_NEGOTIATION_BYTES:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, "login text is too long")
        if request.more:
            self._respond(request, b"")
            return
        text, self._text = self._text, b""
        answers = self._negotiate(decode_text(text))
        assert self._wish is not None
        transit = request.transit and self._wish.security.check_progress()
        segment = encode_text(answers)
        # Bounds what an initiator can make us say with keys that nobody knows.
        if len(segment) > DEFAULT_DATA_SEGMENT_BYTES:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, "answers would not fit into a response")
        if transit and request.next_stage == FULL_FEATURE_PHASE:
            self._finishing = True
            self._finish(request, segment)
            return
        self._respond(request, segment, transit=transit)
        if transit:
            self._stage = request.next_stage

    def _check_request(self, request: LoginRequest) -> None:
        """Check the header against itself and against the first one of this login (11.12)."""
        if request.version_min > _VERSION:
            raise LoginRefused(LoginStatus.UNSUPPORTED_VERSION, f"version {request.version_min} is the least")
        first = self._first
        if first is None:
            self._first = request
            self._stage = request.current_stage
            self._stat_sn = request.exp_stat_sn
        elif (first.isid, first.tsih, first.cid, first.cmd_sn, first.version_min, first.version_max) != (
            request.isid,
            request.tsih,
            request.cid,
            request.cmd_sn,
            request.version_min,
            request.version_max,
        ):
            raise LoginRefused(LoginStatus.INVALID_DURING_LOGIN, "ISID, TSIH, CID, CmdSN or version has changed")
        if request.current_stage not in _STAGES or request.current_stage != self._stage:
            raise LoginRefused(LoginStatus.INVALID_DURING_LOGIN, f"stage {request.current_stage} is not due")
        if request.transit:
            if request.more:
                raise LoginRefused(LoginStatus.INITIATOR_ERROR, "both T and C")
            if (request.current_stage, request.next_stage) not in _TRANSITIONS:
                raise LoginRefused(LoginStatus.INVALID_DURING_LOGIN, f"no way to stage {request.next_stage}")

    # --- text ---

    def _negotiate(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Answer the keys of one text."""
        for name, _value in pairs:
            if name in self._seen:
                raise TextError(f"{name} is declared twice")
            self._seen.add(name)
        answers: list[tuple[str, str]] = []
        if self._wish is None:
            self._wish = self._admit(dict(pairs))
            answers += self._introduce(self._wish)
        wish = self._wish
        if self._stage == SECURITY_NEGOTIATION:
            answers += wish.security.answer(pairs)
        else:
            if not wish.security.authenticated:
                raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, "authentication is required and skipped")
            if any(is_security_key(name) for name, _value in pairs):
                raise LoginRefused(LoginStatus.INITIATOR_ERROR, "security keys outside of the security stage")
            answers += wish.keys.declare()
        return answers + wish.keys.answer(pairs)

    def _admit(self, offered: dict[str, str]) -> _Wish:
        """Find out from the first text who wants to use what, and ask whether it may."""
        session_type = offered.get("SessionType", "Normal")
        if session_type not in ("Normal", "Discovery"):
            raise LoginRefused(LoginStatus.SESSION_TYPE_NOT_SUPPORTED, "unknown SessionType")
        discovery = session_type == "Discovery"
        for name in ("InitiatorName",) if discovery else ("InitiatorName", "TargetName"):
            if name not in offered:
                raise LoginRefused(LoginStatus.MISSING_PARAMETER, f"{name} is missing")
        try:
            initiator_name = check_peer_name(offered["InitiatorName"])
        except InvalidName as error:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, f"InitiatorName {error}") from None
        self._initiator_name = initiator_name
        target_name = ""
        if discovery:
            admission = self._directory.admit_discovery(initiator_name, self._addresses)
        else:
            try:
                target_name = check_peer_name(offered["TargetName"])
            except InvalidName as error:
                raise LoginRefused(LoginStatus.NOT_FOUND, f"TargetName {error}") from None
            admission = self._directory.admit(initiator_name, target_name, self._addresses)
        first = self._first
        assert first is not None
        options = admission.options or self._options
        return _Wish(
            SessionKey(initiator_name, first.isid, target_name, admission.target_portal_group_tag),
            admission,
            options,
            discovery,
            SecurityNegotiation(admission.chap, self._random_bytes),
            OperationalKeys(options, discovery=discovery, existing=bool(first.tsih)),
        )

    @staticmethod
    def _introduce(wish: _Wish) -> list[tuple[str, str]]:
        """Return what the first response that has text must and may tell (13.9, 13.6)."""
        pairs = [("TargetPortalGroupTag", str(wish.admission.target_portal_group_tag))]
        if wish.admission.target_alias and not wish.discovery:
            pairs.append(("TargetAlias", wish.admission.target_alias))
        return pairs

    # --- responses ---

    def _respond(
        self,
        request: LoginRequest,
        segment: bytes,
        *,
        transit: bool = False,
        tsih: int | None = None,
        status: LoginStatus = LoginStatus.SUCCESS,
        max_cmd_sn: int | None = None,
        exp_cmd_sn: int | None = None,
    ) -> None:
        if exp_cmd_sn is None:
            exp_cmd_sn = self._first.cmd_sn if self._first else request.cmd_sn
        if max_cmd_sn is None:
            max_cmd_sn = (exp_cmd_sn + self._options.window_commands - 1) & MASK
        response = LoginResponse(
            transit,
            False,
            request.current_stage,
            request.next_stage if transit else 0,
            _VERSION,
            _VERSION,
            request.isid,
            request.tsih if tsih is None else tsih,
            request.initiator_task_tag,
            self._stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            status,
        )
        self._stat_sn = (self._stat_sn + 1) & MASK
        self._connection.writer.send(encode_login_response(response, len(segment)), segment)

    def _refuse(self, request: LoginRequest, refused: LoginRefused) -> None:
        """Send the status and end the connection (11.13.5)."""
        pairs = [("TargetAddress", refused.target_address)] if refused.target_address else []
        self._respond(request, encode_text(pairs), status=refused.status)
        self._connection.refuse(
            LoginFailed(refused.status, self._initiator_name, f"login refused with {refused.status:#06x}: {refused}")
        )

    # --- the session ---

    def _finish(self, request: LoginRequest, segment: bytes) -> None:
        """Make the session, or the new connection of one, as soon as what it replaces has ended."""
        wish, connection = self._wish, self._connection
        assert wish is not None
        if connection.closing:
            return
        if request.tsih:
            self._reinstate_connection(wish, request, segment)
            return
        if not wish.discovery:
            old = self._registry.find(wish.key)
            if old is not None:
                connection.take_over(old)
            for ended in self._registry.draining(wish.key) - self._waited_for:
                self._waited_for.add(ended)
                connection.wait_until_drained(ended, self._again(request, segment))
                return
        session = Session(
            wish.key,
            wish.admission,
            wish.options,
            discovery=wish.discovery,
            cid=request.cid,
            cmd_sn=request.cmd_sn,
            initiator_alias=str(wish.keys.values.get("InitiatorAlias", "")),
        )
        if not self._registry.add(session):
            raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "too many sessions")
        self._enter(session, request, segment, wish.keys.make_parameters())
        connection.announce_session()

    def _again(self, request: LoginRequest, segment: bytes) -> Callable[[], None]:
        """Return what finishes the login later."""
        return lambda: self._guard(request, lambda: self._finish(request, segment))

    def _reinstate_connection(self, wish: _Wish, request: LoginRequest, segment: bytes) -> None:
        """Give a session a new connection in place of its old one (6.3.4)."""
        session = self._registry.find_tsih(request.tsih)
        if session is None or session.key != wish.key or session.discovery != wish.discovery:
            raise LoginRefused(LoginStatus.SESSION_DOES_NOT_EXIST, "no such session")
        if session.cid != request.cid:
            raise LoginRefused(LoginStatus.TOO_MANY_CONNECTIONS, "a session has one connection")
        if session.connection is not self._connection:
            self._connection.take_connection(session)
            # Without a bound but the login's own: the SCSI layer does not know that these tasks were aborted.
            session.when_drained(self._again(request, segment))
            return
        mine = wish.keys.make_parameters()
        parameters = replace(
            session.parameters,
            header_digest=mine.header_digest,
            data_digest=mine.data_digest,
            max_recv_data_segment_length=mine.max_recv_data_segment_length,
            max_send_data_segment_length=mine.max_send_data_segment_length,
        )
        self._enter(session, request, segment, parameters)
        self._connection.announce_session()

    def _enter(self, session: Session, request: LoginRequest, segment: bytes, parameters: Parameters) -> None:
        """Send the last response, and leave the connection to the session."""
        assert self._wish is not None
        session.chap_algorithm = self._wish.security.algorithm
        max_cmd_sn = (session.exp_cmd_sn + session.options.window_commands - 1) & MASK
        self._respond(
            request,
            segment,
            transit=True,
            tsih=session.tsih,
            exp_cmd_sn=session.exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
        )
        self._connection.enter_full_feature_phase(session, parameters, self._stat_sn)
