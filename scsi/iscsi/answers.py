"""Answers to commands: the data of a read split into Data-In, status, sense, and residuals.

Spec: RFC 7143 11.4 "SCSI Response", 11.4.5 "Residual Count", 11.7 "SCSI Data-Out and SCSI Data-In".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from scsi.iscsi.pdu import (
    DATA_IN,
    DATA_STATUS,
    FINAL,
    NO_LUN,
    RESERVED_TAG,
    RESPONSE,
    RESPONSE_BIDIRECTIONAL_OVERFLOW,
    RESPONSE_BIDIRECTIONAL_UNDERFLOW,
    RESPONSE_OVERFLOW,
    RESPONSE_UNDERFLOW,
)
from scsi.iscsi.serial_numbers import MASK
from scsi.iscsi.task_pdus import encode_scsi_response, encode_sense_segment

if TYPE_CHECKING:
    from scsi.iscsi.events import ScsiCommand
    from scsi.iscsi.session import Session

Buffer = bytes | bytearray | memoryview

GOOD: Final = 0x00
CHECK_CONDITION: Final = 0x02
CONDITION_MET: Final = 0x04


def send_answer(
    session: Session, command: ScsiCommand, status: int, data_in: Buffer, sense: bytes, data_out_used: int | None
) -> None:
    """Send data and status with exact residuals (11.4.5): what was expected against what the command had."""
    expected_out, expected_in = command.data_out_bytes, command.data_in_bytes
    sent = min(len(data_in), expected_in)
    flags = residual = read_residual = 0
    used = expected_out if data_out_used is None else data_out_used
    if expected_out and expected_in:
        if len(data_in) != expected_in:
            read_residual = abs(len(data_in) - expected_in)
            over = len(data_in) > expected_in
            flags = RESPONSE_BIDIRECTIONAL_OVERFLOW if over else RESPONSE_BIDIRECTIONAL_UNDERFLOW
        wanted, expected = used, expected_out
    elif expected_out:
        wanted, expected = used, expected_out
    else:
        wanted, expected = len(data_in) or used, expected_in
    if wanted != expected:
        residual = abs(wanted - expected)
        flags |= RESPONSE_OVERFLOW if wanted > expected else RESPONSE_UNDERFLOW
    data_sn = 0
    if sent:
        collapse = status == GOOD and not expected_out
        data = data_in if sent == len(data_in) else memoryview(data_in)[:sent]
        data_sn = _send_data_in(session, command, data, residual, flags, DATA_STATUS if collapse else 0)
        if collapse:
            return
    segment = encode_sense_segment(sense) if sense else b""
    stat_sn = session.stat_sn
    session.stat_sn = (stat_sn + 1) & MASK
    header = encode_scsi_response(
        flags=flags,
        status=status,
        initiator_task_tag=command.initiator_task_tag,
        stat_sn=stat_sn,
        exp_cmd_sn=session.exp_cmd_sn,
        max_cmd_sn=session.max_cmd_sn,
        exp_data_sn=data_sn,
        bidirectional_residual=read_residual,
        residual=residual,
        data_bytes=len(segment),
    )
    session.writer.send(header, segment)


def _send_data_in(
    session: Session, command: ScsiCommand, data: Buffer, residual: int, residual_flag: int, status_flag: int
) -> int:
    """Send the data of a read, split as the initiator wants it.

    Args:
        session: whose connection it goes out on; its StatSN is used by the last PDU when that carries the status.
        command: the read.
        data: not longer than was expected, not empty.
        residual: goes with the status, bytes.
        residual_flag: the same, as a flag.
        status_flag: `pdu.DATA_STATUS` when the last PDU carries GOOD, otherwise 0.

    Returns:
        How many PDUs were sent.
    """
    whole = memoryview(data)
    segment = session.max_send_bytes
    burst = session.parameters.max_burst_length
    length = len(whole)
    pack, send = RESPONSE.pack, session.writer.send
    offset = data_sn = 0
    burst_end = min(burst, length)
    while offset < length:
        end = min(offset + segment, burst_end)
        flags = 0
        if end == burst_end:
            flags = FINAL
            burst_end = min(burst_end + burst, length)
        stat_sn = left = 0
        if end == length and status_flag:
            flags |= status_flag | residual_flag
            stat_sn = session.stat_sn
            session.stat_sn = (stat_sn + 1) & MASK
            left = residual
        header = pack(
            DATA_IN,
            flags,
            0,
            end - offset,
            NO_LUN,
            command.initiator_task_tag,
            RESERVED_TAG,
            stat_sn,
            session.exp_cmd_sn,
            session.max_cmd_sn,
            data_sn,
            offset,
            left,
        )
        send(header, whole[offset:end])
        offset = end
        data_sn += 1
    return data_sn
