"""What a peer can do wrong; each class is what the peer gets to see of it: a Reject, a login status, or the end."""

from __future__ import annotations

import enum


class RejectReason(enum.IntEnum):
    """Why a PDU was rejected. Spec: RFC 7143 11.17.1 "Reason"."""

    DATA_DIGEST_ERROR = 0x02
    SNACK_REJECT = 0x03
    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    TOO_MANY_IMMEDIATE_COMMANDS = 0x06
    TASK_IN_PROGRESS = 0x07
    INVALID_DATA_ACK = 0x08
    INVALID_PDU_FIELD = 0x09
    OUT_OF_RESOURCES = 0x0A
    WAITING_FOR_LOGOUT = 0x0C


class LoginStatus(enum.IntEnum):
    """How a login ended: Status-Class in the high byte, Status-Detail in the low one.

    Spec: RFC 7143 11.13.5 "Status-Class and Status-Detail".
    """

    SUCCESS = 0x0000
    TARGET_MOVED_TEMPORARILY = 0x0101
    TARGET_MOVED_PERMANENTLY = 0x0102
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    NOT_FOUND = 0x0203
    TARGET_REMOVED = 0x0204
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    CAN_NOT_INCLUDE_IN_SESSION = 0x0208
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    SERVICE_UNAVAILABLE = 0x0301
    OUT_OF_RESOURCES = 0x0302


class ProtocolError(Exception):
    """The peer broke the protocol; the text is for the log and quotes nothing long that the peer sent."""


class ConnectionFault(ProtocolError):
    """Nothing more can be made of what this peer sends: the connection is closed."""


class Rejected(ProtocolError):
    """One PDU is answered with a Reject; the session goes on.

    Attributes:
        reason: what the Reject says.
    """

    def __init__(self, reason: RejectReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class LoginRefused(ProtocolError):
    """A login ends with this status, and the connection with it.

    Attributes:
        status: what the Login Response says.
        target_address: for the "moved" statuses, where to go.
    """

    def __init__(self, status: LoginStatus, text: str, target_address: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.target_address = target_address
