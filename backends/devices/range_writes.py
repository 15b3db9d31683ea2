"""Writes of one block's data to many blocks, and the giving back of storage: what fallocate is for.

How this works: a range is changed by the first of several ways that the device or file system has (EOPNOTSUPP says that
it has not): storage given back, storage kept and marked as zero, zeroes written. Each leaves zeroes to be read. Other
data than zeroes is written, always.

It goes in steps, so that memory can be changed on the event loop's own thread without holding it up.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

from backends.devices.write_queue import QueuedWrite
from scsi.volume import Allocation, Buffer, Done

MOST_RUNS = 64  # that one question about storage is answered with
MOST_FILL_BYTES = 1 << 20  # written in one step
MOST_STEP_BYTES = 8 << 20  # given back, or marked as zero, in one step

# linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_NO_SUCH_WAY = frozenset({errno.EOPNOTSUPP, errno.ENOSYS})

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def give_back(descriptor: int, offset: int, length: int) -> None:
    """Have bytes read as zeroes, without storage as far as whole pieces of that are covered.

    Raises:
        OSError: the kernel's answer; EOPNOTSUPP when there is no such way.
    """
    _change(descriptor, _PUNCH_HOLE, offset, length)


def mark_as_zero(descriptor: int, offset: int, length: int) -> None:
    """Have bytes read as zeroes, and keep their storage; raises as `give_back`."""
    _change(descriptor, _ZERO_RANGE, offset, length)


def _change(descriptor: int, mode: int, offset: int, length: int) -> None:
    while _fallocate(descriptor, mode | _KEEP_SIZE, offset, length):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


Way = Callable[[int, int, int], None]


class RangeWrite(QueuedWrite):
    """One block's data for a run of bytes, or with no block zeroes and no storage."""

    __slots__ = ("_at", "_block", "_fill", "_ways")

    def __init__(self, offset: int, length: int, block: Buffer | None, done: Done) -> None:
        super().__init__(offset, b"", False, done)
        self.end = offset + length
        self.alone = True
        self._at = offset
        self._block = b"\0" if block is None else bytes(block)
        self._fill = b""
        self._ways: list[Way] = []
        if block is None:
            self._ways = [give_back, mark_as_zero]
        elif not any(self._block):
            self._ways = [mark_as_zero]

    def carry_out(self, descriptor: int) -> None:
        """Do all of it."""
        while not self.step(descriptor):
            pass

    def step(self, descriptor: int) -> bool:
        """Do a part of it, never long on a file in memory; True when it has ended, by an error too."""
        try:
            if self._ways:
                self._try_a_way(descriptor)
            else:
                self._write(descriptor)
        except OSError as error:
            self.error = error
            self.failed_at = self._at
            return True
        return self._at >= self.end

    def _try_a_way(self, descriptor: int) -> None:
        length = min(self.end - self._at, MOST_STEP_BYTES)
        try:
            self._ways[0](descriptor, self._at, length)
        except OSError as error:
            if error.errno not in _NO_SUCH_WAY:
                raise
            del self._ways[0]
        else:
            self._at += length

    def _write(self, descriptor: int) -> None:
        if not self._fill:
            size = len(self._block)
            self._fill = self._block * (min(self.end - self.offset, MOST_FILL_BYTES) // size)
        # After a write that was cut short in a block, the next one goes on inside of the block.
        first = (self._at - self.offset) % len(self._block)
        self._at += os.pwrite(descriptor, memoryview(self._fill)[first : first + self.end - self._at], self._at)


def can_give_back(descriptor: int, size: int, block_bytes: int) -> bool:
    """Tell whether a regular file can give storage back; asked behind its end, where there is none."""
    try:
        give_back(descriptor, size, block_bytes)
    except OSError:
        return False
    return True


def find_allocation(descriptor: int, lba: int, blocks: int, block_bytes: int) -> list[Allocation]:
    """Say which blocks of a regular file have storage, see `scsi.volume.Volume.allocation`.

    A block that has storage in part has it.
    """
    runs: list[Allocation] = []
    at, end = lba, lba + blocks
    while at < end and len(runs) < MOST_RUNS:
        try:
            data = os.lseek(descriptor, at * block_bytes, os.SEEK_DATA) // block_bytes
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = end  # nothing but a hole up to the end of the file
        if data > at:
            runs.append(Allocation(min(data, end) - at, mapped=False))
        if data < end:
            hole = max(-(-os.lseek(descriptor, data * block_bytes, os.SEEK_HOLE) // block_bytes), data + 1)
            runs.append(Allocation(min(hole, end) - data, mapped=True))
            at = hole
        else:
            at = end
    return runs
