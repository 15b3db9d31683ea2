"""The PDUs that keep a session: login, text, logout, NOP, Reject, Async Message; encoders next to decoders.

Spec: RFC 7143 11.9 to 11.15 and 11.17 to 11.19.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from scsi.iscsi.pdu import (
    ASYNC_MESSAGE,
    FINAL,
    IMMEDIATE,
    LOGIN_CONTINUE,
    LOGIN_REQUEST,
    LOGIN_RESPONSE,
    LOGIN_TRANSIT,
    LOGOUT_REQUEST,
    LOGOUT_RESPONSE,
    NO_LUN,
    NOP_IN,
    NOP_OUT,
    REJECT,
    REQUEST,
    RESERVED_TAG,
    RESPONSE,
    TEXT_CONTINUE,
    TEXT_REQUEST,
    TEXT_RESPONSE,
    Header,
)

_SHORT = struct.Struct(">H")

# --- Asynchronous Message (11.9) ---

_ASYNC_MESSAGE = struct.Struct(">BB2xI8sI4xIIIBBHHH4x")


class AsyncMessage(NamedTuple):
    """A decoded Asynchronous Message."""

    lun: bytes
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    event: int
    vendor_code: int
    parameters: tuple[int, int, int]


def encode_async_message(message: AsyncMessage, data_bytes: int = 0) -> bytes:
    """Return the header of an Asynchronous Message."""
    return _ASYNC_MESSAGE.pack(
        ASYNC_MESSAGE,
        FINAL,
        data_bytes,
        message.lun,
        RESERVED_TAG,
        message.stat_sn,
        message.exp_cmd_sn,
        message.max_cmd_sn,
        message.event,
        message.vendor_code,
        *message.parameters,
    )


def decode_async_message(header: Header) -> AsyncMessage:
    """Take an Asynchronous Message's header apart."""
    word, second = header[10], header[11]
    return AsyncMessage(
        header[4],
        header[7],
        header[8],
        header[9],
        word >> 24,
        word >> 16 & 0xFF,
        (word & 0xFFFF, second >> 16, second & 0xFFFF),
    )


# --- Text Request (11.10) and Response (11.11) ---


class TextRequest(NamedTuple):
    """A decoded Text Request header."""

    final: bool
    more: bool
    lun: bytes
    initiator_task_tag: int
    target_transfer_tag: int
    cmd_sn: int
    exp_stat_sn: int


def encode_text_request(request: TextRequest, data_bytes: int, immediate: int = 0) -> bytes:
    """Return the header of a Text Request."""
    flags = (FINAL if request.final else 0) | (TEXT_CONTINUE if request.more else 0)
    return REQUEST.pack(TEXT_REQUEST | immediate, flags, 0, data_bytes, *request[2:7], bytes(16))


def decode_text_request(header: Header) -> TextRequest:
    """Take a Text Request's header apart."""
    return TextRequest(header[1] >= FINAL, bool(header[1] & TEXT_CONTINUE), *header[4:9])


class TextResponse(NamedTuple):
    """A decoded Text Response header."""

    final: bool
    more: bool
    lun: bytes
    initiator_task_tag: int
    target_transfer_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int


def encode_text_response(response: TextResponse, data_bytes: int) -> bytes:
    """Return the header of a Text Response."""
    flags = (FINAL if response.final else 0) | (TEXT_CONTINUE if response.more else 0)
    return RESPONSE.pack(TEXT_RESPONSE, flags, 0, data_bytes, *response[2:8], 0, 0, 0)


def decode_text_response(header: Header) -> TextResponse:
    """Take a Text Response's header apart."""
    return TextResponse(header[1] >= FINAL, bool(header[1] & TEXT_CONTINUE), *header[4:10])


# --- Login Request (11.12) and Response (11.13) ---


class LoginRequest(NamedTuple):
    """A decoded Login Request header."""

    transit: bool
    more: bool
    current_stage: int
    next_stage: int
    version_max: int
    version_min: int
    isid: bytes
    tsih: int
    initiator_task_tag: int
    cid: int
    cmd_sn: int
    exp_stat_sn: int


def encode_login_request(request: LoginRequest, data_bytes: int) -> bytes:
    """Return the header of a Login Request."""
    return REQUEST.pack(
        LOGIN_REQUEST | IMMEDIATE,
        _encode_stages(request.transit, request.more, request.current_stage, request.next_stage),
        request.version_max << 8 | request.version_min,
        data_bytes,
        request.isid + _SHORT.pack(request.tsih),
        request.initiator_task_tag,
        request.cid << 16,
        request.cmd_sn,
        request.exp_stat_sn,
        bytes(16),
    )


def decode_login_request(header: Header) -> LoginRequest:
    """Take a Login Request's header apart."""
    flags, lun = header[1], header[4]
    return LoginRequest(
        bool(flags & LOGIN_TRANSIT),
        bool(flags & LOGIN_CONTINUE),
        flags >> 2 & 3,
        flags & 3,
        header[2] >> 8,
        header[2] & 0xFF,
        lun[:6],
        _SHORT.unpack_from(lun, 6)[0],
        header[5],
        header[6] >> 16,
        header[7],
        header[8],
    )


class LoginResponse(NamedTuple):
    """A decoded Login Response header; `status` is Status-Class << 8 | Status-Detail."""

    transit: bool
    more: bool
    current_stage: int
    next_stage: int
    version_max: int
    version_active: int
    isid: bytes
    tsih: int
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    status: int


def encode_login_response(response: LoginResponse, data_bytes: int) -> bytes:
    """Return the header of a Login Response."""
    return RESPONSE.pack(
        LOGIN_RESPONSE,
        _encode_stages(response.transit, response.more, response.current_stage, response.next_stage),
        response.version_max << 8 | response.version_active,
        data_bytes,
        response.isid + _SHORT.pack(response.tsih),
        response.initiator_task_tag,
        0,
        response.stat_sn,
        response.exp_cmd_sn,
        response.max_cmd_sn,
        response.status << 16,
        0,
        0,
    )


def decode_login_response(header: Header) -> LoginResponse:
    """Take a Login Response's header apart."""
    flags, lun = header[1], header[4]
    return LoginResponse(
        bool(flags & LOGIN_TRANSIT),
        bool(flags & LOGIN_CONTINUE),
        flags >> 2 & 3,
        flags & 3,
        header[2] >> 8,
        header[2] & 0xFF,
        lun[:6],
        _SHORT.unpack_from(lun, 6)[0],
        header[5],
        header[7],
        header[8],
        header[9],
        header[10] >> 16,
    )


def _encode_stages(transit: bool, more: bool, current_stage: int, next_stage: int) -> int:
    flags = (LOGIN_TRANSIT if transit else 0) | (LOGIN_CONTINUE if more else 0)
    return flags | current_stage << 2 | next_stage


# --- Logout Request (11.14) and Response (11.15) ---


class LogoutRequest(NamedTuple):
    """A decoded Logout Request."""

    reason: int
    initiator_task_tag: int
    cid: int
    cmd_sn: int
    exp_stat_sn: int


def encode_logout_request(request: LogoutRequest, immediate: int = IMMEDIATE) -> bytes:
    """Return the PDU (there is no data segment)."""
    return REQUEST.pack(
        LOGOUT_REQUEST | immediate,
        FINAL | request.reason,
        0,
        0,
        NO_LUN,
        request.initiator_task_tag,
        request.cid << 16,
        request.cmd_sn,
        request.exp_stat_sn,
        bytes(16),
    )


def decode_logout_request(header: Header) -> LogoutRequest:
    """Take a Logout Request apart."""
    return LogoutRequest(header[1] & 0x7F, header[5], header[6] >> 16, header[7], header[8])


class LogoutResponse(NamedTuple):
    """A decoded Logout Response; the two times are in seconds."""

    response: int
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    time2wait: int
    time2retain: int


def encode_logout_response(response: LogoutResponse) -> bytes:
    """Return the PDU (there is no data segment)."""
    return RESPONSE.pack(
        LOGOUT_RESPONSE,
        FINAL,
        response.response << 8,
        0,
        NO_LUN,
        response.initiator_task_tag,
        0,
        response.stat_sn,
        response.exp_cmd_sn,
        response.max_cmd_sn,
        0,
        response.time2wait << 16 | response.time2retain,
        0,
    )


def decode_logout_response(header: Header) -> LogoutResponse:
    """Take a Logout Response apart."""
    return LogoutResponse(
        header[2] >> 8, header[5], header[7], header[8], header[9], header[11] >> 16, header[11] & 0xFFFF
    )


# --- Reject (11.17) ---


class Reject(NamedTuple):
    """A decoded Reject; its data segment is the header that was rejected."""

    reason: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    data_sn: int


def encode_reject(reject: Reject, data_bytes: int) -> bytes:
    """Return the header of a Reject."""
    return RESPONSE.pack(
        REJECT,
        FINAL,
        reject.reason << 8,
        data_bytes,
        NO_LUN,
        RESERVED_TAG,
        0,
        reject.stat_sn,
        reject.exp_cmd_sn,
        reject.max_cmd_sn,
        reject.data_sn,
        0,
        0,
    )


def decode_reject(header: Header) -> Reject:
    """Take a Reject's header apart."""
    return Reject(header[2] >> 8, header[7], header[8], header[9], header[10])


# --- NOP-Out (11.18) and NOP-In (11.19) ---


class NopOut(NamedTuple):
    """A decoded NOP-Out header."""

    lun: bytes
    initiator_task_tag: int
    target_transfer_tag: int
    cmd_sn: int
    exp_stat_sn: int


def encode_nop_out(nop: NopOut, data_bytes: int = 0, immediate: int = IMMEDIATE) -> bytes:
    """Return the header of a NOP-Out."""
    return REQUEST.pack(NOP_OUT | immediate, FINAL, 0, data_bytes, *nop, bytes(16))


def decode_nop_out(header: Header) -> NopOut:
    """Take a NOP-Out's header apart."""
    return NopOut(*header[4:9])


class NopIn(NamedTuple):
    """A decoded NOP-In header."""

    lun: bytes
    initiator_task_tag: int
    target_transfer_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int


def encode_nop_in(nop: NopIn, data_bytes: int = 0) -> bytes:
    """Return the header of a NOP-In."""
    return RESPONSE.pack(NOP_IN, FINAL, 0, data_bytes, *nop, 0, 0, 0)


def decode_nop_in(header: Header) -> NopIn:
    """Take a NOP-In's header apart."""
    return NopIn(*header[4:10])
