"""Reads a range of a virtual device as it is now, while hosts go on writing to it.

How this works: the range is cut into chunks, of which a few are being read at any time. From `start` on the reader is
a write gate of the device: a write that touches a chunk not yet read has to wait, that chunk is read next, and then the
write goes on. So each block is read as it was at the start, at the cost of a delay to the writes that come too early
for it. Writes that the device had already begun at the start may or may not be seen, block by block, as with any read
beside them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from crc32c import crc32c

from backends.scheduler import Scheduler
from backends.virtual_device import WriteGate
from scsi.volume import Buffer, Done, Volume, VolumeError


class GatedVolume(Volume, Protocol):
    """A volume whose writes can be made to wait."""

    def add_gate(self, gate: WriteGate) -> None: ...
    def remove_gate(self, gate: WriteGate) -> None: ...


@dataclass(frozen=True)
class SnapshotReadOptions:
    """How a range is read."""

    chunk_bytes: int = 256 * 1024
    chunks_in_flight: int = 4


class _WaitingWrite:
    """A write that may go on once `chunks` of the range have been read."""

    __slots__ = ("chunks", "go")

    def __init__(self, chunks: int, go: Callable[[], None]) -> None:
        self.chunks = chunks
        self.go = go


_UNREAD, _READING, _READ = range(3)


class SnapshotRead:
    """One range being read.

    Attributes:
        data: the range's bytes; complete once `done(None)` was called.
        crc32c: checksum of the data, complete with it.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        device: GatedVolume,
        lba: int,
        blocks: int,
        options: SnapshotReadOptions,
        done: Done,
    ) -> None:
        self._scheduler = scheduler
        self._device = device
        self._lba = lba
        self._blocks = blocks
        self._block_bytes = device.block_bytes
        self._in_flight_limit = options.chunks_in_flight
        chunk_blocks = max(1, options.chunk_bytes // self._block_bytes)
        if device.max_transfer_blocks:
            chunk_blocks = min(chunk_blocks, device.max_transfer_blocks)
        self._chunk_blocks = chunk_blocks
        chunks = -(-blocks // chunk_blocks)
        self._chunk_states = bytearray(chunks)
        self._unread = chunks
        self._next = 0  # every chunk before it has been begun
        self._urgent: deque[int] = deque()  # chunks that a write waits for
        self._waiting: dict[int, list[_WaitingWrite]] = {}
        self._in_flight = 0
        self._summed = 0  # chunks in `crc32c` so far; they finish in any order, the sum is made in theirs
        self._running = False
        self._pumping = False
        self._pump_is_due = False
        self._done = done
        self.data = bytearray(blocks * self._block_bytes)
        self.crc32c = 0

    def start(self) -> None:
        """Take the state of the range as of now, and begin to read it; `done` may be called before this returns."""
        self._running = True
        self._device.add_gate(self)
        self._pump()

    def stop(self) -> None:
        """Give up without calling `done`: writes that wait go on, the data is dropped. Harmless when it has ended."""
        if self._running:
            self._end()
        self.data = bytearray()

    def admit(self, lba: int, blocks: int, go: Callable[[], None]) -> bool:
        """Let a write pass unless it touches what has not been read yet (see `WriteGate`)."""
        first = max(lba - self._lba, 0)
        end = min(lba + blocks - self._lba, self._blocks)
        if first >= end:
            return True
        span = range(first // self._chunk_blocks, (end - 1) // self._chunk_blocks + 1)
        missing = [chunk for chunk in span if self._chunk_states[chunk] != _READ]
        if not missing:
            return True
        write = _WaitingWrite(len(missing), go)
        for chunk in missing:
            self._waiting.setdefault(chunk, []).append(write)
            if self._chunk_states[chunk] == _UNREAD:
                self._urgent.append(chunk)
        self._pump()
        # The read may have been served in `_pump`, and `go` been called from there: with True it would write twice.
        return False

    def _pump(self) -> None:
        """Begin reads while there are chunks and room, a bounded number a round, so that the event loop can breathe."""
        if self._pumping:
            return
        self._pumping = True
        for _ in range(self._in_flight_limit):
            if not self._running or self._in_flight >= self._in_flight_limit:
                break
            chunk = self._choose()
            if chunk is None:
                break
            self._read(chunk)
        self._pumping = False
        if self._running and self._in_flight == 0 and not self._pump_is_due:
            # Everything was answered inline (a volume in memory): go on after the other work of this wake-up.
            self._pump_is_due = True
            self._scheduler.call_soon(self._pump_again)

    def _pump_again(self) -> None:
        self._pump_is_due = False
        self._pump()

    def _choose(self) -> int | None:
        while self._urgent:
            chunk = self._urgent.popleft()
            if self._chunk_states[chunk] == _UNREAD:
                return chunk
        while self._next < len(self._chunk_states):
            chunk = self._next
            self._next += 1
            if self._chunk_states[chunk] == _UNREAD:
                return chunk
        return None

    def _read(self, chunk: int) -> None:
        first = chunk * self._chunk_blocks
        blocks = min(self._chunk_blocks, self._blocks - first)
        self._chunk_states[chunk] = _READING
        self._in_flight += 1
        self._device.read(self._lba + first, blocks, lambda result: self._chunk_read(chunk, result))

    def _chunk_read(self, chunk: int, result: Buffer | VolumeError) -> None:
        self._in_flight -= 1
        if not self._running:
            return
        if isinstance(result, VolumeError):
            self._end()
            self._done(result)
            return
        offset = chunk * self._chunk_blocks * self._block_bytes
        self.data[offset : offset + len(result)] = result
        self._chunk_states[chunk] = _READ
        self._unread -= 1
        self._sum()
        for write in self._waiting.pop(chunk, ()):
            write.chunks -= 1
            if write.chunks == 0:
                write.go()
        if self._is_over():
            return  # a write that went on had it stopped
        if self._unread == 0:
            self._end()
            self._done(None)
        else:
            self._pump()

    def _sum(self) -> None:
        chunk_bytes = self._chunk_blocks * self._block_bytes
        begin = self._summed
        while self._summed < len(self._chunk_states) and self._chunk_states[self._summed] == _READ:
            self._summed += 1
        if self._summed > begin:
            with memoryview(self.data) as view:
                self.crc32c = crc32c(view[begin * chunk_bytes : self._summed * chunk_bytes], self.crc32c)

    def _is_over(self) -> bool:
        return not self._running

    def _end(self) -> None:
        self._running = False
        self._device.remove_gate(self)
        waiting = {id(write): write for writes in self._waiting.values() for write in writes}
        self._waiting.clear()
        for write in waiting.values():
            write.go()
