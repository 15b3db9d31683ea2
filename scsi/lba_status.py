"""GET LBA STATUS: which blocks have storage.

REPORT TYPE is not processed, and RTP says so: a volume does not tell blocks that have storage from those of which it
does not know. There are no physical elements that one could ask about.

Spec: SBC-4 "GET LBA STATUS (16) command", "GET LBA STATUS (32) command".
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from scsi.block_commands import refuse_unready
from scsi.commands import Allow, Command, Decode, Direction, Medium
from scsi.errors import LbaOutOfRange
from scsi.sense import error_of
from scsi.tasks import Task
from scsi.volume import Allocation, VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

Fields = tuple[int, int, int, int, int]

MOST_DESCRIPTORS: Final = 64
_MOST_BLOCKS: Final = 0xFFFFFFFF  # of one descriptor

_HEADER = Struct(">I3xB")
_DESCRIPTOR = Struct(">QIB3x")
_MAPPED_OR_UNKNOWN, _DEALLOCATED = 0, 1  # PROVISIONING STATUS
_NOT_SAID, _ALLOCATION_LENGTH, _SCAN_LENGTH, _END = 0x0, 0x2, 0x4, 0x6  # COMPLETION CONDITION, with RTP 0

_unpack_16 = Struct(">2xQI").unpack_from
_unpack_32 = Struct(">12xQI4xI").unpack_from


# As of any row that reads: flags, first block, number of blocks, which is 0 because it need not wait for any that are
# written. Then SCAN LENGTH, 0 for no limit, and ALLOCATION LENGTH.
def _decode_16(cdb: bytes) -> Fields:
    lba, allocation_length = _unpack_16(cdb)
    return 0, lba, 0, 0, allocation_length


def _decode_32(cdb: bytes) -> Fields:
    lba, scan_blocks, allocation_length = _unpack_32(cdb)
    return 0, lba, 0, scan_blocks, allocation_length


def handle_get_lba_status(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """GET LBA STATUS (16) and (32)."""
    _, lba, _, scan_blocks, allocation_length = fields
    refuse_unready(unit)
    capacity = unit.volume.blocks
    if lba >= capacity:
        raise LbaOutOfRange(f"{lba} of {capacity}", information=lba)

    wanted = min(capacity - lba, scan_blocks or _MOST_BLOCKS, _MOST_BLOCKS)
    room = _room(allocation_length)
    runs: list[Allocation] = []

    def done(result: list[Allocation] | VolumeError) -> None:
        if isinstance(result, VolumeError):
            unit.fail(task, error_of(result))
            return
        for run in result:
            if runs and runs[-1].mapped is run.mapped:
                runs[-1] = Allocation(runs[-1].blocks + run.blocks, run.mapped)
            else:
                runs.append(run)
        known = sum(run.blocks for run in runs)
        # A volume may know the first blocks only, as one of several regions does. A run may go on, so one more is asked
        # for than there is room for.
        if known < wanted and len(runs) <= room:
            unit.volume.allocation(lba + known, wanted - known, done)
            return
        if len(runs) > room:
            condition = _ALLOCATION_LENGTH if room < MOST_DESCRIPTORS else _NOT_SAID
        elif lba + known == capacity:
            condition = _END
        else:
            condition = _SCAN_LENGTH if known == scan_blocks else _NOT_SAID
        unit.finish(task, _encode(lba, runs[:room], condition)[:allocation_length])

    unit.volume.allocation(lba, wanted, done)


def _room(allocation_length: int) -> int:
    """Say how many descriptors are put together: as many as there is room for, and one at least."""
    fitting = (allocation_length - _HEADER.size) // _DESCRIPTOR.size
    return min(max(fitting, 1), MOST_DESCRIPTORS)


def _encode(lba: int, runs: list[Allocation], condition: int) -> bytes:
    data = b""
    for blocks, mapped in runs:
        data += _DESCRIPTOR.pack(lba, blocks, _MAPPED_OR_UNKNOWN if mapped else _DEALLOCATED)
        lba += blocks
    return _HEADER.pack(len(data) + 4, condition) + data


def _row(name: str, usage: str, decode: Decode, ignored: str) -> Command:
    return Command(
        name,
        usage,
        decode,
        handle_get_lba_status,
        direction=Direction.TO_INITIATOR,
        allow=Allow.WRITE_EXCLUSIVE,
        spec=f"SBC-4 {name} command",
        service_action=True,
        ignored=ignored,
        medium=Medium.READ,
        timeout_s=30,
    )


# Ignored: REPORT TYPE. An ELEMENT IDENTIFIER is refused.
ROWS: tuple[Command, ...] = (
    _row(
        "GET LBA STATUS (16)",
        "9e 12 ffffffffffffffff ffffffff 00 04",
        _decode_16,
        "00 00 0000000000000000 00000000 ff",
    ),
    _row(
        "GET LBA STATUS (32)",
        "7f 04 00000000 00 18 0012 00 00 ffffffffffffffff ffffffff 00000000 ffffffff",
        _decode_32,
        "00 00 00000000 00 00 0000 ff",
    ),
)
