"""The PDUs of SCSI tasks: command, data both ways, R2T, response, task management; encoders next to decoders.

Spec: RFC 7143 11.3 to 11.8.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from scsi.iscsi.errors import ConnectionFault
from scsi.iscsi.pdu import (
    COMMAND_COMPLETED,
    DATA_IN,
    DATA_LENGTH_MASK,
    DATA_OUT,
    FINAL,
    IMMEDIATE,
    NO_LUN,
    R2T,
    REQUEST,
    RESERVED_TAG,
    RESPONSE,
    SCSI_COMMAND,
    SCSI_RESPONSE,
    TASK_MANAGEMENT_REQUEST,
    TASK_MANAGEMENT_RESPONSE,
    Header,
)

_TWO_WORDS: Final = struct.Struct(">II8x")
_DATA_OUT_TAIL: Final = struct.Struct(">4xII4x")
_SHORT: Final = struct.Struct(">H")

# --- SCSI Command (11.3), additional header segments (11.2.2) ---


class AdditionalHeader(NamedTuple):
    """What additional header segments carry: the bytes of a CDB from the 17th, and the length of the read, bytes."""

    extended_cdb: bytes
    bidirectional_read_bytes: int | None


def encode_scsi_command(  # noqa: PLR0913 (one argument per field of the PDU)
    *,
    flags: int,
    lun: bytes,
    initiator_task_tag: int,
    expected_bytes: int,
    cmd_sn: int,
    exp_stat_sn: int,
    cdb: bytes,
    data_bytes: int = 0,
    immediate: int = 0,
) -> bytes:
    """Return the header of a SCSI Command with a CDB of up to 16 bytes, which is padded with zeros."""
    return REQUEST.pack(
        SCSI_COMMAND | immediate,
        flags,
        0,
        data_bytes,
        lun,
        initiator_task_tag,
        expected_bytes,
        cmd_sn,
        exp_stat_sn,
        cdb,
    )


def decode_additional_header(ahs: bytes) -> AdditionalHeader:
    """Take apart the additional header segments of a SCSI Command.

    Raises:
        ConnectionFault: a segment runs past the end, appears twice, has the wrong length, or is of an unknown type.
    """
    extended_cdb = b""
    read_bytes: int | None = None
    offset = 0
    while offset < len(ahs):
        if len(ahs) - offset < 4:
            raise ConnectionFault("additional header segment is cut short")
        length = _SHORT.unpack_from(ahs, offset)[0]
        kind = ahs[offset + 2]
        body = ahs[offset + 3 : offset + 3 + length]
        if not length or len(body) != length:
            raise ConnectionFault(f"additional header segment of {length} bytes does not fit into {len(ahs)}")
        if kind == 1 and not extended_cdb and 1 < length <= 245:
            extended_cdb = body[1:]
        elif kind == 2 and read_bytes is None and length == 5:
            read_bytes = int.from_bytes(body[1:], "big")
        else:
            raise ConnectionFault(f"additional header segment of type {kind} and {length} bytes")
        offset += 3 + length
        offset += -offset % 4
    return AdditionalHeader(extended_cdb, read_bytes)


# --- SCSI Response (11.4) ---

_SCSI_RESPONSE: Final = struct.Struct(">BBBBI8xIIIIIIII")


class ScsiResponse(NamedTuple):
    """A decoded SCSI Response; `flags` has the residual bits."""

    flags: int
    response: int
    status: int
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    exp_data_sn: int
    bidirectional_residual: int
    residual: int


def encode_scsi_response(  # noqa: PLR0913 (one argument per field of the PDU)
    *,
    flags: int,
    status: int,
    initiator_task_tag: int,
    stat_sn: int,
    exp_cmd_sn: int,
    max_cmd_sn: int,
    exp_data_sn: int = 0,
    bidirectional_residual: int = 0,
    residual: int = 0,
    data_bytes: int = 0,
    response: int = COMMAND_COMPLETED,
) -> bytes:
    """Return the header of a SCSI Response; `flags` are the residual bits, FINAL is added."""
    return _SCSI_RESPONSE.pack(
        SCSI_RESPONSE,
        FINAL | flags,
        response,
        status,
        data_bytes,
        initiator_task_tag,
        0,
        stat_sn,
        exp_cmd_sn,
        max_cmd_sn,
        exp_data_sn,
        bidirectional_residual,
        residual,
    )


def decode_scsi_response(header: Header) -> ScsiResponse:
    """Take a SCSI Response's header apart."""
    return ScsiResponse(header[1], header[2] >> 8, header[2] & 0xFF, header[5], *header[7:13])


def encode_sense_segment(sense: bytes) -> bytes:
    """Return the data segment of a SCSI Response that carries sense data. Spec: RFC 7143 11.4.7."""
    return _SHORT.pack(len(sense)) + sense


def decode_sense_segment(data: bytes) -> bytes:
    """Return the sense data of a SCSI Response's data segment, or none where the segment is malformed."""
    if len(data) < 2:
        return b""
    length = _SHORT.unpack_from(data)[0]
    return data[2 : 2 + length] if len(data) >= 2 + length else b""


# --- Task Management Function Request (11.5) and Response (11.6) ---


class TaskManagementRequest(NamedTuple):
    """A decoded Task Management Function Request."""

    function: int
    lun: bytes
    initiator_task_tag: int
    referenced_task_tag: int
    cmd_sn: int
    exp_stat_sn: int
    ref_cmd_sn: int
    exp_data_sn: int


def encode_task_management_request(request: TaskManagementRequest, immediate: int = IMMEDIATE) -> bytes:
    """Return the PDU (there is no data segment)."""
    return REQUEST.pack(
        TASK_MANAGEMENT_REQUEST | immediate,
        FINAL | request.function,
        0,
        0,
        request.lun,
        request.initiator_task_tag,
        request.referenced_task_tag,
        request.cmd_sn,
        request.exp_stat_sn,
        _TWO_WORDS.pack(request.ref_cmd_sn, request.exp_data_sn),
    )


def decode_task_management_request(header: Header) -> TaskManagementRequest:
    """Take a Task Management Function Request apart."""
    return TaskManagementRequest(header[1] & 0x7F, *header[4:9], *_TWO_WORDS.unpack(header[9]))


class TaskManagementResponse(NamedTuple):
    """A decoded Task Management Function Response."""

    response: int
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int


def encode_task_management_response(response: TaskManagementResponse) -> bytes:
    """Return the PDU (there is no data segment)."""
    return RESPONSE.pack(
        TASK_MANAGEMENT_RESPONSE,
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
        0,
        0,
    )


def decode_task_management_response(header: Header) -> TaskManagementResponse:
    """Take a Task Management Function Response apart."""
    return TaskManagementResponse(header[2] >> 8, header[5], header[7], header[8], header[9])


# --- SCSI Data-Out (11.7) ---


class DataOut(NamedTuple):
    """A decoded Data-Out header."""

    final: bool
    data_bytes: int
    lun: bytes
    initiator_task_tag: int
    target_transfer_tag: int
    exp_stat_sn: int
    data_sn: int
    buffer_offset: int


def encode_data_out(data_out: DataOut) -> bytes:
    """Return the header of a Data-Out."""
    return REQUEST.pack(
        DATA_OUT,
        FINAL if data_out.final else 0,
        0,
        data_out.data_bytes,
        data_out.lun,
        data_out.initiator_task_tag,
        data_out.target_transfer_tag,
        0,
        data_out.exp_stat_sn,
        _DATA_OUT_TAIL.pack(data_out.data_sn, data_out.buffer_offset),
    )


def decode_data_out(header: Header) -> DataOut:
    """Take a Data-Out's header apart."""
    data_sn, buffer_offset = _DATA_OUT_TAIL.unpack(header[9])
    return DataOut(
        header[1] >= FINAL,
        header[3] & DATA_LENGTH_MASK,
        header[4],
        header[5],
        header[6],
        header[8],
        data_sn,
        buffer_offset,
    )


# --- SCSI Data-In (11.7) ---


class DataIn(NamedTuple):
    """A decoded Data-In header; status, stat_sn and residual are valid when `flags` has DATA_STATUS."""

    flags: int
    status: int
    data_bytes: int
    initiator_task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    data_sn: int
    buffer_offset: int
    residual: int


def encode_data_in(data_in: DataIn) -> bytes:
    """Return the header of a Data-In (transfers.py packs its own on the fast path, with `RESPONSE`)."""
    return RESPONSE.pack(
        DATA_IN,
        data_in.flags,
        data_in.status,
        data_in.data_bytes,
        NO_LUN,
        data_in.initiator_task_tag,
        RESERVED_TAG,
        data_in.stat_sn,
        data_in.exp_cmd_sn,
        data_in.max_cmd_sn,
        data_in.data_sn,
        data_in.buffer_offset,
        data_in.residual,
    )


def decode_data_in(header: Header) -> DataIn:
    """Take a Data-In's header apart."""
    return DataIn(header[1], header[2] & 0xFF, header[3] & DATA_LENGTH_MASK, header[5], *header[7:13])


# --- Ready To Transfer (11.8) ---


class ReadyToTransfer(NamedTuple):
    """A decoded R2T."""

    lun: bytes
    initiator_task_tag: int
    target_transfer_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    r2t_sn: int
    buffer_offset: int
    desired_bytes: int


def encode_r2t(r2t: ReadyToTransfer) -> bytes:
    """Return the PDU (there is no data segment)."""
    return RESPONSE.pack(
        R2T,
        FINAL,
        0,
        0,
        r2t.lun,
        r2t.initiator_task_tag,
        r2t.target_transfer_tag,
        r2t.stat_sn,
        r2t.exp_cmd_sn,
        r2t.max_cmd_sn,
        r2t.r2t_sn,
        r2t.buffer_offset,
        r2t.desired_bytes,
    )


def decode_r2t(header: Header) -> ReadyToTransfer:
    """Take an R2T apart."""
    return ReadyToTransfer(*header[4:13])
