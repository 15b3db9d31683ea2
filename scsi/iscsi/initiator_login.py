"""The login of an initiator: from the first Login Request to full feature phase, or to a reason why not.

How this works. Each Login Response is answered by one Login Request until the target has agreed to full feature phase:

    SECURITY     names, AuthMethod; then CHAP: our algorithms → its challenge → our response (and challenge) → its proof
    OPERATIONAL  everything offered in one request; answers are checked by the rules of `keys`, offers of the target's
                 own are answered
    DONE         `parameters` has what the session works with

A text may come in parts (the C bit); each is asked for with an empty request. What a target sends is counted and
bounded, in bytes and in responses.

Spec: RFC 7143 6.3 "Login Phase", 11.12, 11.13, 12.1.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from scsi.iscsi.chap import ChapFailure, ChapInitiator, RandomBytes
from scsi.iscsi.errors import LoginStatus, ProtocolError
from scsi.iscsi.initiator_options import InitiatorOptions
from scsi.iscsi.keys import (
    CRC32C,
    KEYS,
    MAX_NEGOTIATION_BYTES,
    NONE,
    NOT_UNDERSTOOD,
    Parameters,
    Rule,
    Scope,
    TextError,
    Value,
    answer_offer,
    check_answer,
    decode_number,
    decode_text,
    encode_text,
    encode_value,
    make_parameters,
)
from scsi.iscsi.pdu import FULL_FEATURE_PHASE, OPERATIONAL_NEGOTIATION, SECURITY_NEGOTIATION
from scsi.iscsi.session_pdus import LoginRequest, LoginResponse

MAX_EXCHANGES = 64
MAX_LOGIN_SEGMENT_BYTES = 8192  # what either side sends before anything is declared (13.12)
Pairs = list[tuple[str, str]]

# Annex's own wishes where the options have none.
_WANTED: Mapping[str, Value | tuple[str, ...]] = {
    "MaxConnections": 1,
    "DataPDUInOrder": True,
    "DataSequenceInOrder": True,
    "ErrorRecoveryLevel": 0,
    "DefaultTime2Wait": 0,
    "DefaultTime2Retain": 0,
    "iSCSIProtocolLevel": 1,
    "IFMarker": False,
    "OFMarker": False,
    "TaskReporting": ("RFC3720",),
    "HeaderDigest": (NONE, CRC32C),
    "DataDigest": (NONE, CRC32C),
}
_OF_THE_TARGET = frozenset({"TargetPortalGroupTag", "TargetAlias", "TargetAddress", "TargetName"})


class LoginFailed(ProtocolError):
    """The login can not succeed.

    Attributes:
        status: the target's status when it refused.
        moved_to: TargetAddress of a redirection, or "".
    """

    def __init__(self, text: str, status: LoginStatus | int | None = None, moved_to: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.moved_to = moved_to


class Stage(enum.Enum):
    """Where the login stands: what the next complete text of the target is an answer to."""

    METHOD = "AuthMethod offered"
    ALGORITHM = "CHAP_A offered"
    PROOF = "CHAP response sent"
    LEAVING = "nothing left to prove"
    OPERATIONAL = "operational keys offered"
    DONE = "full feature phase"


class InitiatorLogin:
    """One login. `first_request`, then `answer` for each response until `stage` is DONE.

    Attributes:
        stage: where it stands.
        parameters: what was negotiated, once DONE.
        target_portal_group_tag: as declared by the target, or None.
        tsih: the session's handle, once DONE.
        stat_sn: of the last response.
        chap_algorithm: the number that the target chose, once it has.
    """

    def __init__(self, options: InitiatorOptions, initial_cmd_sn: int, random_bytes: RandomBytes) -> None:
        self.stage = Stage.METHOD
        self.parameters = Parameters()
        self.target_portal_group_tag: int | None = None
        self.tsih = 0
        self.stat_sn: int | None = None
        self.chap_algorithm: int | None = None
        self._options = options
        self._cmd_sn = initial_cmd_sn
        self._chap: ChapInitiator | None = None
        if options.chap is not None:
            self._chap = ChapInitiator(options.chap, options.mutual_chap, options.chap_algorithms, random_bytes)
        self._csg = SECURITY_NEGOTIATION
        self._text = bytearray()
        self._exchanges = 0
        self._offered: dict[str, str] = {}
        self._results: dict[str, Value] = {}
        self._asked_transit = False

    def first_request(self) -> tuple[LoginRequest, bytes]:
        """Return the request that begins, with its text.

        Raises:
            LoginFailed: the options contradict each other.
        """
        options = self._options
        if options.mutual_chap is not None and options.chap is None:
            raise LoginFailed("mutual CHAP needs a name and secret of annex's own")
        pairs = [("InitiatorName", options.initiator_name)]
        pairs += [("SessionType", "Normal"), ("TargetName", options.target_name)] if options.target_name else []
        pairs += [] if options.target_name else [("SessionType", "Discovery")]
        # A target that does not authenticate can not be harmed by annex's one-way CHAP; a mutual one is insisted on.
        methods = [] if options.chap is None else ["CHAP"]
        methods += [] if options.mutual_chap is not None else [NONE]
        pairs.append(("AuthMethod", ",".join(methods)))
        return self._request(pairs, transit=options.chap is None, next_stage=OPERATIONAL_NEGOTIATION)

    def answer(self, response: LoginResponse, data: bytes) -> tuple[LoginRequest, bytes] | None:
        """Take a response, and return the request that answers it; None when the login is done.

        Raises:
            LoginFailed: refused by the target, or not to be trusted.
        """
        try:
            self._check(response, data)
            if response.more:
                asked = self._asked_transit  # by the request whose answer comes in parts
                request = self._request([], transit=False, next_stage=0)
                self._asked_transit = asked
                return request
            pairs = dict(decode_text(bytes(self._text)))
            self._text.clear()
            return self._step(response, pairs)
        except (TextError, ChapFailure) as error:
            raise LoginFailed(str(error)) from None

    def _check(self, response: LoginResponse, data: bytes) -> None:
        self._exchanges += 1
        self._text += data
        if response.status:
            self._refuse(response.status)
        if response.version_active:
            raise LoginFailed(f"the target wants version {response.version_active}")
        if response.isid != self._options.isid:
            raise LoginFailed("the target answers another ISID")
        if self.stat_sn is not None and response.stat_sn != (self.stat_sn + 1) & 0xFFFFFFFF:
            raise LoginFailed(f"StatSN {response.stat_sn:#x} after {self.stat_sn:#x}")
        self.stat_sn = response.stat_sn
        if response.current_stage != self._csg:
            raise LoginFailed(f"the target is in stage {response.current_stage}, not {self._csg}")
        if response.transit and (response.more or not self._asked_transit):
            raise LoginFailed("the target goes on to a stage that it was not asked for")
        if self._exchanges > MAX_EXCHANGES or len(self._text) > MAX_NEGOTIATION_BYTES:
            raise LoginFailed("the target does not come to an end")

    def _refuse(self, code: int) -> None:
        known = code in set(LoginStatus)
        name = LoginStatus(code).name.lower().replace("_", " ") if known else "unknown status"
        moved_to = ""
        if code >> 8 == 1:
            moved_to = dict(decode_text(bytes(self._text))).get("TargetAddress", "")
        status = LoginStatus(code) if known else code
        raise LoginFailed(f"login refused: {name} ({code:#06x}) {moved_to}".rstrip(), status, moved_to)

    def _step(self, response: LoginResponse, pairs: dict[str, str]) -> tuple[LoginRequest, bytes] | None:
        tag = pairs.get("TargetPortalGroupTag")
        if tag is not None:
            self.target_portal_group_tag = decode_number(tag, 0, 65535)
        if self._csg == SECURITY_NEGOTIATION:
            return self._secure(response, pairs)
        return self._operate(response, pairs)

    # --- security negotiation ---

    def _secure(self, response: LoginResponse, pairs: dict[str, str]) -> tuple[LoginRequest, bytes]:
        if response.transit and response.next_stage != OPERATIONAL_NEGOTIATION:
            raise LoginFailed(f"the target goes on to stage {response.next_stage}")
        chap = self._chap
        if self.stage is Stage.METHOD:
            method = pairs.get("AuthMethod", NONE)
            if method == NONE and self._options.mutual_chap is None:
                return self._leave_security(response)
            if method != "CHAP" or chap is None:
                raise LoginFailed(f"the target wants AuthMethod {method[:64]!r}")
            self.stage = Stage.ALGORITHM
            return self._request(chap.offer(), transit=False, next_stage=0)
        if self.stage is Stage.LEAVING:
            return self._leave_security(response)
        assert chap is not None
        if self.stage is Stage.ALGORITHM:
            self.chap_algorithm = decode_number(pairs.get("CHAP_A", ""), 0, 255)
            answer = chap.answer(pairs)
            self.stage = Stage.PROOF
            return self._request(answer, transit=True, next_stage=OPERATIONAL_NEGOTIATION)
        if not chap.done:
            chap.verify(pairs)
        return self._leave_security(response)

    def _leave_security(self, response: LoginResponse) -> tuple[LoginRequest, bytes]:
        self.stage = Stage.LEAVING
        if not response.transit:
            return self._request([], transit=True, next_stage=OPERATIONAL_NEGOTIATION)
        self.stage = Stage.OPERATIONAL
        self._csg = OPERATIONAL_NEGOTIATION
        self._offered = dict(self._offers())
        return self._request(list(self._offered.items()), transit=True, next_stage=FULL_FEATURE_PHASE)

    # --- operational negotiation ---

    def _offers(self) -> Pairs:
        options = self._options
        offers: list[tuple[str, Value]] = [
            ("HeaderDigest", CRC32C if options.header_digest else f"{NONE},{CRC32C}"),
            ("DataDigest", CRC32C if options.data_digest else f"{NONE},{CRC32C}"),
            ("MaxRecvDataSegmentLength", options.max_recv_data_segment_length),
            ("DefaultTime2Wait", 0),
            ("DefaultTime2Retain", 0),
            ("ErrorRecoveryLevel", 0),
        ]
        if options.target_name:
            offers += [
                ("InitialR2T", options.initial_r2t),
                ("ImmediateData", options.immediate_data),
                ("MaxBurstLength", options.max_burst_length),
                ("FirstBurstLength", min(options.first_burst_length, options.max_burst_length)),
                ("MaxOutstandingR2T", options.max_outstanding_r2t),
                ("MaxConnections", 1),
                ("DataPDUInOrder", True),
                ("DataSequenceInOrder", True),
            ]
        return [(name, encode_value(value)) for name, value in offers]

    def _operate(self, response: LoginResponse, pairs: dict[str, str]) -> tuple[LoginRequest, bytes] | None:
        answers: Pairs = []
        for name, text in pairs.items():
            if name in _OF_THE_TARGET:
                continue
            key = KEYS.get(name)
            if key is not None and key.rule is Rule.DECLARE:
                _, result = answer_offer(key, text, None)
                if result is None:
                    raise LoginFailed(f"{name}: bad value {text[:64]!r}")
                self._results[name] = result
            elif name in self._offered:
                assert key is not None
                self._take_answer(name, self._offered.pop(name), text)
            else:
                answers.append((name, self._answer_offer(name, text)))
        if not response.transit:
            if not answers and self._exchanges > MAX_EXCHANGES // 2:
                raise LoginFailed("the target does not agree to full feature phase")
            return self._request(answers, transit=True, next_stage=FULL_FEATURE_PHASE)
        if response.next_stage != FULL_FEATURE_PHASE:
            raise LoginFailed(f"the target goes on to stage {response.next_stage}")
        if answers:
            raise LoginFailed(f"the target offers {answers[0][0]} and leaves the negotiation")
        self._finish(response)
        return None

    def _take_answer(self, name: str, offered: str, text: str) -> None:
        result = check_answer(KEYS[name], offered, text)
        if result is not None:
            self._results[name] = result

    def _answer_offer(self, name: str, text: str) -> str:
        key = KEYS.get(name)
        if key is None or name in self._results or key.scope is Scope.FULL_FEATURE:
            return NOT_UNDERSTOOD
        wanted = _WANTED.get(name)
        if wanted is None and key.rule is not Rule.OBSOLETE:
            return NOT_UNDERSTOOD
        answer, result = answer_offer(key, text, wanted)
        if result is not None:
            self._results[name] = result
        return answer

    def _finish(self, response: LoginResponse) -> None:
        if not response.tsih:
            raise LoginFailed("the target made no session (TSIH 0)")
        parameters = make_parameters(self._results, self._options.max_recv_data_segment_length)
        options = self._options
        if (options.header_digest and not parameters.header_digest) or (
            options.data_digest and not parameters.data_digest
        ):
            raise LoginFailed("the target does not do the digests that are configured")
        if parameters.error_recovery_level:
            raise LoginFailed(f"the target wants ErrorRecoveryLevel {parameters.error_recovery_level}")
        self.tsih = response.tsih
        self.parameters = parameters
        self.stage = Stage.DONE

    def _request(self, pairs: Pairs, *, transit: bool, next_stage: int) -> tuple[LoginRequest, bytes]:
        data = encode_text(pairs)
        if len(data) > MAX_LOGIN_SEGMENT_BYTES:
            raise LoginFailed(f"our own text has {len(data)} bytes, more than a Login Request carries")
        self._asked_transit = transit
        exp_stat_sn = 0 if self.stat_sn is None else (self.stat_sn + 1) & 0xFFFFFFFF
        request = LoginRequest(
            transit,
            False,
            self._csg,
            next_stage if transit else 0,
            0,
            0,
            self._options.isid,
            0,
            1,
            0,
            self._cmd_sn,
            exp_stat_sn,
        )
        return request, data
