"""Commands that read, write, compare and flush blocks, and those that ask whether one can.

Rows of READ, WRITE and VERIFY decode to `(flags, lba, blocks)`, flags being byte 1 of the CDB as it is; the unpack
method of a compiled Struct is the decoder, because nothing costs less.

Spec: SBC-4.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from scsi import unit_attention
from scsi.commands import VARIABLE_LENGTH, Allow, Command, Decode, Direction, Medium, Run, decode_nothing
from scsi.errors import (
    InternalTargetFailure,
    InvalidFieldInCdb,
    InvalidFieldInInformationUnit,
    LbaOutOfRange,
    MiscompareDuringVerify,
    ReservationConflict,
    ScsiError,
    StatusError,
    WriteProtected,
)
from scsi.nexus import Nexus
from scsi.sense import error_of
from scsi.tasks import Task
from scsi.volume import Buffer, Done, Fault, VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

Fields = tuple[int, int, int]

# What one command may carry however much the volume below could take: memory for it is allocated in one piece.
MAX_TRANSFER_BYTES: Final = 16 * 1024 * 1024

# Up to so many blocks no limit is looked up: no volume's limit is below 4 KiB.
_NEVER_TOO_MANY_BLOCKS: Final = 8

_FUA: Final = 0x08
_IMMED: Final = 0x02
_TRANSFER_LENGTH_OFFSET = {0: 4, 3: 28, 4: 10, 5: 6}  # by group code of the opcode; 7 for all others

_decode_10 = Struct(">xBIxH").unpack_from
_decode_12 = Struct(">xBII").unpack_from
_decode_16 = Struct(">xBQI").unpack_from


def _decode_6(cdb: bytes) -> Fields:
    """READ (6) and WRITE (6): 21 bits of LBA, and a length of 0 means 256 blocks."""
    return 0, int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256


def transfer_limit_blocks(unit: LogicalUnit) -> int:
    """Say how many blocks one command may carry: MAXIMUM TRANSFER LENGTH of VPD page B0h."""
    volume = unit.volume
    own_limit = MAX_TRANSFER_BYTES // (volume.block_bytes or 512)  # the length may not be known yet
    return min(volume.max_transfer_blocks or own_limit, own_limit)


def refuse_unready(unit: LogicalUnit) -> None:
    """Raise what TEST UNIT READY reports, if the volume can not serve now."""
    fault = unit.volume.fault()
    if fault is not None:
        raise error_of(fault)
    if (error := unit.atomic_writes.error) is not None:
        raise error


def refuse_writing(unit: LogicalUnit, task: Task) -> None:
    """Raise WriteProtected where the host, or anybody, may only read."""
    if task.logical_unit.read_only or unit.volume.read_only:
        raise WriteProtected


def check_end(unit: LogicalUnit, lba: int, blocks: int) -> None:
    """Refuse blocks past the end."""
    capacity = unit.volume.blocks
    if lba + blocks > capacity:
        refuse_unready(unit)  # the size may not be known yet
        raise LbaOutOfRange(f"{lba}+{blocks} of {capacity}", information=max(lba, capacity))


def check_range(unit: LogicalUnit, task: Task, lba: int, blocks: int) -> None:
    """Refuse blocks past the end, and more of them than one command may carry."""
    check_end(unit, lba, blocks)
    if blocks > transfer_limit_blocks(unit):
        raise InvalidFieldInCdb(_transfer_length_offset(task), None, f"{blocks} blocks in one command")


def _transfer_length_offset(task: Task) -> int:
    return _TRANSFER_LENGTH_OFFSET.get(task.cdb[0] >> 5, 7)


def flags_offset(task: Task) -> int:
    """Say which byte of its CDB has the flags."""
    return 10 if task.cdb[0] == VARIABLE_LENGTH else 1


def handle_read(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """READ (6), (10), (12), (16) and (32).

    FUA changes nothing: a volume gives what was written last, and whether that is stable is the writer's to ask.
    """
    _, lba, blocks = fields
    volume = unit.volume
    if blocks > _NEVER_TOO_MANY_BLOCKS or lba + blocks > volume.blocks:
        check_range(unit, task, lba, blocks)

    def done(result: Buffer | VolumeError) -> None:
        if isinstance(result, VolumeError):
            unit.fail(task, error_of(result))
        else:
            unit.finish(task, result)

    counters = unit.counters
    counters.reads += 1
    counters.read_blocks += blocks
    if blocks:
        volume.read(lba, blocks, done)
    else:
        refuse_unready(unit)
        unit.finish(task)


def handle_write(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """WRITE (6), (10), (12), (16) and (32)."""
    flags, lba, blocks = fields
    volume = unit.volume
    if task.logical_unit.read_only or volume.read_only:
        raise WriteProtected
    if blocks > _NEVER_TOO_MANY_BLOCKS or lba + blocks > volume.blocks:
        check_range(unit, task, lba, blocks)
    counters = unit.counters
    counters.writes += 1
    counters.written_blocks += blocks
    data = task.data_out
    wanted_bytes = blocks * volume.block_bytes
    if len(data) != wanted_bytes or not blocks:
        _write_other_length(unit, task, fields, wanted_bytes)
        return
    volume.write(lba, data, flags & _FUA != 0, _ender(unit, task))


def _write_other_length(unit: LogicalUnit, task: Task, fields: Fields, wanted_bytes: int) -> None:
    """Write when the host sent more or less than the CDB says.

    As tgt and the kernel's target do, and libiscsi's residual tests ask: of more the excess is left out, of less the
    blocks that are there are written; the residual count tells the host. A part of a block is refused, not filled up.

    Spec: RFC 7143 11.4.5.2 "Overflow", 11.4.5.3 "Underflow".
    """
    flags, lba, _ = fields
    try:
        data = data_for(unit, task, wanted_bytes)
    except ScsiError as error:
        unit.fail(task, error, wanted_bytes)
        return
    if not data:
        refuse_unready(unit)
        unit.finish(task, data_out_used=wanted_bytes)
        return

    def done(error: VolumeError | None) -> None:
        if error is None:
            unit.finish(task, data_out_used=wanted_bytes)
        else:
            unit.fail(task, error_of(error))

    unit.volume.write(lba, data, flags & _FUA != 0, done)


def data_for(unit: LogicalUnit, task: Task, wanted_bytes: int) -> Buffer:
    """Give the data-out that a command is about: as much as it wants, or the whole blocks that the host announced.

    Raises:
        InvalidFieldInInformationUnit: the host announced a part of a block, or the transport did not take all of it.
    """
    data = task.data_out
    have_bytes = len(data)
    if have_bytes >= wanted_bytes:
        return memoryview(data)[:wanted_bytes]
    if have_bytes < task.data_out_bytes or have_bytes % unit.volume.block_bytes:
        raise InvalidFieldInInformationUnit(f"{have_bytes} bytes of data for {wanted_bytes}")
    return data


def handle_verify(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """VERIFY (10), (12), (16) and (32), with BYTCHK 0 (readable), 1 (as sent) and 3 (each block as the one sent)."""
    flags, lba, blocks = fields
    byte_check = flags >> 1 & 0x03
    if byte_check == 2:
        raise InvalidFieldInCdb(flags_offset(task), 2, "BYTCHK 2 is reserved")
    check_range(unit, task, lba, blocks)
    block_bytes = unit.volume.block_bytes
    wanted_bytes = {0: 0, 1: blocks * block_bytes, 3: min(blocks, 1) * block_bytes}[byte_check]
    expected = task.data_out[:wanted_bytes]
    if len(expected) < wanted_bytes:
        unit.fail(task, InvalidFieldInInformationUnit(f"{len(expected)} bytes to compare"), wanted_bytes)
        return
    if not blocks:
        refuse_unready(unit)
        unit.finish(task, data_out_used=wanted_bytes)
        return

    def done(result: Buffer | VolumeError) -> None:
        if isinstance(result, VolumeError):
            unit.counters.verify_errors += result.fault is Fault.READ_ERROR
            unit.fail(task, error_of(result))
            return
        wanted = bytes(expected) * blocks if byte_check == 3 else expected
        if byte_check and result != wanted:
            offset = first_difference(result, wanted)
            unit.fail(task, MiscompareDuringVerify(f"at byte {offset}", information=offset), wanted_bytes)
        else:
            unit.finish(task, data_out_used=wanted_bytes)

    unit.counters.verified_blocks += blocks
    unit.volume.read(lba, blocks, done)


def first_difference(one: Buffer, other: Buffer) -> int:
    """Give the offset of the first byte that differs; there is one."""
    return next(offset for offset, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def handle_synchronize_cache(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """SYNCHRONIZE CACHE (10) and (16): flushes all of the unit, which the range asked for is a part of.

    With IMMED the status comes first; if the flush then fails, the nexus's next command reports it (deferred error).
    """
    flags, lba, blocks = fields
    check_end(unit, lba, blocks)
    refuse_unready(unit)
    if flags & _IMMED:
        unit.finish(task)
        unit.volume.flush(deferrer(unit, task.session.nexus))
    else:
        unit.volume.flush(_ender(unit, task))


def deferrer(unit: LogicalUnit, nexus: Nexus) -> Done:
    """Make the callback that has a failure of what goes on behind a command's status reported by the next command."""

    def done(error: VolumeError | None) -> None:
        if error is not None and nexus in unit.nexuses:
            failure = error_of(error)
            if isinstance(failure, StatusError):  # has no sense data to be deferred
                failure = InternalTargetFailure(str(failure))
            unit_attention.defer(nexus, unit, failure)

    return done


def _ender(unit: LogicalUnit, task: Task) -> Done:
    """Make the callback that ends a task by what became of its operation."""

    def done(error: VolumeError | None) -> None:
        if error is None:
            unit.finish(task)
        else:
            unit.fail(task, error_of(error))

    return done


def handle_test_unit_ready(unit: LogicalUnit, task: Task, _fields: tuple[()]) -> None:
    """TEST UNIT READY."""
    refuse_unready(unit)
    unit.finish(task)


def handle_start_stop_unit(unit: LogicalUnit, task: Task, fields: tuple[int, int]) -> None:
    """START STOP UNIT: there is nothing to spin down, so that a stop is a flush, and the unit stays ready.

    A unit that one host could stop would be gone for every other host too. Power conditions, and to eject a medium that
    can not be removed, are refused as reserved bits.

    Spec: SBC-4 "Reservations": to start is allowed under any persistent reservation, to stop is not.
    """
    no_flush, start = fields
    if not start and unit.persistent_reservations.conflicts(task.session.nexus, Allow.NOWHERE):
        raise ReservationConflict
    if start or no_flush:
        refuse_unready(unit)
        unit.finish(task)
    else:
        unit.volume.flush(_ender(unit, task))


def _decode_start_stop_unit(cdb: bytes) -> tuple[int, int]:
    return cdb[4] & 0x04, cdb[4] & 0x01


def read_row(name: str, usage: str, decode: Decode, ignored: str = "", **more: Any) -> Command:
    """Make the row of a READ."""
    return Command(
        name,
        usage,
        decode,
        handle_read,
        direction=Direction.TO_INITIATOR,
        allow=Allow.WRITE_EXCLUSIVE,
        spec=f"SBC-4 {name} command",
        ignored=ignored,
        medium=Medium.READ,
        timeout_s=30,
        **more,
    )


def write_row(
    name: str, usage: str, decode: Decode, ignored: str = "", run: Run = handle_write, **more: Any
) -> Command:
    """Make the row of a WRITE."""
    return Command(
        name,
        usage,
        decode,
        run,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.NOWHERE,
        spec=f"SBC-4 {name} command",
        ignored=ignored,
        medium=Medium.WRITE,
        timeout_s=30,
        **more,
    )


def verify_row(name: str, usage: str, decode: Decode, ignored: str = "", **more: Any) -> Command:
    """Make the row of a VERIFY."""
    return Command(
        name,
        usage,
        decode,
        handle_verify,
        direction=Direction.FROM_INITIATOR,
        allow=Allow.WRITE_EXCLUSIVE,
        spec=f"SBC-4 {name} command",
        ignored=ignored,
        medium=Medium.READ,
        timeout_s=30,
        **more,
    )


def _flush(name: str, usage: str, decode: Decode) -> Command:
    return Command(
        name,
        usage,
        decode,
        handle_synchronize_cache,
        direction=Direction.NONE,
        allow=Allow.NOWHERE,
        spec=f"SBC-4 {name} command",
        ignored="00 04",  # SYNC_NV, obsolete: there is no non-volatile cache
        medium=Medium.FLUSH,
        timeout_s=60,
    )


def _without_data(name: str, usage: str, decode: Decode, run: Run, allow: Allow, medium: Medium, spec: str) -> Command:
    return Command(name, usage, decode, run, Direction.NONE, allow, spec, medium=medium)


# Looked at in byte 1 of READ and WRITE: FUA; DPO is there to be set (DPOFUA of MODE SENSE) and changes nothing.
# Ignored: RARC, a hint; FUA_NV and RELADR, obsolete. RDPROTECT, WRPROTECT and VRPROTECT are refused: there is no
# protection information. GROUP NUMBER may be anything: no statistics are kept by it.
ROWS: tuple[Command, ...] = (
    _without_data(
        "TEST UNIT READY",
        "00 00 00 00 00 04",
        decode_nothing,
        handle_test_unit_ready,
        Allow.PERSISTENT,
        Medium.NONE,
        "SPC-6 TEST UNIT READY command",
    ),
    _without_data(
        "START STOP UNIT",
        "1b 01 00 00 05 04",
        _decode_start_stop_unit,
        handle_start_stop_unit,
        Allow.PERSISTENT,
        Medium.FLUSH,
        "SBC-4 START STOP UNIT command",
    ),
    read_row("READ (6)", "08 1f ff ff ff 04", _decode_6, ignored="00 e0"),
    read_row("READ (10)", "28 18 ffffffff 1f ffff 04", _decode_10, ignored="00 07"),
    read_row("READ (12)", "a8 18 ffffffff ffffffff 1f 04", _decode_12, ignored="00 07 00000000 00000000 80"),
    read_row(
        "READ (16)", "88 18 ffffffffffffffff ffffffff 1f 04", _decode_16, ignored="00 07 0000000000000000 00000000 c0"
    ),
    write_row("WRITE (6)", "0a 1f ff ff ff 04", _decode_6, ignored="00 e0"),
    write_row("WRITE (10)", "2a 18 ffffffff 1f ffff 04", _decode_10, ignored="00 03"),
    write_row("WRITE (12)", "aa 18 ffffffff ffffffff 1f 04", _decode_12, ignored="00 03 00000000 00000000 80"),
    write_row(
        "WRITE (16)", "8a 18 ffffffffffffffff ffffffff 1f 04", _decode_16, ignored="00 03 0000000000000000 00000000 c0"
    ),
    verify_row("VERIFY (10)", "2f 16 ffffffff 1f ffff 04", _decode_10),
    verify_row("VERIFY (12)", "af 16 ffffffff ffffffff 1f 04", _decode_12),
    verify_row("VERIFY (16)", "8f 16 ffffffffffffffff ffffffff 1f 04", _decode_16),
    _flush("SYNCHRONIZE CACHE (10)", "35 02 ffffffff 1f ffff 04", _decode_10),
    _flush("SYNCHRONIZE CACHE (16)", "91 02 ffffffffffffffff ffffffff 1f 04", _decode_16),
)
