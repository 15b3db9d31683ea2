"""What a session does with each request that is not a SCSI command or its data: one row per opcode.

Spec: RFC 7143 11.5, 11.10, 11.14, 11.16 and 11.18.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from scsi.iscsi.errors import Rejected, RejectReason
from scsi.iscsi.pdu import (
    IMMEDIATE,
    LOGOUT_REQUEST,
    NOP_OUT,
    RESERVED_TAG,
    SNACK_REQUEST,
    TASK_MANAGEMENT_REQUEST,
    TEXT_REQUEST,
    Header,
)
from scsi.iscsi.session_pdus import NopIn, decode_nop_out, encode_nop_in

if TYPE_CHECKING:
    from scsi.iscsi.session import Session


class Request(NamedTuple):
    """One row: what runs, whether a CmdSN orders it, and whether a Discovery session may send it (RFC 7143 4.4.3)."""

    handle: Callable[[Session, Header, memoryview], None]
    numbered: bool
    in_discovery: bool


def handle_nop_out(session: Session, header: Header, data: memoryview) -> None:
    """Answer a ping with its own data; an answer to our ping needs none (11.18, 11.19)."""
    nop = decode_nop_out(header)
    if nop.initiator_task_tag == RESERVED_TAG:
        if not header[0] & IMMEDIATE:
            raise Rejected(RejectReason.INVALID_PDU_FIELD, "numbered NOP-Out without a task tag")
        return
    echo = bytes(data[: session.parameters.max_send_data_segment_length])
    stat_sn = session.take_stat_sn()
    answer = NopIn(nop.lun, nop.initiator_task_tag, RESERVED_TAG, stat_sn, session.exp_cmd_sn, session.max_cmd_sn)
    session.writer.send(encode_nop_in(answer, len(echo)), echo)


def handle_task_management(session: Session, header: Header, _data: memoryview) -> None:
    """See `task_management`."""
    session.task_management.receive(header)


def handle_text(session: Session, header: Header, data: memoryview) -> None:
    """See `text`."""
    session.text.receive(header, bytes(data))


def handle_logout(session: Session, header: Header, _data: memoryview) -> None:
    """Leave it to the connection, which ends by it."""
    session.connection.log_out(header)


def handle_snack(_session: Session, _header: Header, _data: memoryview) -> None:
    """Refuse: nothing is kept to be sent again (11.16)."""
    raise Rejected(RejectReason.SNACK_REJECT, "SNACK with ErrorRecoveryLevel 0")


REQUESTS: Mapping[int, Request] = {
    NOP_OUT: Request(handle_nop_out, numbered=True, in_discovery=True),
    TASK_MANAGEMENT_REQUEST: Request(handle_task_management, numbered=True, in_discovery=False),
    TEXT_REQUEST: Request(handle_text, numbered=True, in_discovery=True),
    LOGOUT_REQUEST: Request(handle_logout, numbered=True, in_discovery=True),
    SNACK_REQUEST: Request(handle_snack, numbered=False, in_discovery=False),
}
