"""SCSI Command PDUs that are more than a plain read: additional headers, immediate ones, and data that comes with them.

Spec: RFC 7143 11.3 "SCSI Command", 13.10 to 13.14 on what data may come unasked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from scsi.iscsi.errors import Rejected, RejectReason
from scsi.iscsi.pdu import COMMAND_READ, COMMAND_WRITE, FINAL, Header
from scsi.iscsi.task_pdus import decode_additional_header
from scsi.iscsi.transfers import INCORRECT_AMOUNT_OF_DATA, UNEXPECTED_UNSOLICITED_DATA, WriteTransfer

if TYPE_CHECKING:
    from scsi.iscsi.events import ScsiCommand
    from scsi.iscsi.session import Session

_READ_WRITE: Final = COMMAND_READ | COMMAND_WRITE


def examine_command(
    session: Session, command: ScsiCommand, header: Header, ahs: bytes, data: memoryview, placed: bool
) -> WriteTransfer | None:
    """Look at all but the simplest commands; return a transfer when data is to be waited for or is wrong.

    Raises:
        Rejected: the command can not be made sense of, or there are too many immediate ones.
        ConnectionFault: its additional header is malformed.
    """
    flags: int = header[1]
    expected: int = header[6]
    if not flags & COMMAND_WRITE and (data or not flags & FINAL):
        raise Rejected(RejectReason.INVALID_PDU_FIELD, "data with a command that does not write")
    if ahs:
        additional = decode_additional_header(ahs)
        command.cdb += additional.extended_cdb
        if additional.bidirectional_read_bytes is not None:
            if flags & _READ_WRITE != _READ_WRITE:
                raise Rejected(RejectReason.INVALID_PDU_FIELD, "read length of a command that is not bidirectional")
            command.data_in_bytes = additional.bidirectional_read_bytes
    if command.immediate:
        if session.immediate_commands >= session.options.max_immediate_commands:
            raise Rejected(RejectReason.TOO_MANY_IMMEDIATE_COMMANDS, "too many immediate commands")
        session.immediate_commands += 1
    if not flags & COMMAND_WRITE:
        if flags & COMMAND_READ:
            command.data_in_bytes = expected
        return None
    command.data_out_bytes = expected
    allowed = session.parameters.first_burst_length if session.parameters.immediate_data else 0
    length = len(data)
    if flags & FINAL and length == expected and length <= allowed:
        command.data_out = data if placed else bytes(data)
        return None
    return _begin_transfer(session, command, data, not flags & FINAL)


def _begin_transfer(session: Session, command: ScsiCommand, data: memoryview, unsolicited: bool) -> WriteTransfer:
    """Begin to collect the data of a write, of which `data` came with the command."""
    parameters = session.parameters
    capacity = min(command.data_out_bytes, session.options.max_data_out_bytes)
    first = min(parameters.first_burst_length, capacity)
    transfer = command.transfer = WriteTransfer(command, capacity, first if unsolicited else len(data), unsolicited)
    if (unsolicited and parameters.initial_r2t) or (data and not parameters.immediate_data):
        transfer.fail(UNEXPECTED_UNSOLICITED_DATA)
    elif len(data) > first:
        transfer.fail(INCORRECT_AMOUNT_OF_DATA)
    elif data:
        transfer.take(data)
    return transfer
