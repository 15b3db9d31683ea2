"""Commands that have their blocks for themselves: COMPARE AND WRITE, and WRITE AND VERIFY.

Their rows are *exclusive*: the task set lets no other command of the unit read or write the blocks from before they
read or write them until they have ended (`scsi.task_set`). COMPARE AND WRITE is a `ClaimedChange`.

Spec: SBC-4 "COMPARE AND WRITE command", "WRITE AND VERIFY (10) command" and those like it.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from scsi.block_commands import (
    Fields,
    check_end,
    check_range,
    data_for,
    first_difference,
    flags_offset,
    refuse_unready,
    refuse_writing,
    transfer_limit_blocks,
    write_row,
)
from scsi.claimed_change import ClaimedChange, can_be_claimed
from scsi.commands import Command, Decode, Run
from scsi.errors import (
    InvalidFieldInCdb,
    InvalidFieldInInformationUnit,
    MiscompareDuringVerify,
    ScsiError,
)
from scsi.long_commands import decode_32, ignored_32, usage_32
from scsi.sense import error_of
from scsi.tasks import Task
from scsi.volume import Buffer, Fault, VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_MOST_COMPARED_BLOCKS: Final = 0xFF  # NUMBER OF LOGICAL BLOCKS is a byte

_decode_10 = Struct(">xBIxH").unpack_from
_decode_12 = Struct(">xBII").unpack_from
_decode_16 = Struct(">xBQI").unpack_from
_decode_compare_and_write = Struct(">xBQ3xB").unpack_from


def compare_and_write_limit_blocks(unit: LogicalUnit) -> int:
    """Say how many blocks one COMPARE AND WRITE may be about: MAXIMUM COMPARE AND WRITE LENGTH of VPD page B0h.

    0 says that there is no such command.
    """
    return min(_MOST_COMPARED_BLOCKS, transfer_limit_blocks(unit)) if unit.volume.claimable else 0


# --- COMPARE AND WRITE ------------------------------------------------------------------------------------------------


def handle_compare_and_write(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """COMPARE AND WRITE; of no blocks it does nothing, and that is no error."""
    _, lba, blocks = fields
    refuse_writing(unit, task)
    check_end(unit, lba, blocks)
    if blocks > compare_and_write_limit_blocks(unit):
        raise InvalidFieldInCdb(13, None, f"{blocks} blocks in one COMPARE AND WRITE")
    size = blocks * unit.volume.block_bytes
    if task.data_out_bytes > 2 * size:
        # What to compare with and what to write can not be told apart. Such is 256 blocks too, in a field of a byte.
        error: ScsiError = InvalidFieldInCdb(13, None, f"{task.data_out_bytes} bytes of data for {2 * size}")
        unit.fail(task, error, 2 * size)
        return
    if len(task.data_out) < 2 * size:
        error = InvalidFieldInInformationUnit(f"{len(task.data_out)} bytes of data for {2 * size}")
        unit.fail(task, error, 2 * size)
        return
    expected = memoryview(task.data_out)[:size]
    data = memoryview(task.data_out)[size:]
    if not blocks:
        refuse_unready(unit)
        unit.finish(task, data_out_used=0)
        return

    def make(found: Buffer) -> Buffer:
        if found != expected:
            offset = first_difference(found, expected)
            raise MiscompareDuringVerify(f"at byte {offset}", information=offset)
        return data

    counters = unit.counters
    counters.writes += 1
    counters.written_blocks += blocks
    ClaimedChange(unit, task, fields, 2 * size, make).start()


# --- WRITE AND VERIFY -------------------------------------------------------------------------------------------------


def handle_write_and_verify(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """WRITE AND VERIFY (10), (12), (16) and (32): writes, makes it stable, and reads it again.

    With BYTCHK 0 it need be readable, with 1 be what was sent.
    """
    flags, lba, blocks = fields
    refuse_writing(unit, task)
    byte_check = flags >> 1 & 0x03
    if byte_check > 1:
        raise InvalidFieldInCdb(flags_offset(task), 2, f"BYTCHK {byte_check} is reserved")
    check_range(unit, task, lba, blocks)
    wanted_bytes = blocks * unit.volume.block_bytes
    try:
        data = data_for(unit, task, wanted_bytes)
    except ScsiError as error:
        unit.fail(task, error, wanted_bytes)
        return
    if not data:
        refuse_unready(unit)
        unit.finish(task, data_out_used=wanted_bytes)
        return

    def read(result: Buffer | VolumeError) -> None:
        if isinstance(result, VolumeError):
            counters.verify_errors += result.fault is Fault.READ_ERROR
            unit.fail(task, error_of(result), wanted_bytes)
        elif byte_check and result != data:
            offset = first_difference(result, data)
            unit.fail(task, MiscompareDuringVerify(f"at byte {offset}", information=offset), wanted_bytes)
        else:
            unit.finish(task, data_out_used=wanted_bytes)

    counters = unit.counters
    counters.writes += 1
    counters.written_blocks += blocks
    counters.verified_blocks += blocks
    unit.volume.write_and_read(lba, data, read)


def _row(name: str, usage: str, decode: Decode, run: Run, ignored: str = "", **more: Any) -> Command:
    return write_row(name, usage, decode, ignored, run=run, exclusive=True, **more)


# As with WRITE: FUA and DPO are looked at, WRPROTECT refused, FUA_NV (obsolete) ignored; GROUP NUMBER may be anything.
# WRITE AND VERIFY has no FUA: what can be verified is on the medium.
ROWS: tuple[Command, ...] = (
    _row(
        "COMPARE AND WRITE",
        "89 18 ffffffffffffffff 000000 ff 1f 04",
        _decode_compare_and_write,
        handle_compare_and_write,
        ignored="00 02",
        available=can_be_claimed,
    ),
    _row("WRITE AND VERIFY (10)", "2e 16 ffffffff 1f ffff 04", _decode_10, handle_write_and_verify),
    _row("WRITE AND VERIFY (12)", "ae 16 ffffffff ffffffff 1f 04", _decode_12, handle_write_and_verify),
    _row("WRITE AND VERIFY (16)", "8e 16 ffffffffffffffff ffffffff 1f 04", _decode_16, handle_write_and_verify),
    _row(
        "WRITE AND VERIFY (32)",
        usage_32(0x000C, 0x16),
        decode_32,
        handle_write_and_verify,
        ignored_32(0x00),
        service_action=True,
    ),
)
