"""Commands that report: LUNs, sense data, and which commands there are.

Spec: SPC-6 "REPORT LUNS command", "REQUEST SENSE command", "REPORT SUPPORTED OPERATION CODES command".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from scsi import unit_attention
from scsi.commands import Allow, Command, Direction
from scsi.errors import InvalidFieldInCdb, ScsiError
from scsi.nexus import LUN_BYTES, Nexus
from scsi.sense import encode_sense, error_of
from scsi.status import SenseKey
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

# --- REPORT LUNS ------------------------------------------------------------------------------------------------------

# SELECT REPORT: 0 without and 2 with well known logical units, 1 only those; there are none.
_WELL_KNOWN_ONLY = 0x01
_SELECT_REPORTS = {0x00, _WELL_KNOWN_ONLY, 0x02}


def decode_report_luns(cdb: bytes) -> tuple[int, int]:
    """SELECT REPORT and allocation length."""
    return cdb[2], int.from_bytes(cdb[6:10], "big")


def encode_luns(nexus: Nexus, select_report: int) -> bytes:
    """Give the LUNs that a nexus sees, and take note that its host knows them now.

    Raises:
        InvalidFieldInCdb: SELECT REPORT is none of the standard's, or asks for administrative logical units.
    """
    if select_report not in _SELECT_REPORTS:
        raise InvalidFieldInCdb(2, None, f"SELECT REPORT {select_report:02X}h")
    luns = b"" if select_report == _WELL_KNOWN_ONLY else b"".join(sorted(nexus.lun_map))
    assert len(luns) % LUN_BYTES == 0
    unit_attention.forget_reported_luns_changed(nexus)
    return struct.pack(">I4x", len(luns)) + luns


def handle_report_luns(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> None:
    """REPORT LUNS."""
    select_report, allocation_length = fields
    unit.finish(task, encode_luns(task.session.nexus, select_report)[:allocation_length])


# --- REQUEST SENSE ----------------------------------------------------------------------------------------------------


class _NoSense(ScsiError):
    """There is nothing to report."""

    key, asc, ascq = SenseKey.NO_SENSE, 0x00, 0x00


def decode_request_sense(cdb: bytes) -> tuple[bool, int]:
    """DESC, allocation length."""
    return bool(cdb[1] & 0x01), cdb[4]


def handle_request_sense(unit: LogicalUnit, task: Task, fields: tuple[bool, int]) -> None:
    """REQUEST SENSE: a pending unit attention, which it clears, or why the unit is not ready, or NO SENSE."""
    descriptor, allocation_length = fields
    fault = unit.volume.fault()
    error = unit_attention.take(task.session.nexus, unit) or unit.sanitizer.error or (fault and error_of(fault))
    if not isinstance(error, ScsiError):
        error = _NoSense()
    unit.finish(task, encode_sense(error, descriptor=descriptor)[:allocation_length])


# --- REPORT SUPPORTED OPERATION CODES ---------------------------------------------------------------------------------

_ALL, _OPCODE, _SERVICE_ACTION, _EITHER = range(4)  # REPORTING OPTIONS
_NOT_SUPPORTED, _AS_IN_THE_STANDARD = 0x1, 0x3  # SUPPORT
_ONE_COMMAND_TIMEOUTS_PRESENT = 0x80  # CTDP, in the one-command format
_TIMEOUTS_PRESENT, _HAS_SERVICE_ACTION = 0x02, 0x01  # CTDP and SERVACTV, in the all-commands format

# Who uses libiscsi asks for each command of the list, and takes a usage map of more than 16 bytes for none: its own
# conformance suite fails over it. So commands of 32 bytes are told of only when one asks for them.
_LONGEST_LISTED_BYTES = 16

_ROW = struct.Struct(">BxHxBH")
_TIMEOUTS = struct.Struct(">HxBII")


def decode_report_opcodes(cdb: bytes) -> tuple[bool, int, int, int, int]:
    """RCTD, REPORTING OPTIONS, opcode, service action, allocation length."""
    return (bool(cdb[2] & 0x80), cdb[2] & 0x07, *struct.unpack_from(">BHI", cdb, 3))


def _encode_timeouts(row: Command) -> bytes:
    return _TIMEOUTS.pack(_TIMEOUTS.size - 2, 0, 0, row.timeout_s)


def _encode_all(rows: list[Command], *, timeouts: bool) -> bytes:
    data = b""
    for row in rows:
        flags = (_TIMEOUTS_PRESENT if timeouts else 0) | (_HAS_SERVICE_ACTION if row.service_action else 0)
        data += _ROW.pack(row.opcode, row.key[1], flags, row.cdb_bytes)
        if timeouts:
            data += _encode_timeouts(row)
    return struct.pack(">I", len(data)) + data


def _encode_one(row: Command | None, *, timeouts: bool) -> bytes:
    if row is None:
        return struct.pack(">xBH", _NOT_SUPPORTED, 0)
    flags = _AS_IN_THE_STANDARD | (_ONE_COMMAND_TIMEOUTS_PRESENT if timeouts else 0)
    data = struct.pack(">xBH", flags, row.cdb_bytes) + row.usage_map
    return data + _encode_timeouts(row) if timeouts else data


def _choose(rows: dict[int, Command], options: int, action: int) -> Command | None:
    """Pick the row that one of the one-command formats asks for.

    Raises:
        InvalidFieldInCdb: the opcode has service actions and was asked for without, or the other way round.
    """
    if not rows:
        return None
    has_actions = next(iter(rows.values())).service_action
    if options == _OPCODE and has_actions:
        raise InvalidFieldInCdb(2, 2, "the opcode has service actions")
    if options == _SERVICE_ACTION and not has_actions:
        raise InvalidFieldInCdb(2, 2, "the opcode has no service actions")
    return rows.get(0) if options == _OPCODE else rows.get(action)


def handle_report_opcodes(unit: LogicalUnit, task: Task, fields: tuple[bool, int, int, int, int]) -> None:
    """REPORT SUPPORTED OPERATION CODES; an opcode that the unit does not have for this host is not there."""
    timeouts, options, opcode, action, allocation_length = fields
    nexus = task.session.nexus
    if options > _EITHER:
        raise InvalidFieldInCdb(2, 2, f"REPORTING OPTIONS {options}")
    if options == _ALL:
        rows = [row for row in unit.commands.visible(unit, nexus) if row.cdb_bytes <= _LONGEST_LISTED_BYTES]
        data = _encode_all(rows, timeouts=timeouts)
    else:
        row = _choose(unit.commands.of_opcode(opcode, unit, nexus), options, action)
        data = _encode_one(row, timeouts=timeouts)
    unit.finish(task, data[:allocation_length])


ROWS: tuple[Command, ...] = (
    Command(
        "REPORT LUNS",
        usage="a0 00 ff 000000 ffffffff 00 04",
        decode=decode_report_luns,
        run=handle_report_luns,
        direction=Direction.TO_INITIATOR,
        allow=Allow.ANYWHERE,
        spec="SPC-6 REPORT LUNS command",
        attention=False,
        while_sanitized=True,
    ),
    Command(
        "REQUEST SENSE",
        usage="03 01 0000 ff 04",
        decode=decode_request_sense,
        run=handle_request_sense,
        direction=Direction.TO_INITIATOR,
        allow=Allow.ANYWHERE,
        spec="SPC-6 REQUEST SENSE command",
        attention=False,
        while_sanitized=True,
    ),
    Command(
        "REPORT SUPPORTED OPERATION CODES",
        usage="a3 0c 87 ff ffff ffffffff 00 04",
        decode=decode_report_opcodes,
        run=handle_report_opcodes,
        direction=Direction.TO_INITIATOR,
        allow=Allow.ANYWHERE,
        spec="SPC-6 REPORT SUPPORTED OPERATION CODES command",
        service_action=True,
        while_sanitized=True,
    ),
)
