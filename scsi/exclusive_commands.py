"""Commands that have their blocks for themselves: COMPARE AND WRITE, ORWRITE, and WRITE AND VERIFY.

How this works. Their rows are *exclusive*: the task set lets no other command of the unit read or write the blocks
from before they read them until after they have written (`scsi.task_set`). Who writes by another way than the unit, as
a host cabled to an external array, is kept out by a claim on the blocks (`Volume.claim`). COMPARE AND WRITE and ORWRITE
read, make what is to be written out of it, see that the claim still holds, and write; on a pair that compares once, and
what is written is mirrored as any write.

Spec: SBC-4 "COMPARE AND WRITE command", "ORWRITE (16) command", "WRITE AND VERIFY (10) command" and those like it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final

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
from scsi.commands import Command, Decode, Run
from scsi.errors import (
    InvalidFieldInCdb,
    InvalidFieldInInformationUnit,
    MiscompareDuringVerify,
    ScsiError,
    StatusError,
)
from scsi.long_commands import decode_32, ignored_32, usage_32
from scsi.sense import error_of
from scsi.tasks import Task
from scsi.volume import Buffer, Claim, Fault, VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_FUA: Final = 0x08
_MOST_COMPARED_BLOCKS: Final = 0xFF  # NUMBER OF LOGICAL BLOCKS is a byte

_decode_10 = Struct(">xBIxH").unpack_from
_decode_12 = Struct(">xBII").unpack_from
_decode_16 = Struct(">xBQI").unpack_from
_decode_compare_and_write = Struct(">xBQ3xB").unpack_from


def compare_and_write_limit_blocks(unit: LogicalUnit) -> int:
    """Say how many blocks one COMPARE AND WRITE may be about: MAXIMUM COMPARE AND WRITE LENGTH of VPD page B0h."""
    return min(_MOST_COMPARED_BLOCKS, transfer_limit_blocks(unit))


class _Change:
    """Reads blocks and writes what comes of it, under a claim."""

    def __init__(
        self, unit: LogicalUnit, task: Task, fields: Fields, wanted_bytes: int, make: Callable[[Buffer], Buffer]
    ) -> None:
        """Prepare.

        Args:
            unit: what has the blocks.
            task: the command.
            fields: its flags, first block, number of blocks (at least one).
            wanted_bytes: of its data-out.
            make: gives what is to be written, of what was read; raises ScsiError when nothing is.
        """
        self._unit = unit
        self._task = task
        self._flags, self._lba, self._blocks = fields
        self._wanted_bytes = wanted_bytes
        self._make = make
        self._claim: Claim

    def start(self) -> None:
        self._unit.volume.claim(self._lba, self._blocks, self._claimed)

    def _claimed(self, result: Claim | VolumeError) -> None:
        if isinstance(result, VolumeError):
            self._unit.fail(self._task, error_of(result), self._wanted_bytes)
        else:
            self._claim = result
            self._unit.volume.read(self._lba, self._blocks, self._read)

    def _read(self, result: Buffer | VolumeError) -> None:
        if isinstance(result, VolumeError):
            self._end(error_of(result))
            return
        try:
            data = self._make(result)
        except ScsiError as error:
            self._end(error)
            return
        if self._task.aborted:
            self._end(None)
        elif self._claim.lost():
            self._end(error_of(VolumeError(Fault.BUSY, "others may have written between reading and writing")))
        else:
            self._unit.volume.write(self._lba, data, self._flags & _FUA != 0, self._written)

    def _written(self, error: VolumeError | None) -> None:
        if error is None and self._claim.lost():
            error = VolumeError(Fault.LINK_LOST, "others may have written while this was written")
        self._end(None if error is None else error_of(error))

    def _end(self, error: ScsiError | StatusError | None) -> None:
        if error is None:
            answer = partial(self._unit.finish, self._task, data_out_used=self._wanted_bytes)
        else:
            answer = partial(self._unit.fail, self._task, error, self._wanted_bytes)
        self._claim.give_up(answer)


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
    _Change(unit, task, fields, 2 * size, make).start()


# --- ORWRITE ----------------------------------------------------------------------------------------------------------


def handle_orwrite(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """ORWRITE (16): writes what was there, or'ed with what is sent."""
    flags, lba, blocks = fields
    refuse_writing(unit, task)
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

    def make(found: Buffer) -> Buffer:
        return (int.from_bytes(found, "big") | int.from_bytes(data, "big")).to_bytes(len(found), "big")

    there = len(data) // unit.volume.block_bytes
    counters = unit.counters
    counters.writes += 1
    counters.written_blocks += there
    _Change(unit, task, (flags, lba, there), wanted_bytes, make).start()


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

    def written(error: VolumeError | None) -> None:
        if error is None:
            unit.volume.read(lba, len(data) // unit.volume.block_bytes, read)
        else:
            unit.fail(task, error_of(error), wanted_bytes)

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
    unit.volume.write(lba, data, True, written)


def _row(
    name: str, usage: str, decode: Decode, run: Run, ignored: str = "", *, service_action: bool = False
) -> Command:
    return write_row(name, usage, decode, ignored, run=run, exclusive=True, service_action=service_action)


# As with WRITE: FUA and DPO are looked at, WRPROTECT and ORPROTECT refused, FUA_NV (obsolete) ignored; GROUP NUMBER may
# be anything. WRITE AND VERIFY has no FUA: what can be verified is on the medium.
ROWS: tuple[Command, ...] = (
    _row(
        "COMPARE AND WRITE",
        "89 18 ffffffffffffffff 000000 ff 1f 04",
        _decode_compare_and_write,
        handle_compare_and_write,
        ignored="00 02",
    ),
    _row("ORWRITE (16)", "8b 18 ffffffffffffffff ffffffff 1f 04", _decode_16, handle_orwrite, ignored="00 02"),
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
