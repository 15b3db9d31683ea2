"""WRITE ATOMIC: after a crash all of its blocks are written, or none; and nobody reads some of them.

How this works. The data goes to a redo record first (`scsi.redo`), then to its blocks, and when it is stable there the
record is removed; only then is the host answered. The command is exclusive, so that nothing else reads or writes the
blocks meanwhile. A record that is found after a crash, or whose write did not come to an end because a path was lost,
is written again before the unit serves its hosts; until then it is becoming ready. On a pair that is a mirrored write
as any other.

Spec: SBC-4 "WRITE ATOMIC (16) command", "Atomic write operations".
"""

from __future__ import annotations

import logging
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final

from scsi.block_commands import check_end, refuse_unready, refuse_writing, transfer_limit_blocks, write_row
from scsi.commands import Command
from scsi.errors import BecomingReady, InvalidFieldInCdb, InvalidFieldInInformationUnit
from scsi.nexus import Nexus
from scsi.redo import Redo
from scsi.sense import error_of
from scsi.tasks import Task
from scsi.volume import Fault, VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_log = logging.getLogger(__name__)

MOST_BYTES: Final = 1 << 20  # of one command: its record has to be written and synced first

# The write may still come to an end when the path is back; of any other fault trying again would not change anything.
_PASSING: Final = frozenset({Fault.LINK_LOST, Fault.TIMED_OUT, Fault.BECOMING_READY, Fault.BUSY, Fault.BLOCKED})

_unpack = Struct(">xBQHH").unpack_from


def atomic_limit_blocks(unit: LogicalUnit) -> int:
    """Say how many blocks one WRITE ATOMIC may write: MAXIMUM ATOMIC TRANSFER LENGTH of VPD page B0h; 0 without it."""
    if unit.redo_log is None:
        return 0
    return min(MOST_BYTES // (unit.volume.block_bytes or 512), transfer_limit_blocks(unit))


class AtomicWrites:
    """The atomic writes of a logical unit that are not complete though nobody works on them."""

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit
        self._left: list[Redo] = []
        self._replaying = False

    @property
    def incomplete(self) -> bool:
        """Whether there are any."""
        return bool(self._left)

    @property
    def error(self) -> BecomingReady | None:
        """What hosts' commands are refused with; each of them has the writes tried again."""
        self.replay()
        return BecomingReady("an atomic write is being completed") if self._left else None

    def add(self, redo: Redo) -> None:
        """Complete a write before anything else is done."""
        self._left.append(redo)
        self._unit.refresh()

    def replay(self) -> None:
        """Try to complete the writes, in order, unless the volume can not serve or it is being done."""
        if self._replaying or not self._left or self._unit.volume.fault() is not None:
            return
        self._replaying = True
        redo = self._left[0]
        volume = self._unit.volume
        if redo.failure is not None:
            redo.forget(self._forgotten)
        elif redo.block_bytes != volume.block_bytes or redo.lba + len(redo.data) // redo.block_bytes > volume.blocks:
            self._written(redo, VolumeError(Fault.HARDWARE, "the unit has other blocks now"))
        else:
            volume.write(redo.lba, redo.data, True, partial(self._written, redo))

    def _written(self, redo: Redo, error: VolumeError | None) -> None:
        if error is not None and error.fault in _PASSING:
            self._replaying = False  # until the next command
            return
        if error is not None:
            _log.error(
                "%r: an atomic write at block %d could not be completed: %s",
                self._unit,
                redo.lba,
                error,
                extra={"event": "atomic_write_lost"},
            )
        redo.forget(self._forgotten)

    def _forgotten(self, error: VolumeError | None) -> None:
        self._replaying = False
        if error is None:
            self._left.pop(0)
            self._unit.refresh()
            self.replay()


# --- The command ------------------------------------------------------------------------------------------------------


def _decode(cdb: bytes) -> tuple[int, int, int, int]:
    """Flags, LBA, number of blocks, ATOMIC BOUNDARY."""
    flags, lba, boundary, blocks = _unpack(cdb)
    return flags, lba, blocks, boundary


def _is_there(unit: LogicalUnit, _nexus: Nexus) -> bool:
    return unit.redo_log is not None


def handle_write_atomic(unit: LogicalUnit, task: Task, fields: tuple[int, int, int, int]) -> None:
    """WRITE ATOMIC (16). FUA changes nothing: it is stable before it is answered."""
    _, lba, blocks, boundary = fields
    refuse_writing(unit, task)
    if boundary:
        raise InvalidFieldInCdb(10, None, "there are no atomic boundaries")
    check_end(unit, lba, blocks)
    if blocks > atomic_limit_blocks(unit):
        raise InvalidFieldInCdb(12, None, f"{blocks} blocks in one WRITE ATOMIC")
    block_bytes = unit.volume.block_bytes
    wanted_bytes = blocks * block_bytes
    if len(task.data_out) < wanted_bytes:
        error = InvalidFieldInInformationUnit(f"{len(task.data_out)} bytes of data for {wanted_bytes}")
        unit.fail(task, error, wanted_bytes)
        return
    if not blocks:
        refuse_unready(unit)
        unit.finish(task, data_out_used=0)
        return
    assert unit.redo_log is not None
    unit.counters.writes += 1
    unit.counters.written_blocks += blocks
    data = memoryview(task.data_out)[:wanted_bytes]
    unit.redo_log.keep(lba, data, block_bytes, partial(_kept, unit, task))


def _kept(unit: LogicalUnit, task: Task, result: Redo | VolumeError) -> None:
    if isinstance(result, VolumeError):
        unit.fail(task, error_of(result))
    elif result.failure is not None:
        unit.atomic_writes.add(result)
        unit.fail(task, error_of(result.failure))
    elif task.aborted:
        result.forget(partial(_ended, unit, task, result, None))
    else:
        unit.volume.write(result.lba, result.data, True, partial(_written, unit, task, result))


def _written(unit: LogicalUnit, task: Task, redo: Redo, error: VolumeError | None) -> None:
    if error is not None and error.fault in _PASSING:
        unit.atomic_writes.add(redo)
        unit.fail(task, error_of(error))
    else:
        redo.forget(partial(_ended, unit, task, redo, error))


def _ended(
    unit: LogicalUnit, task: Task, redo: Redo, failure: VolumeError | None, not_forgotten: VolumeError | None
) -> None:
    if not_forgotten is not None:
        # A start would find the record, and write it over what hosts write from now on.
        unit.atomic_writes.add(redo)
    error = failure or not_forgotten
    if error is None:
        unit.finish(task, data_out_used=len(redo.data))
    else:
        unit.fail(task, error_of(error))


ROWS: tuple[Command, ...] = (
    write_row(
        "WRITE ATOMIC (16)",
        "9c 18 ffffffffffffffff ffff ffff 1f 04",
        _decode,
        ignored="00 02",
        run=handle_write_atomic,
        exclusive=True,
        available=_is_there,
    ),
)
