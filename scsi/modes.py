"""MODE SENSE: what a host asks about caches, order and write protection; the pages are `scsi.mode_parameters`.

Spec: SPC-6 "MODE SENSE (6) command", "MODE SENSE (10) command", "Mode parameters".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from scsi.commands import Allow, Command, Direction
from scsi.errors import InvalidFieldInCdb, SavingParametersNotSupported
from scsi.mode_parameters import DEFAULTS, PAGES, ModePage
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

Fields = tuple[int, int, int, int, bool]

_CURRENT, _CHANGEABLE, _DEFAULT, _SAVED = range(4)  # page control
_ALL_PAGES, _ALL_SUBPAGES = 0x3F, 0xFF
_SAVABLE, _SUBPAGE_FORMAT = 0x80, 0x40

_WRITE_PROTECT, _DPOFUA = 0x80, 0x10

_LONG_LBA = 0x01
_SHORT_BLOCK_DESCRIPTOR = struct.Struct(">II")
_LONG_BLOCK_DESCRIPTOR = struct.Struct(">Q4xI")


def _wanted(code: int, subpage: int) -> list[ModePage]:
    """Pick the pages that are asked for.

    Raises:
        InvalidFieldInCdb: there are none.
    """
    if subpage not in {0, _ALL_SUBPAGES} and code == _ALL_PAGES:
        raise InvalidFieldInCdb(3, None, f"subpage {subpage:02X}h of all pages")
    pages = [page for page in PAGES if code in {page.code, _ALL_PAGES}]
    if not pages:
        raise InvalidFieldInCdb(2, 5, f"no mode page {code:02X}h")
    pages = [page for page in pages if subpage in {page.subpage, _ALL_SUBPAGES}]
    if not pages:
        raise InvalidFieldInCdb(3, None, f"no subpage {subpage:02X}h")
    return pages


def encode_page(unit: LogicalUnit, page: ModePage, control: int) -> bytes:
    """Give a page with its header; `control` says which values of it."""
    if control == _CHANGEABLE:
        body = page.mask(unit)
    else:
        body = page.body(unit, (unit.modes, DEFAULTS, DEFAULTS, unit.saved_modes)[control])
    code = page.code | (_SAVABLE if page.savable and unit.saved.kept else 0)
    if page.subpage:
        return struct.pack(">BBH", code | _SUBPAGE_FORMAT, page.subpage, len(body)) + body
    return bytes((code, len(body))) + body


def _block_descriptor(unit: LogicalUnit, *, long_lba: bool) -> bytes:
    volume = unit.volume
    if long_lba:
        return _LONG_BLOCK_DESCRIPTOR.pack(volume.blocks, volume.block_bytes)
    return _SHORT_BLOCK_DESCRIPTOR.pack(min(volume.blocks, 0xFFFFFFFF), volume.block_bytes)


def handle_mode_sense(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """MODE SENSE (6) and (10)."""
    flags, page, subpage, allocation_length, ten = fields
    control = page >> 6
    wanted = _wanted(page & 0x3F, subpage)
    if control == _SAVED and not unit.saved.kept:
        raise SavingParametersNotSupported
    long_lba = ten and bool(flags & 0x10)
    descriptor = b"" if flags & 0x08 else _block_descriptor(unit, long_lba=long_lba)
    pages = b"".join(encode_page(unit, page, control) for page in wanted)
    read_only = task.logical_unit.read_only or unit.volume.read_only or unit.modes.software_write_protect
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
