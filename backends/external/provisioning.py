"""UNMAP and WRITE SAME at an external LU: by its own commands where it has them, else by writing.

How this works. Zeroes are what is promised of unmapped blocks, and UNMAP promises nothing: an array may leave what does
not fit its pieces as it was. WRITE SAME with its UNMAP bit, at an array whose unmapped blocks read as zeroes (LBPRZ),
is a write, and may give the storage back. So whole pieces are unmapped by that, or zeroed first where the array has
UNMAP alone; parts of pieces are written. An array that refuses what it said it has is not asked again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from backends.external.operation import WriteOperation
from backends.external.replies import BlockLimits, ThinProvisioning
from backends.external.sense import Sense
from scsi.iscsi.initiator_task import Task
from scsi.status import SenseKey
from scsi.steps import Step
from scsi.volume import Buffer, Deallocation, Done, VolumeError

if TYPE_CHECKING:
    from backends.external.unit import ExternalLogicalUnit

WRITE_SAME_10, WRITE_SAME_16, UNMAP = 0x41, 0x93, 0x42
UNMAP_BIT = 0x08
_MOST_BLOCKS = 0xFFFF  # of one command when the array names no limit, and of WRITE SAME (10)
_MOST_FILL_BYTES = 1 << 20  # of one WRITE that stands in for WRITE SAME
_CDB_10 = struct.Struct(">BBIBHB")
_CDB_16 = struct.Struct(">BBQIBB")
_UNMAP_CDB = struct.Struct(">B5xBHB")
_UNMAP_LIST = struct.Struct(">HH4xQI4x")
_REFUSED = frozenset({0x20, 0x24, 0x26})  # ASCs that say: not with this LU


class Provisioning(NamedTuple):
    """What an external LU can do for us.

    Attributes:
        write_same: the operation code of the WRITE SAME that it has, 0 for none.
        unmap: the operation code of what gives storage back: WRITE SAME with UNMAP, or UNMAP; 0 for none.
        most_blocks: of one WRITE SAME.
        most_unmap_blocks: of one of `unmap`.
        deallocation: see `Volume`.
        lba_status: it may know GET LBA STATUS.
    """

    write_same: int = 0
    unmap: int = 0
    most_blocks: int = _MOST_BLOCKS
    most_unmap_blocks: int = _MOST_BLOCKS
    deallocation: Deallocation | None = None
    lba_status: bool = False


def judge(limits: BlockLimits, thin: ThinProvisioning | None, known: frozenset[int], blocks: int) -> Provisioning:
    """Conclude what may be sent to a LU.

    Args:
        limits: of VPD page B0h.
        thin: of VPD page B2h, None unless READ CAPACITY (16) says that the LU has provisioning management.
        known: those of `WRITE_SAME_10` and `WRITE_SAME_16` that the array says it knows.
        blocks: capacity.
    """
    ten_reaches = blocks <= 1 << 32
    same = {WRITE_SAME_16, WRITE_SAME_10} & known
    if thin is not None:
        same |= {code for code, there in ((WRITE_SAME_16, thin.same_16), (WRITE_SAME_10, thin.same_10)) if there}
    most = min(limits.max_write_same_blocks or _MOST_BLOCKS, _MOST_BLOCKS)
    found = Provisioning(write_same=_best(same, ten_reaches), most_blocks=most)
    if thin is None or not thin.zeroes:
        return found
    deallocation = Deallocation(max(limits.unmap_granularity, 1), limits.unmap_alignment)
    unmap, most_unmap = 0, 0
    if thin.same_16 or (thin.same_10 and ten_reaches):
        unmap, most_unmap = WRITE_SAME_16 if thin.same_16 else WRITE_SAME_10, most
    elif thin.unmap and limits.max_unmap_descriptors:
        unmap, most_unmap = UNMAP, limits.max_unmap_blocks
    if most_unmap < deallocation.granularity_blocks:  # no command would be about a whole piece
        return found
    return found._replace(unmap=unmap, most_unmap_blocks=most_unmap, deallocation=deallocation, lba_status=True)


def _best(codes: set[int], ten_reaches: bool) -> int:
    if WRITE_SAME_16 in codes:
        return WRITE_SAME_16
    return WRITE_SAME_10 if WRITE_SAME_10 in codes and ten_reaches else 0


def same_steps(unit: ExternalLogicalUnit, lba: int, block: Buffer, blocks: int) -> Iterator[Step]:
    """Give what writes one block's data to each of many blocks."""
    if unit.provisioning.write_same:
        for first, count in _cut(lba, blocks, unit.provisioning.most_blocks):
            yield partial(_send_same, unit, first, block, count)
        return
    most = min(unit.split_blocks, max(_MOST_FILL_BYTES // unit.block_bytes, 1))
    fill = memoryview(bytes(block) * min(blocks, most))
    for first, count in _cut(lba, blocks, most):
        yield partial(unit.write, first, fill[: count * unit.block_bytes], False)


def unmap_steps(unit: ExternalLogicalUnit, lba: int, blocks: int) -> Iterator[Step]:
    """Give what makes blocks read as zeroes: the storage of whole pieces is given back, parts of pieces are written."""
    zeroes = bytes(unit.block_bytes)
    pieces = unit.provisioning.deallocation
    if pieces is None:
        yield from same_steps(unit, lba, zeroes, blocks)
        return
    size = pieces.granularity_blocks
    end = lba + blocks
    first_whole = lba + (pieces.first_lba - lba) % size
    end_whole = end - (end - pieces.first_lba) % size
    if first_whole >= end_whole:
        yield from same_steps(unit, lba, zeroes, blocks)
        return
    if first_whole > lba:
        yield from same_steps(unit, lba, zeroes, first_whole - lba)
    most = unit.provisioning.most_unmap_blocks // size * size
    for first, count in _cut(first_whole, end_whole - first_whole, most):
        yield partial(_send_unmap, unit, first, count)
    if end > end_whole:
        yield from same_steps(unit, end_whole, zeroes, end - end_whole)


def _cut(lba: int, blocks: int, most: int) -> Iterator[tuple[int, int]]:
    for at in range(lba, lba + blocks, most):
        yield at, min(most, lba + blocks - at)


def _send_same(unit: ExternalLogicalUnit, lba: int, block: Buffer, blocks: int, done: Done) -> None:
    def refused() -> None:
        unit.provisioning = unit.provisioning._replace(write_same=0)
        unit.write_same(lba, block, blocks, done)

    code = unit.provisioning.write_same
    if code and unit.fault() is None:
        RangeOperation(unit, _same_cdb(code, 0, lba, blocks), done, block, blocks, refused).start()
    else:  # refused to a piece before this one, or gone
        unit.write_same(lba, block, blocks, done)


def _send_unmap(unit: ExternalLogicalUnit, lba: int, blocks: int, done: Done) -> None:
    code = unit.provisioning.unmap

    def refused() -> None:
        unit.provisioning = unit.provisioning._replace(unmap=0, deallocation=None)
        unit.unmap(lba, blocks, done)

    def zeroed(error: VolumeError | None) -> None:
        if error is None and unit.fault() is None:
            cdb = _UNMAP_CDB.pack(UNMAP, 0, _UNMAP_LIST.size, 0)
            RangeOperation(unit, cdb, done, _UNMAP_LIST.pack(22, 16, lba, blocks), blocks, refused).start()
        else:
            done(error or unit.fault())

    if code == UNMAP:
        unit.write_same(lba, bytes(unit.block_bytes), blocks, zeroed)
    elif code and unit.fault() is None:
        cdb = _same_cdb(code, UNMAP_BIT, lba, blocks)
        RangeOperation(unit, cdb, done, bytes(unit.block_bytes), blocks, refused).start()
    else:  # refused to a piece before this one, or gone
        unit.unmap(lba, blocks, done)


def _same_cdb(code: int, flags: int, lba: int, blocks: int) -> bytes:
    if code == WRITE_SAME_16:
        return _CDB_16.pack(code, flags, lba, blocks, 0, 0)
    return _CDB_10.pack(code, flags, lba, 0, blocks, 0)


class RangeOperation(WriteOperation):
    """A WRITE SAME or an UNMAP; `done` is a `Done`."""

    __slots__ = ("_blocks", "_refused")

    def __init__(
        self,
        unit: ExternalLogicalUnit,
        cdb: bytes,
        done: Done,
        data_out: Buffer,
        blocks: int,
        refused: Callable[[], None],
    ) -> None:
        super().__init__(unit, cdb, done, data_out)
        self._blocks = blocks
        self._refused = refused

    def blocks(self) -> int:
        """Give how many blocks it changes, whatever data comes with it."""
        return self._blocks

    def _checked(self, answer: Task, sense: Sense) -> None:
        if sense.key == SenseKey.ILLEGAL_REQUEST and sense.asc in _REFUSED:
            self._refused()
        else:
            super()._checked(answer, sense)
