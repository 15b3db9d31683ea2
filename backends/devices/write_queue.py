"""The writes of one device on their way to the worker threads: in batches, and overlapping ones in order.

How this works: the writes of one wake-up of the event loop are gathered, then go to a thread as one batch, which does
them in the order they came, adjacent ones with one pwritev. Writes that come while a batch is under way are gathered
for the next one: a write to the page cache takes a few microseconds and a change of threads takes twenty, so one
thread and large batches keep up with many hosts where several threads only wake each other. Not before a batch has
taken `SLOW_S` does another run beside it, so that a write that does block does not hold up all others. A write that
takes long by its nature (one with FUA waits for the medium; those of `range_writes`) is a batch of its own, beside the
others.

Two writes that overlap must land in the order they came, though batches run side by side: each write in flight marks
the 64 KiB chunks that it touches, and a write that meets a marked chunk waits until the batch that marked it has
ended (so do those behind it that touch the same chunks). Chunks are coarser than blocks: waiting without need costs
little.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from backends.scheduler import Scheduler
from backends.workers import Workers
from scsi.volume import Buffer, Done

MOST_BATCHES = 4  # of plain writes, and as many writes that go alone
SLOW_S = 0.002
MOST_WRITES = 128  # of one batch
MOST_JOINED_BYTES = 1 << 20
_CHUNK_SHIFT = 16


class QueuedWrite:
    """One write, `offset` … `end` in bytes.

    Attributes:
        alone: it is a batch of its own.
        error, failed_at: why and at what byte it failed, set by the thread.
    """

    __slots__ = ("alone", "data", "done", "end", "error", "failed_at", "fua", "offset")

    def __init__(self, offset: int, data: Buffer, fua: bool, done: Done) -> None:
        self.offset = offset
        self.end = offset + len(data)
        self.data = data
        self.fua = self.alone = fua
        self.done = done
        self.error: Exception | None = None
        self.failed_at = offset

    def carry_out(self, descriptor: int) -> None:
        """Do the write, however many calls it takes; when it fails it carries the error."""
        flags = os.RWF_DSYNC if self.fua else 0
        offset = self.offset
        view = memoryview(self.data)
        try:
            while view:
                count = os.pwritev(descriptor, [view], offset, flags) if flags else os.pwrite(descriptor, view, offset)
                offset += count
                view = view[count:]
        except OSError as error:
            self.error = error
            self.failed_at = offset


class WriteQueue:
    """Takes a device's writes, and hands each back to `ended` when it is done or failed."""

    def __init__(
        self, descriptor: int, scheduler: Scheduler, workers: Workers, ended: Callable[[QueuedWrite], None]
    ) -> None:
        self._descriptor = descriptor
        self._scheduler = scheduler
        self._workers = workers
        self._ended = ended
        self._waiting: list[QueuedWrite] = []
        self._chunks: dict[int, int] = {}  # chunk → writes in flight that touch it
        self._batches = 0  # of plain writes, in flight
        self._alone = 0  # writes that go alone, in flight
        self._woken = False
        self._timed = False
        self._slow_at = 0.0  # until then the latest batch of plain writes is not slow

    def __bool__(self) -> bool:
        """True while any write is waiting or in flight."""
        return bool(self._waiting or self._batches or self._alone)

    def add(self, write: QueuedWrite) -> None:
        """Queue a write; `ended` gets it, later, never before this returns."""
        self._waiting.append(write)
        if not self._woken:
            self._woken = True
            self._scheduler.call_soon(self._go)

    def _go(self) -> None:
        self._woken = False
        if not self._waiting:
            return
        may_batch = self._may_batch()
        batch: list[QueuedWrite] = []
        stay: list[QueuedWrite] = []
        passed: set[int] = set()  # chunks of the writes that stay: nothing behind may overtake them there
        taken: set[int] = set()  # chunks of the batch being made: within it the order is kept, a write beside it waits
        for write in self._waiting:
            chunks = _chunks(write)
            full = self._alone >= MOST_BATCHES if write.alone else not may_batch or len(batch) >= MOST_WRITES
            if full or any(
                chunk in self._chunks or chunk in passed or (write.alone and chunk in taken) for chunk in chunks
            ):
                stay.append(write)
                passed.update(chunks)
            elif write.alone:
                self._mark(chunks)
                self._alone += 1
                self._submit([write])
            else:
                batch.append(write)
                taken.update(chunks)
        self._waiting = stay
        for write in batch:
            self._mark(_chunks(write))
        if batch:
            self._batches += 1
            self._slow_at = self._scheduler.now() + SLOW_S
            self._submit(batch)
        if stay and not self._timed:
            self._timed = True
            self._scheduler.call_later(SLOW_S, self._look_again)

    def _may_batch(self) -> bool:
        if not self._batches:
            return True
        return self._batches < MOST_BATCHES and self._scheduler.now() >= self._slow_at

    def _look_again(self) -> None:
        self._timed = False
        self._go()

    def _mark(self, chunks: range) -> None:
        for chunk in chunks:
            self._chunks[chunk] = self._chunks.get(chunk, 0) + 1

    def _submit(self, batch: list[QueuedWrite]) -> None:
        self._workers.submit_now(
            lambda: write_batch(self._descriptor, batch), lambda result: self._finish(batch, result)
        )

    def _finish(self, batch: list[QueuedWrite], result: Exception | None) -> None:
        if batch[0].alone:
            self._alone -= 1
        else:
            self._batches -= 1
        for write in batch:
            if result is not None:  # a fault of annex's own: none of them may count as done
                write.error = result
            for chunk in _chunks(write):
                left = self._chunks[chunk] - 1
                if left:
                    self._chunks[chunk] = left
                else:
                    del self._chunks[chunk]
        # First what waits, so that the threads work while the answers are made.
        self._go()
        for write in batch:
            self._ended(write)


def _chunks(write: QueuedWrite) -> range:
    return range(write.offset >> _CHUNK_SHIFT, ((write.end - 1) >> _CHUNK_SHIFT) + 1)


def write_batch(descriptor: int, batch: list[QueuedWrite]) -> None:
    """Do the writes of a batch in order, on a worker thread; each failed one carries its error."""
    first = 0
    while first < len(batch):
        last = first + 1
        end = batch[first].end
        most = batch[first].offset + MOST_JOINED_BYTES
        while last < len(batch) and batch[last].offset == end and end + len(batch[last].data) <= most:
            end += len(batch[last].data)
            last += 1
        if last - first == 1 or not _write_joined(descriptor, batch[first:last], end):
            # Also after a joined write failed: one by one, the error finds the write that it belongs to.
            for write in batch[first:last]:
                write.carry_out(descriptor)
        first = last


def _write_joined(descriptor: int, writes: list[QueuedWrite], end: int) -> bool:
    try:
        count = os.pwritev(descriptor, [write.data for write in writes], writes[0].offset)
    except OSError:
        return False
    return count == end - writes[0].offset
