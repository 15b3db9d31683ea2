"""REPORT and SET IDENTIFYING INFORMATION: what hosts write down about a unit, for whoever looks at it later.

It is kept across restarts; units that keep nothing do not have these commands.

Spec: SPC-6 "REPORT IDENTIFYING INFORMATION command", "SET IDENTIFYING INFORMATION command".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from scsi import unit_attention
from scsi.commands import Allow, Command, Direction
from scsi.errors import InternalTargetFailure, InvalidFieldInCdb, InvalidFieldInInformationUnit, WriteProtected
from scsi.nexus import Nexus
from scsi.saved_parameters import Document
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

KIND: Final = "identifying_information"

# By INFORMATION TYPE: how long it may be. 0 is any bytes, 2 is text in UTF-8.
MOST_BYTES: Final = {0x00: 512, 0x02: 256}
_SUPPORTED_TYPES = 0x7F

Fields = tuple[int, int]


def decode_saved(document: Document | None) -> dict[int, bytes]:
    """Give the information by type, as it was saved.

    Raises:
        ValueError: it is none of ours.
    """
    found: dict[int, bytes] = {}
    for kind, text in (document or {}).items():
        if kind not in map(str, MOST_BYTES) or not isinstance(text, str):
            raise ValueError(f"{KIND}: {kind!r}, {text!r}")
        found[int(kind)] = bytes.fromhex(text)
    return found


def is_kept(unit: LogicalUnit, _nexus: Nexus) -> bool:
    """Tell whether a unit has these commands."""
    return unit.saved.kept


def handle_report(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """REPORT IDENTIFYING INFORMATION."""
    allocation_length, kind = fields[0], fields[1] >> 1
    if kind == _SUPPORTED_TYPES:
        information = b"".join(struct.pack(">BxH", kind << 1, most) for kind, most in MOST_BYTES.items())
    elif kind in MOST_BYTES:
        information = unit.identifying_information.get(kind, b"")
    else:
        raise InvalidFieldInCdb(10, 7, f"INFORMATION TYPE {kind:02X}h")
    unit.finish(task, (struct.pack(">2xH", len(information)) + information)[:allocation_length])


def handle_set(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """SET IDENTIFYING INFORMATION: GOOD when it is on stable storage."""
    list_bytes, kind = fields[0], fields[1] >> 1
    if task.logical_unit.read_only:
        raise WriteProtected("the information is shared with hosts that may write")
    if kind not in MOST_BYTES:
        raise InvalidFieldInCdb(10, 7, f"INFORMATION TYPE {kind:02X}h")
    if list_bytes > MOST_BYTES[kind]:
        raise InvalidFieldInCdb(6, None, f"{list_bytes} bytes")
    data = bytes(task.data_out[:list_bytes])
    if len(data) < list_bytes:
        unit.fail(task, InvalidFieldInInformationUnit(f"{len(data)} bytes of {list_bytes}"), list_bytes)
        return
    wanted = {**unit.identifying_information, kind: data}
    wanted = {kind: information for kind, information in wanted.items() if information}

    def saved(problem: str) -> None:
        if problem:
            unit.fail(task, InternalTargetFailure(problem), list_bytes)
            return
        if unit.identifying_information != wanted:
            unit.identifying_information = wanted
            unit.establish_unit_attention(*unit_attention.DEVICE_IDENTIFIER_CHANGED, but=task.session.nexus)
        unit.finish(task, data_out_used=list_bytes)

    document = {str(kind): information.hex() for kind, information in wanted.items()}
    unit.saved.save(KIND, document or None, saved)


def _row(name: str, usage: str, **more: object) -> Command:
    return Command(
        f"{name} IDENTIFYING INFORMATION",
        usage,
        struct.Struct(">6xIB").unpack_from,
        spec=f"SPC-6 {name} IDENTIFYING INFORMATION command",
        service_action=True,
        available=is_kept,
        **more,  # type: ignore[arg-type]  # of the fields of a row
    )


ROWS: tuple[Command, ...] = (
    _row(
        "REPORT",
        "a3 05 0000 0000 ffffffff fe 04",
        run=handle_report,
        direction=Direction.TO_INITIATOR,
        allow=Allow.PERSISTENT,
    ),
    _row(
        "SET",
        "a4 06 0000 0000 ffffffff fe 04",
        run=handle_set,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        timeout_s=30,
    ),
)
