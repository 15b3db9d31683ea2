"""MODE SENSE: what a host asks about caches, order and write protection.

Nothing can be changed: there is no MODE SELECT, all changeable values are zero and nothing is saved.

Spec: SPC-6 "MODE SENSE (6) command", "MODE SENSE (10) command", "Mode parameters"; SBC-4 "Caching mode page".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from scsi.commands import Allow, Command, Direction
from scsi.errors import InvalidFieldInCdb, SavingParametersNotSupported
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

Fields = tuple[int, int, int, int, bool]

_CHANGEABLE, _SAVED = 1, 3  # page control; 0 current and 2 default have the same values here
_ALL_PAGES, _ALL_SUBPAGES = 0x3F, 0xFF

_WRITE_PROTECT, _DPOFUA = 0x80, 0x10
_WCE = 0x04
_D_SENSE = 0x04
_UNRESTRICTED_REORDERING = 0x10

_LONG_LBA = 0x01
_SHORT_BLOCK_DESCRIPTOR = struct.Struct(">II")
_LONG_BLOCK_DESCRIPTOR = struct.Struct(">Q4xI")


def _caching(unit: LogicalUnit) -> bytes:
    """Caching page; a wrong WCE loses data: a host flushes only what it believes to be in a cache."""
    return bytes((_WCE if unit.volume.write_cache else 0,)).ljust(18, b"\0")


def _control(unit: LogicalUnit) -> bytes:
    """Control page: one task set for all nexuses, SIMPLE tasks in any order, aborted tasks without TASK ABORTED."""
    return bytes((_D_SENSE if unit.descriptor_sense else 0, _UNRESTRICTED_REORDERING)).ljust(10, b"\0")


# By page code, each without its two bytes of header; none has subpages.
PAGES: dict[int, Callable[[LogicalUnit], bytes]] = {
    0x08: _caching,
    0x0A: _control,
}


def _pages(unit: LogicalUnit, code: int, control: int) -> bytes:
    data = b""
    for page, encode in PAGES.items():
        if code in {page, _ALL_PAGES}:
            body = encode(unit)
            if control == _CHANGEABLE:
                body = bytes(len(body))
            data += bytes((page, len(body))) + body
    return data


def _block_descriptor(unit: LogicalUnit, *, long_lba: bool) -> bytes:
    volume = unit.volume
    if long_lba:
        return _LONG_BLOCK_DESCRIPTOR.pack(volume.blocks, volume.block_bytes)
    return _SHORT_BLOCK_DESCRIPTOR.pack(min(volume.blocks, 0xFFFFFFFF), volume.block_bytes)


def handle_mode_sense(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """MODE SENSE (6) and (10)."""
    flags, page, subpage, allocation_length, ten = fields
    control, code = page >> 6, page & 0x3F
    if code not in PAGES and code != _ALL_PAGES:
        raise InvalidFieldInCdb(2, 5, f"no mode page {code:02X}h")
    if subpage not in {0, _ALL_SUBPAGES}:
        raise InvalidFieldInCdb(3, None, f"no subpage {subpage:02X}h")
    if control == _SAVED:
        raise SavingParametersNotSupported
    long_lba = ten and bool(flags & 0x10)
    descriptor = b"" if flags & 0x08 else _block_descriptor(unit, long_lba=long_lba)
    pages = _pages(unit, code, control)
    read_only = task.logical_unit.read_only or unit.volume.read_only
    parameter = _DPOFUA | (_WRITE_PROTECT if read_only else 0)
    length = len(descriptor) + len(pages)
    if ten:
        header = struct.pack(">HBBBxH", length + 6, 0, parameter, _LONG_LBA if long_lba else 0, len(descriptor))
    else:
        header = struct.pack(">BBBB", length + 3, 0, parameter, len(descriptor))
    unit.finish(task, (header + descriptor + pages)[:allocation_length])


def _decode_6(cdb: bytes) -> Fields:
    return cdb[1], cdb[2], cdb[3], cdb[4], False


def _decode_10(cdb: bytes) -> Fields:
    return cdb[1], cdb[2], cdb[3], cdb[7] << 8 | cdb[8], True


ROWS: tuple[Command, ...] = (
    Command(
        "MODE SENSE (6)",
        usage="1a 08 ff ff ff 04",
        decode=_decode_6,
        run=handle_mode_sense,
        direction=Direction.TO_INITIATOR,
        allow=Allow.WRITE_EXCLUSIVE,
        spec="SPC-6 MODE SENSE (6) command",
    ),
    Command(
        "MODE SENSE (10)",
        usage="5a 18 ff ff 000000 ffff 04",
        decode=_decode_10,
        run=handle_mode_sense,
        direction=Direction.TO_INITIATOR,
        allow=Allow.WRITE_EXCLUSIVE,
        spec="SPC-6 MODE SENSE (10) command",
    ),
)
