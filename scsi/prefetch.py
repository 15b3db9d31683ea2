"""PRE-FETCH: has blocks read ahead, by reading them and giving the data to nobody.

What caches there are, the page cache of a local device or that of an external array, keep what went through them. A
part of them is for it: of more blocks than fit there those that fit are read, and the status is GOOD.

Spec: SBC-4 "PRE-FETCH (10) command", "PRE-FETCH (16) command".
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final

from scsi.block_commands import Fields, check_end, deferrer, refuse_unready, transfer_limit_blocks
from scsi.commands import Allow, Command, Decode, Direction, Medium
from scsi.sense import error_of
from scsi.steps import Step, Steps
from scsi.tasks import Task
from scsi.volume import Buffer, Done, Volume, VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

# More than this is not read: it could push out what somebody needs.
MOST_BYTES: Final = 16 << 20
_PIECE_BYTES: Final = 1 << 20
_IMMED: Final = 0x02

_decode_10 = Struct(">xBIxH").unpack_from
_decode_16 = Struct(">xBQI").unpack_from


def handle_prefetch(unit: LogicalUnit, task: Task, fields: Fields) -> None:
    """PRE-FETCH (10) and (16): CONDITION MET when all fits, GOOD when it does not; 0 blocks are all to the end.

    With IMMED the status comes first; a block that then can not be read is a deferred error.
    """
    flags, lba, blocks = fields
    check_end(unit, lba, blocks)
    refuse_unready(unit)
    blocks = blocks or unit.volume.blocks - lba
    most = MOST_BYTES // unit.volume.block_bytes
    reads = _steps(unit, lba, min(blocks, most))
    if flags & _IMMED:
        _answer(unit, task, blocks > most)
        Steps(reads, deferrer(unit, task.session.nexus)).start()
    else:
        Steps(reads, _ender(unit, task, blocks > most)).start()


def _steps(unit: LogicalUnit, lba: int, blocks: int) -> Iterator[Step]:
    most = max(min(_PIECE_BYTES // unit.volume.block_bytes, transfer_limit_blocks(unit)), 1)
    for first in range(lba, lba + blocks, most):
        yield partial(_read, unit.volume, first, min(most, lba + blocks - first))


def _read(volume: Volume, lba: int, blocks: int, done: Done) -> None:
    def read(result: Buffer | VolumeError) -> None:
        done(result if isinstance(result, VolumeError) else None)

    volume.read(lba, blocks, read)


def _ender(unit: LogicalUnit, task: Task, too_much: bool) -> Done:
    def done(error: VolumeError | None) -> None:
        if error is None:
            _answer(unit, task, too_much)
        else:
            unit.fail(task, error_of(error))

    return done


def _answer(unit: LogicalUnit, task: Task, too_much: bool) -> None:
    if too_much:
        unit.finish(task)
    else:
        unit.finish_met(task)


def _row(name: str, usage: str, decode: Decode) -> Command:
    return Command(
        name,
        usage,
        decode,
        handle_prefetch,
        direction=Direction.NONE,
        allow=Allow.WRITE_EXCLUSIVE,
        spec=f"SBC-4 {name} command",
        ignored="00 01",  # RELADR, obsolete
        medium=Medium.READ,
        timeout_s=30,
    )


ROWS: tuple[Command, ...] = (
    _row("PRE-FETCH (10)", "34 02 ffffffff 1f ffff 04", _decode_10),
    _row("PRE-FETCH (16)", "90 02 ffffffffffffffff ffffffff 1f 04", _decode_16),
)
