"""GET LBA STATUS at an external array. Its answer is untrusted: any bytes give runs, or None.

Spec: SBC-4 "GET LBA STATUS (16) command".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from backends.external.operation import DataOperation
from backends.external.path import Answer
from scsi.volume import Allocation, AllocationDone, Buffer, VolumeError

if TYPE_CHECKING:
    from backends.external.unit import ExternalLogicalUnit

MOST_RUNS = 64
LBA_STATUS_BYTES = 8 + 16 * MOST_RUNS
_DESCRIPTOR = struct.Struct(">QIB3x")
_DEALLOCATED = 1


def ask_allocation(unit: ExternalLogicalUnit, lba: int, blocks: int, done: AllocationDone) -> None:
    """Say which blocks of a LU have storage; all of them when the array gives no answer that can be used."""

    def answered(reply: Answer | VolumeError) -> None:
        runs = None if isinstance(reply, VolumeError) else decode_lba_status(reply.data_in, lba, blocks)
        done(runs or [Allocation(blocks, mapped=True)])

    DataOperation(unit, encode_get_lba_status(lba), answered, b"", LBA_STATUS_BYTES).start()


def encode_get_lba_status(lba: int) -> bytes:
    """Return the CDB that asks for what begins at a block."""
    return struct.pack(">BBQIBB", 0x9E, 0x12, lba, LBA_STATUS_BYTES, 0, 0)


def decode_lba_status(data: Buffer, lba: int, blocks: int) -> list[Allocation] | None:
    """Return the runs from `lba` on, within `blocks` blocks; None when the answer does not say so much as one."""
    if len(data) < 8:
        return None
    length = min(int.from_bytes(data[:4], "big") - 4, len(data) - 8, 16 * MOST_RUNS)
    runs: list[Allocation] = []
    at, end = lba, lba + blocks
    for offset in range(8, 8 + max(length, 0) // 16 * 16, 16):
        first, count, status = _DESCRIPTOR.unpack_from(data, offset)
        # The first may begin before what was asked for; the others follow each other.
        if first > at or first + count <= at or (runs and first != at) or at >= end:
            break
        run_end = min(first + count, end)
        runs.append(Allocation(run_end - at, mapped=status & 0x0F != _DEALLOCATED))
        at = run_end
    return runs or None
