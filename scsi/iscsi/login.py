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
from typing import TYPE_CHECKING

from scsi.iscsi.chap import ChapFailure, ChapTarget, RandomBytes
from scsi.iscsi.directory import Addresses, Admission, TargetDirectory
from scsi.iscsi.errors import ConnectionFault, LoginRefused, LoginStatus
from scsi.iscsi.keys import (
    DEFAULT_DATA_SEGMENT_BYTES,
    IRRELEVANT,
    KEYS,
    MAX_NEGOTIATION_BYTES,
    NONE,
    NOT_UNDERSTOOD,
    REJECT,
    Key,
    Parameters,
    Rule,
    Scope,
    TextError,
    Value,
    answer_offer,
    decode_text,
    encode_text,
    make_parameters,
)
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
        self._values: dict[str, Value] = {}
        self._admission: Admission | None = None
        self._chap: ChapTarget | None = None
        self._introduced = False  # the portal group tag has been told
        self._declared_recv_bytes = 0  # what we declared, 0 while we have not
        self._finishing = False
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
        transit = request.transit and self._may_leave_stage()
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

    def _may_leave_stage(self) -> bool:
        """Say whether the initiator may go on; refuse when it never will be able to."""
        if self._authenticated:
            return True
        if self._chap is None:
            raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, "CHAP is required and not offered")
        return False

    @property
    def _authenticated(self) -> bool:
        assert self._admission is not None
        return self._admission.chap is None or (self._chap is not None and self._chap.done)

    # --- text ---

    def _negotiate(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Answer the keys of one text."""
        for name, _value in pairs:
            if name in self._seen:
                raise TextError(f"{name} is declared twice")
            self._seen.add(name)
        if self._admission is None:
            self._admit(dict(pairs))
        if self._stage == OPERATIONAL_NEGOTIATION and not self._authenticated:
            raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, "authentication is required and skipped")
        answers = self._introduce()
        answers += self._authenticate(pairs)
        if self._stage == OPERATIONAL_NEGOTIATION and not self._declared_recv_bytes:
            self._declared_recv_bytes = self._effective_options.max_recv_data_segment_length
            answers.append(("MaxRecvDataSegmentLength", str(self._declared_recv_bytes)))
        # FirstBurstLength last, because MaxBurstLength bounds it whatever the order they come in (13.14).
        for name, value in sorted(pairs, key=lambda pair: pair[0] == "FirstBurstLength"):
            if name == "AuthMethod" or name.startswith("CHAP_"):
                continue
            answer = self._answer(name, value)
            if answer:
                answers.append((name, answer))
        return answers

    @property
    def _effective_options(self) -> TargetOptions:
        assert self._admission is not None
        return self._admission.options or self._options

    def _admit(self, offered: dict[str, str]) -> None:
        """Find out from the first text who wants to use what, and ask whether it may."""
        session_type = offered.get("SessionType", "Normal")
        if session_type not in ("Normal", "Discovery"):
            raise LoginRefused(LoginStatus.SESSION_TYPE_NOT_SUPPORTED, "unknown SessionType")
        self._discovery = session_type == "Discovery"
        wanted = ("InitiatorName",) if self._discovery else ("InitiatorName", "TargetName")
        for name in wanted:
            if name not in offered:
                raise LoginRefused(LoginStatus.MISSING_PARAMETER, f"{name} is missing")
        try:
            self._initiator_name = check_peer_name(offered["InitiatorName"])
        except InvalidName as error:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, f"InitiatorName {error}") from None
        self._target_name = ""
        if self._discovery:
            self._admission = self._directory.admit_discovery(self._initiator_name, self._addresses)
            return
        try:
            self._target_name = check_peer_name(offered["TargetName"])
        except InvalidName as error:
            raise LoginRefused(LoginStatus.NOT_FOUND, f"TargetName {error}") from None
        self._admission = self._directory.admit(self._initiator_name, self._target_name, self._addresses)

    def _introduce(self) -> list[tuple[str, str]]:
        """Return what the first response that has text must and may tell (13.9, 13.6)."""
        assert self._admission is not None
        if self._introduced:
            return []
        self._introduced = True
        pairs = [("TargetPortalGroupTag", str(self._admission.target_portal_group_tag))]
        if self._admission.target_alias and not self._discovery:
            pairs.append(("TargetAlias", self._admission.target_alias))
        return pairs

    def _authenticate(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Answer the security keys (12)."""
        assert self._admission is not None
        security = {name: value for name, value in pairs if name == "AuthMethod" or name.startswith("CHAP_")}
        if not security:
            return []
        if self._stage != SECURITY_NEGOTIATION:
            raise LoginRefused(LoginStatus.INITIATOR_ERROR, "security keys outside of the security stage")
        answers: list[tuple[str, str]] = []
        policy = self._admission.chap
        offered = security.pop("AuthMethod", None)
        if offered is not None:
            method, _ = answer_offer(KEYS["AuthMethod"], offered, (NONE,) if policy is None else ("CHAP",))
            if method == REJECT:
                raise LoginRefused(LoginStatus.AUTHENTICATION_FAILURE, "no authentication method in common")
            answers.append(("AuthMethod", method))
            if policy is not None:
                self._chap = ChapTarget(policy, self._random_bytes)
        if security:
            if self._chap is None:
                raise LoginRefused(LoginStatus.INITIATOR_ERROR, "CHAP keys without AuthMethod=CHAP")
            # The three steps use CHAP_N, CHAP_I and so on of either side; each is declared once by each.
            answers += self._chap.step(security)
        return answers

    def _answer(self, name: str, value: str) -> str:
        """Answer one key that is not of the security stage; `""` when there is nothing to say."""
        key = KEYS.get(name)
        if key is None:
            return NOT_UNDERSTOOD
        if not key.from_initiator or key.scope is Scope.FULL_FEATURE:
            raise TextError(f"{name} is not for an initiator to send during login")
        if self._discovery and not key.in_discovery:
            return IRRELEVANT
        assert self._first is not None
        if self._first.tsih and key.scope is Scope.LEADING and key.rule is not Rule.DECLARE:
            return REJECT  # belongs to the session, which exists
        answer, result = answer_offer(key, value, self._wanted(key))
        if result is not None:
            self._values[name] = result
        return answer

    def _wanted(self, key: Key) -> Value | tuple[str, ...] | None:
        wanted = self._effective_options.wanted().get(key.name)
        if key.name == "FirstBurstLength":
            max_burst_length = self._values.get("MaxBurstLength", KEYS["MaxBurstLength"].default)
            assert isinstance(wanted, int)
            assert isinstance(max_burst_length, int)
            return min(wanted, max_burst_length)
        return wanted

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
        self._connection.refuse(f"login refused with {refused.status:#06x}: {refused}")

    # --- the session ---

    def _finish(self, request: LoginRequest, segment: bytes) -> None:
        """Make the session, or the new connection of one, as soon as what it replaces has ended."""
        if self._connection.closing:
            return
        if request.tsih:
            self._reinstate_connection(request, segment)
            return
        assert self._admission is not None
        key = SessionKey(self._initiator_name, request.isid, self._target_name, self._admission.target_portal_group_tag)
        if not self._discovery:
            old = self._registry.find(key)
            if old is not None:
                self._connection.take_over(old)
            for session in self._registry.draining(key) - self._waited_for:
                self._waited_for.add(session)
                self._connection.wait_until_drained(session, self._again(request, segment))
                return
        session = Session(
            key,
            self._admission,
            self._effective_options,
            discovery=self._discovery,
            cid=request.cid,
            cmd_sn=request.cmd_sn,
            initiator_alias=str(self._values.get("InitiatorAlias", "")),
        )
        if not self._registry.add(session):
            raise LoginRefused(LoginStatus.OUT_OF_RESOURCES, "too many sessions")
        self._enter(session, request, segment, self._make_parameters())
        self._connection.announce_session()

    def _again(self, request: LoginRequest, segment: bytes) -> Callable[[], None]:
        """Return what finishes the login later."""
        return lambda: self._guard(request, lambda: self._finish(request, segment))

    def _make_parameters(self) -> Parameters:
        return make_parameters(self._values, self._declared_recv_bytes or DEFAULT_DATA_SEGMENT_BYTES)

    def _reinstate_connection(self, request: LoginRequest, segment: bytes) -> None:
        """Give a session a new connection in place of its old one (6.3.4)."""
        assert self._admission is not None
        session = self._registry.find_tsih(request.tsih)
        key = SessionKey(self._initiator_name, request.isid, self._target_name, self._admission.target_portal_group_tag)
        if session is None or session.key != key or session.discovery != self._discovery:
            raise LoginRefused(LoginStatus.SESSION_DOES_NOT_EXIST, "no such session")
        if session.cid != request.cid:
            raise LoginRefused(LoginStatus.TOO_MANY_CONNECTIONS, "a session has one connection")
        if session.connection is not self._connection:
            self._connection.take_connection(session)
            # Without a bound but the login's own: the SCSI layer does not know that these tasks were aborted.
            session.when_drained(self._again(request, segment))
            return
        if session.end_reason is not None:
            raise LoginRefused(LoginStatus.SESSION_DOES_NOT_EXIST, "the session has ended")
        mine = self._make_parameters()
        parameters = replace(
            session.parameters,
            header_digest=mine.header_digest,
            data_digest=mine.data_digest,
            max_recv_data_segment_length=mine.max_recv_data_segment_length,
            max_send_data_segment_length=mine.max_send_data_segment_length,
        )
        self._enter(session, request, segment, parameters)

    def _enter(self, session: Session, request: LoginRequest, segment: bytes, parameters: Parameters) -> None:
        """Send the last response, and leave the connection to the session."""
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
