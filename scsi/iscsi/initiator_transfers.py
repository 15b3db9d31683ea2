"""The data of an initiator's commands: what goes with a write, what comes of a read, and what the response says.

Nothing here trusts the target: offsets, lengths and numbers are checked before they are used, and a function that finds
a contradiction returns a sentence about it, which ends the connection.

Spec: RFC 7143 11.3, 11.4, 11.7, 11.8; 4.2.5.2 for the sequences of data.
"""

from __future__ import annotations

import struct
from typing import Final

from scsi.iscsi.framing import PduWriter
from scsi.iscsi.initiator_task import Task, Undelivered
from scsi.iscsi.keys import Parameters
from scsi.iscsi.pdu import (
    ATTRIBUTE_SIMPLE,
    COMMAND_COMPLETED,
    COMMAND_READ,
    COMMAND_WRITE,
    DATA_LENGTH_MASK,
    DATA_OUT,
    DATA_STATUS,
    FINAL,
    RESERVED_TAG,
    RESPONSE_OVERFLOW,
    RESPONSE_UNDERFLOW,
    SCSI_COMMAND,
    Header,
)
from scsi.iscsi.task_pdus import decode_sense_segment

Buffer = bytes | bytearray | memoryview

_READ: Final = FINAL | COMMAND_READ | ATTRIBUTE_SIMPLE
_WRITE: Final = FINAL | COMMAND_WRITE | ATTRIBUTE_SIMPLE
_NEITHER: Final = FINAL | ATTRIBUTE_SIMPLE
_RESIDUAL: Final = RESPONSE_OVERFLOW | RESPONSE_UNDERFLOW
_GOOD: Final = 0
_DATA_OUT: Final = struct.Struct(">BBHI8sIIIIIIII")
# `REQUEST` with what stands before the lengths as one number: every field costs as much as an addition or ten.
_pack_command: Final = struct.Struct(">II8sIIII16s").pack


# --- out ---


class SendLimits:
    """How much of a write's data may go when, in bytes: what follows from a session's parameters, worked out once.

    Attributes:
        immediate: of one command, in its own PDU.
        unsolicited: of one command, before the target asks for any, immediate data among it; 0 with InitialR2T.
        segment: in one PDU.
        burst: for one R2T.
    """

    def __init__(self, parameters: Parameters) -> None:
        first_burst = parameters.first_burst_length
        self.segment = parameters.max_send_data_segment_length
        self.immediate = min(self.segment, first_burst) if parameters.immediate_data else 0
        self.unsolicited = 0 if parameters.initial_r2t else first_burst
        self.burst = parameters.max_burst_length


def encode_command(task: Task, limits: SendLimits, exp_stat_sn: int) -> tuple[bytes, Buffer]:
    """Return the header of a SCSI Command and its immediate data; counts that data as sent."""
    data: Buffer = task.data_out
    total = len(data)
    flags = _READ if task.data_in_bytes else _NEITHER
    immediate = 0
    if total:
        flags = _WRITE
        immediate = min(total, limits.immediate)
        task.sent_bytes = immediate
        if immediate < total:
            task.view = memoryview(data)
            data = task.view[:immediate]
            if immediate < limits.unsolicited:
                flags = COMMAND_WRITE | ATTRIBUTE_SIMPLE  # unsolicited Data-Out follows
    header = _pack_command(
        SCSI_COMMAND << 24 | flags << 16,
        immediate,
        task.lun,
        task.initiator_task_tag,
        total or task.data_in_bytes,
        task.cmd_sn,
        exp_stat_sn,
        task.cdb,
    )
    return header, data


def send_unsolicited(task: Task, limits: SendLimits, writer: PduWriter, exp_stat_sn: int) -> None:
    """Send what of a write may go without being asked for, FirstBurstLength in all."""
    end = min(len(task.data_out), limits.unsolicited)
    if task.sent_bytes < end:
        _send_sequence(task, end, RESERVED_TAG, limits, writer, exp_stat_sn)


def send_requested(task: Task, header: Header, limits: SendLimits, writer: PduWriter, exp_stat_sn: int) -> str:
    """Send what an R2T asks for; return what is wrong with it, or ""."""
    transfer_tag, r2t_sn, offset, wanted_bytes = header[6], header[10], header[11], header[12]
    end = offset + wanted_bytes
    if not task.data_out:
        return "R2T for a command that writes nothing"
    if r2t_sn != task.data_sn:
        return f"R2TSN {r2t_sn} instead of {task.data_sn}"
    if transfer_tag == RESERVED_TAG or header[4] != task.lun or header[3]:
        return "R2T without a transfer tag, for another LUN or with data"
    if offset != task.sent_bytes or end > len(task.data_out):
        return f"R2T for bytes {offset} to {end} of {len(task.data_out)}, of which {task.sent_bytes} were sent"
    if not 0 < wanted_bytes <= limits.burst:
        return f"R2T for {wanted_bytes} bytes"
    task.data_sn += 1
    _send_sequence(task, end, transfer_tag, limits, writer, exp_stat_sn)
    return ""


def _send_sequence(
    task: Task, end: int, transfer_tag: int, limits: SendLimits, writer: PduWriter, exp_stat_sn: int
) -> None:
    if task.view is None:
        task.view = memoryview(task.data_out)
    view, lun, tag = task.view, task.lun, task.initiator_task_tag
    segment_bytes = limits.segment
    data_sn = 0
    offset = task.sent_bytes
    while offset < end:
        length = min(segment_bytes, end - offset)
        flags = FINAL if offset + length == end else 0
        header = _DATA_OUT.pack(
            DATA_OUT, flags, 0, length, lun, tag, transfer_tag, 0, exp_stat_sn, 0, data_sn, offset, 0
        )
        writer.send(header, view[offset : offset + length])
        offset += length
        data_sn += 1
    task.sent_bytes = end


# --- in ---


def destination_of(task: Task, header: Header) -> memoryview | None:
    """Name the place of a Data-In that is in order; None for another, which is refused when it is whole."""
    length = header[3] & DATA_LENGTH_MASK
    offset = header[11]
    if offset != task.received_bytes or offset + length > task.data_in_bytes:
        return None
    if task.place is None:
        task.place = memoryview(bytearray(task.data_in_bytes))
    return task.place[offset : offset + length]


def receive_data_in(task: Task, header: Header, data: memoryview, placed: bool) -> str:
    """Take a Data-In, with the status that it may carry; return what is wrong with it, or ""."""
    length = len(data)
    offset = header[11]
    end = offset + length
    if end > task.data_in_bytes:
        return f"Data-In of {length} bytes at {offset}, {task.data_in_bytes} were asked for"
    if offset != task.received_bytes or header[10] != task.data_sn:
        return f"Data-In {header[10]} at {offset}, not {task.data_sn} at {task.received_bytes}"
    flags = header[1]
    if flags & DATA_STATUS and flags < FINAL:
        return "Data-In with a status that is not the last"
    task.data_sn += 1
    task.received_bytes = end
    if not placed and length:
        if task.place is None and end == task.data_in_bytes and not offset:
            task.data_in = bytes(data)  # the usual small read: one copy, and no zeros written first
        else:
            if task.place is None:
                task.place = memoryview(bytearray(task.data_in_bytes))
            task.place[offset:end] = data
    if flags & DATA_STATUS:
        _finish(task, flags, header[2] & 0xFF, header[12])
    return ""


def receive_response(task: Task, header: Header, data: memoryview) -> None:
    """Take a SCSI Response."""
    word: int = header[2]
    if word >> 8 != COMMAND_COMPLETED:
        task.undelivered = Undelivered.MALFORMED
        task.detail = f"the target failed (response {word >> 8:#04x})"
        return
    if len(data):
        task.sense = decode_sense_segment(bytes(data))
    _finish(task, header[1], word & 0xFF, header[12])


def _finish(task: Task, flags: int, status: int, residual: int) -> None:
    """Put status, data and residual together; what can not be true together is MALFORMED."""
    received = task.received_bytes
    expected = task.data_in_bytes
    task.status = status
    if flags & _RESIDUAL:
        _take_residual(task, flags & _RESIDUAL, residual, expected or len(task.data_out))
    elif task.sent_bytes < len(task.data_out) and status == _GOOD:
        _malform(task, f"GOOD after {task.sent_bytes} of {len(task.data_out)} bytes to write")
    if received:
        if received == expected:
            if task.place is not None:
                task.data_in = task.place
        elif task.place is not None:
            task.data_in = task.place[:received]


def _take_residual(task: Task, flags: int, residual: int, expected: int) -> None:
    if flags == RESPONSE_OVERFLOW:
        task.residual = -residual
    elif flags == _RESIDUAL:
        _malform(task, "both overflow and underflow")
    elif residual > expected or (task.data_in_bytes and task.received_bytes > expected - residual):
        _malform(task, f"underflow of {residual} of {expected} bytes, {task.received_bytes} came")
    elif task.data_out and task.status == _GOOD and task.sent_bytes < expected - residual:
        _malform(task, f"GOOD after {task.sent_bytes} of {expected} bytes to write")
    else:
        task.residual = residual


def _malform(task: Task, detail: str) -> None:
    task.status = -1
    task.undelivered = Undelivered.MALFORMED
    task.detail = detail
