"""Logical block provisioning: WRITE SAME and UNMAP, and what hosts are told of them.

How this works. Blocks that were unmapped read as zeroes (LBPRZ), always. Whether they give storage back is the volume's
business (`Volume.deallocation`). A unit on a volume that does, if only in part, is thin (LBPME): what can not be given
back is written with zeroes. A unit on a volume that never does is fully provisioned and has no UNMAP: a host would have
it write zeroes for nothing, as long as the unit is. There are no anchored blocks.

Spec: SBC-4 "WRITE SAME (10) command" and those after it, "UNMAP command", "Logical Block Provisioning VPD page".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from scsi.block_commands import Fields, refuse_unready
from scsi.commands import Allow, Command, Decode, Direction, Medium
from scsi.errors import (
    InvalidFieldInCdb,
    InvalidFieldInInformationUnit,
    InvalidFieldInParameterList,
    LbaOutOfRange,
    ParameterListLengthError,
    ScsiError,
    WriteProtected,
)
from scsi.long_commands import decode_32, ignored_32, usage_32
from scsi.nexus import Nexus
from scsi.sense import error_of
from scsi.steps import Steps
from scsi.tasks import Task
from scsi.volume import Buffer, Done, VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

# Of one command. What has to be written, to a slow disk or to both legs of a pair, must be there before a host gives up
# waiting.
MAX_WRITE_SAME_BYTES: Final = 16 << 20
MAX_UNMAP_BYTES: Final = 64 << 20
MAX_UNMAP_DESCRIPTORS: Final = 256

_ANCHOR, _UNMAP, _NO_DATA_OUT = 0x10, 0x08, 0x01
_OFFSETS = {0x41: (1, 7), 0x93: (1, 10), 0x7F: (10, 28)}  # of the flags and the number of blocks, by opcode

_LIST_HEADER = Struct(">HH4x")
_DESCRIPTOR = Struct(">QI4x")

_decode_10 = Struct(">xBIxH").unpack_from
_decode_16 = Struct(">xBQI").unpack_from

_PROVISIONING_PAGE = Struct(">BBBB")
_LBPU_LBPWS_LBPWS10_LBPRZ = 0x80 | 0x40 | 0x20 | 0x04
_THIN = 0x02


# In which log page 0Ch counts; as a power of two THRESHOLD EXPONENT of page B2h. A count has 32 bits.
_THRESHOLD_EXPONENT: Final = 11
THRESHOLD_SET_BLOCKS: Final = 1 << _THRESHOLD_EXPONENT

# --- What hosts are told ----------------------------------------------------------------------------------------------


def is_thin(unit: LogicalUnit) -> bool:
    """Say whether hosts are told that unmapping gives storage back: LBPME and LBPRZ of READ CAPACITY (16)."""
    return unit.volume.deallocation is not None


def write_same_limit_blocks(unit: LogicalUnit) -> int:
    """Say how many blocks one WRITE SAME may be about."""
    return MAX_WRITE_SAME_BYTES // (unit.volume.block_bytes or 512)  # the length may not be known yet


def _unmap_limit_blocks(unit: LogicalUnit) -> int:
    return MAX_UNMAP_BYTES // (unit.volume.block_bytes or 512)


class UnmapLimits(NamedTuple):
    """The fields of VPD page B0h about UNMAP."""

    blocks: int
    descriptors: int
    granularity: int
    alignment: int


def unmap_limits(unit: LogicalUnit) -> UnmapLimits:
    """Give the limits of UNMAP for VPD page B0h; all zero for a unit that is not thin."""
    pieces = unit.volume.deallocation
    if pieces is None:
        return UnmapLimits(0, 0, 0, 0)
    return UnmapLimits(
        _unmap_limit_blocks(unit), MAX_UNMAP_DESCRIPTORS, pieces.granularity_blocks, 0x80000000 | pieces.first_lba
    )


def encode_provisioning_page(unit: LogicalUnit) -> bytes:
    """Give VPD page B2h without its header; Linux looks at it also where it says nothing."""
    if not is_thin(unit):
        return bytes(_PROVISIONING_PAGE.size)
    return _PROVISIONING_PAGE.pack(_THRESHOLD_EXPONENT, _LBPU_LBPWS_LBPWS10_LBPRZ, _THIN, 0)


# --- WRITE SAME -------------------------------------------------------------------------------------------------------


def handle_write_same(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """WRITE SAME (10), (16) and (32)."""
    flags, lba, blocks = fields
    flags_offset, length_offset = _OFFSETS[task.cdb[0]]
    _refuse_writing(unit, task)
    if flags & _ANCHOR:
        raise InvalidFieldInCdb(flags_offset, 4, "there are no anchored blocks")
    if not blocks:
        # WSNZ. The other meaning, all to the end of the unit, would be more than the limit as a rule.
        raise InvalidFieldInCdb(length_offset, None, "no blocks")
    _check_range(unit, lba, blocks)
    if flags & _UNMAP and not is_thin(unit):
        refuse_unready(unit)  # it may not be known yet
        raise InvalidFieldInCdb(flags_offset, 3, "UNMAP of a unit that is fully provisioned")
    if blocks > write_same_limit_blocks(unit):
        raise InvalidFieldInCdb(length_offset, None, f"{blocks} blocks in one WRITE SAME")
    volume = unit.volume
    wanted_bytes = 0 if flags & _NO_DATA_OUT else volume.block_bytes
    block: Buffer = bytes(volume.block_bytes)
    if wanted_bytes:
        if len(task.data_out) != wanted_bytes or task.data_out_bytes != wanted_bytes:
            error = InvalidFieldInInformationUnit(f"{task.data_out_bytes} bytes of data for one block")
            unit.fail(task, error, wanted_bytes)
            return
        block = task.data_out
    counters = unit.counters
    counters.writes += 1
    counters.written_blocks += blocks
    done = _ender(unit, task, wanted_bytes)
    # What unmapped blocks read as is the data then, which is what allows them to be unmapped.
    if flags & _UNMAP and not any(block):
        volume.unmap(lba, blocks, done)
    else:
        volume.write_same(lba, block, blocks, done)


# --- UNMAP ------------------------------------------------------------------------------------------------------------


class _Range(NamedTuple):
    lba: int
    blocks: int


def _decode_unmap(cdb: bytes) -> tuple[int, int, int, int]:
    """Flags, the blocks that it may be about, which are any, and PARAMETER LIST LENGTH."""
    return cdb[1], 0, 1 << 64, cdb[7] << 8 | cdb[8]


def _has_unmap(unit: LogicalUnit, _nexus: Nexus) -> bool:
    # A host that is told that there is no such command gives up unmapping; while nothing is known, it is told to wait.
    return is_thin(unit) or unit.volume.fault() is not None


def handle_unmap(unit: LogicalUnit, task: Task, fields: tuple[int, int, int, int]) -> None:
    """UNMAP. Nothing is unmapped when anything is wrong with the parameter list."""
    anchor, _, _, list_bytes = fields
    _refuse_writing(unit, task)
    if anchor:
        raise InvalidFieldInCdb(1, 0, "there are no anchored blocks")
    refuse_unready(unit)
    try:
        ranges = _decode_list(unit, task, list_bytes)
    except ScsiError as error:
        unit.fail(task, error, list_bytes)
        return
    steps = (partial(unit.volume.unmap, lba, blocks) for lba, blocks in ranges)
    Steps(steps, _ender(unit, task, list_bytes)).start()


def _decode_list(unit: LogicalUnit, task: Task, list_bytes: int) -> list[_Range]:
    """Give the ranges of a parameter list, in order, disjoint.

    A list without descriptors is none that is wrong; a descriptor that is not whole is ignored.

    Spec: SBC-4 "UNMAP parameter list".
    """
    if not list_bytes:
        return []
    data = memoryview(task.data_out)[:list_bytes]
    if len(data) < list_bytes:
        raise InvalidFieldInInformationUnit(f"{len(data)} bytes of a parameter list of {list_bytes}")
    if list_bytes < _LIST_HEADER.size:
        raise ParameterListLengthError(f"{list_bytes} bytes")
    data_bytes, descriptor_bytes = _LIST_HEADER.unpack_from(data)
    if data_bytes + 2 > list_bytes or descriptor_bytes > list_bytes - _LIST_HEADER.size:
        raise ParameterListLengthError(f"{list_bytes} bytes, and says {data_bytes} and {descriptor_bytes}")
    count = descriptor_bytes // _DESCRIPTOR.size
    if count > MAX_UNMAP_DESCRIPTORS:
        raise InvalidFieldInParameterList(2, None, f"{count} descriptors")
    found = [_Range(*_DESCRIPTOR.unpack_from(data, 8 + at * _DESCRIPTOR.size)) for at in range(count)]
    for lba, blocks in found:
        _check_range(unit, lba, blocks)
    total = 0
    for at, (_, blocks) in enumerate(found):
        total += blocks
        if total > _unmap_limit_blocks(unit):
            raise InvalidFieldInParameterList(8 + at * _DESCRIPTOR.size + 8, None, f"{total} blocks in one UNMAP")
    return _joined(found)


def _joined(ranges: Iterable[_Range]) -> list[_Range]:
    joined: list[_Range] = []
    for lba, blocks in sorted(ranges):
        if joined and lba <= joined[-1].lba + joined[-1].blocks:
            first = joined[-1].lba
            joined[-1] = _Range(first, max(lba + blocks, first + joined[-1].blocks) - first)
        elif blocks:
            joined.append(_Range(lba, blocks))
    return joined


# --- Common to them ---------------------------------------------------------------------------------------------------


def _refuse_writing(unit: LogicalUnit, task: Task) -> None:
    if task.logical_unit.read_only or unit.volume.read_only:
        raise WriteProtected


def _check_range(unit: LogicalUnit, lba: int, blocks: int) -> None:
    capacity = unit.volume.blocks
    if lba + blocks > capacity:
        refuse_unready(unit)  # the size may not be known yet
        raise LbaOutOfRange(f"{lba}+{blocks} of {capacity}", information=max(lba, capacity))


def _ender(unit: LogicalUnit, task: Task, data_out_used: int) -> Done:
    def done(error: VolumeError | None) -> None:
        if error is None:
            unit.finish(task, data_out_used=data_out_used)
        else:
            unit.fail(task, error_of(error), data_out_used)

    return done


def _write_same(name: str, usage: str, decode: Decode, ignored: str = "", *, service_action: bool = False) -> Command:
    return Command(
        name,
        usage,
        decode,
        handle_write_same,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        spec=f"SBC-4 {name} command",
        service_action=service_action,
        ignored=ignored,
        medium=Medium.WRITE,
        timeout_s=60,
    )


# WRPROTECT is refused: there is no protection information. So are LBDATA and PBDATA, obsolete, which asked for other
# data in each block. GROUP NUMBER may be anything: no statistics are kept by it.
ROWS: tuple[Command, ...] = (
    _write_same("WRITE SAME (10)", "41 18 ffffffff 1f ffff 04", _decode_10),
    _write_same("WRITE SAME (16)", "93 19 ffffffffffffffff ffffffff 1f 04", _decode_16),
    _write_same("WRITE SAME (32)", usage_32(0x000D, 0x19), decode_32, ignored_32(0x00), service_action=True),
    Command(
        "UNMAP",
        usage="42 01 00000000 1f ffff 04",
        decode=_decode_unmap,
        run=handle_unmap,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        spec="SBC-4 UNMAP command",
        medium=Medium.WRITE,
        available=_has_unmap,
        timeout_s=60,
    ),
)
