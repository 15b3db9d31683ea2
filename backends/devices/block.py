"""Local block devices and files as volumes.

How this works: a read is tried on the event loop's own thread as long as that can not block (RWF_NOWAIT, or a file
that is memory); what is not in the cache, and every write, goes to the worker threads (`write_queue` keeps their
order). All I/O goes through the page cache, so a write is volatile until a flush or FUA, and `write_cache` says so.

A flush that failed is not forgotten (pairs.md, I8). The kernel reports a failed writeback once and then calls the pages
clean, so a second fdatasync that works says nothing about the lost writes. Therefore the device counts its failed
flushes and tells each virtual device on it of those that it has not made up for (`failed_flush`): its flushes fail
with WRITE_ERROR until somebody has decided what becomes of its writes since the last good flush (a pair, after it has
copied them again; an admin, who opens the device again). Reads, writes and FUA go on: each of those tells the truth
about itself.

A device that is missing or held by another blocks its volume, with the reason, and not the daemon; `open` tries again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

from backends.devices.device_file import OpenDevice, failure, read_fully
from backends.devices.range_writes import RangeWrite, find_allocation
from backends.devices.state import DeviceState
from backends.devices.write_queue import QueuedWrite, WriteQueue
from backends.scheduler import Scheduler
from backends.workers import Workers
from scsi.volume import (
    OWN_BLOCKS,
    Allocation,
    AllocationDone,
    Buffer,
    ClaimDone,
    Deallocation,
    Done,
    Fault,
    ReadDone,
    VolumeError,
    write_then_read,
)

# Measured, 4 KiB from the page cache: pread 1.1 µs, preadv into a bytearray 1.2 µs (which it clears first); 128 KiB:
# 12 and 15 µs. So memory is read with pread, and preadv only where RWF_NOWAIT is needed.

# A larger copy out of the cache would keep the event loop for more than about 0.1 ms.
MOST_INLINE_BYTES: Final = 1 << 20

_log = logging.getLogger(__name__)


class BlockDevice:
    """One local block device or regular file: a `scsi.volume.Volume` with a state.

    Attributes:
        name: what the configuration calls it.
        path: of the device.
        state: READY; PENDING until first opened; BLOCKED with the reason in `fault()`.
        failed_flushes: how many failed since the daemon started.
    """

    write_cache = True
    max_transfer_blocks = 0
    claimable = True

    def __init__(self, name: str, path: str, scheduler: Scheduler, workers: Workers) -> None:
        self.name = name
        self.path = path
        self.state = DeviceState.PENDING
        self.block_bytes = 512
        self.blocks = 0
        self.physical_block_exponent = 0
        self.read_only = False
        self.deallocation: Deallocation | None = None
        self.failed_flushes = 0
        self._scheduler = scheduler
        self._workers = workers
        self._device: OpenDevice | None = None
        self._queue: WriteQueue | None = None
        self._unready: VolumeError | None = VolumeError(Fault.BECOMING_READY, f"{path}: not opened yet")
        self._descriptor = -1
        self._in_memory = False
        self._nowait = False
        self._knows_allocation = False
        self._jobs = 0  # on worker threads, with the descriptor in use
        self._idle: list[Callable[[], None]] = []
        self._flushing: list[Done] = []
        self._flush_next: list[Done] = []
        self._failed_flush: VolumeError | None = None
        self._failed_before_open = 0
        self._listeners: list[Callable[[BlockDevice], None]] = []

    def listen(self, callback: Callable[[BlockDevice], None]) -> None:
        """Call back on each change of `state`."""
        self._listeners.append(callback)

    def unlisten(self, callback: Callable[[BlockDevice], None]) -> None:
        """Call `callback` back no more."""
        self._listeners.remove(callback)

    def fault(self) -> VolumeError | None:
        """Say why it can not serve, None when it can."""
        return self._unready

    def open(self, done: Done) -> None:
        """Open the device, also again: then what is under way ends first. `done` gets the reason when that fails.

        Forgets a failed flush: see the module's text.
        """

        def closed() -> None:
            self._jobs += 1
            self._workers.submit(lambda: OpenDevice(self.path), lambda found: self._opened(found, done))

        self.close(closed)

    def measure(self, done: Done) -> None:
        """Have its new length in `blocks` if it has grown. `done` gets the reason when it can not be measured."""
        device = self._device
        if device is None or self._unready is not None:
            done(self._unready or VolumeError(Fault.BECOMING_READY, f"{self.path}: not opened yet"))
            return

        def measured(found: int | Exception) -> None:
            failed = None if isinstance(found, int) else self._failure(found, "measure", None)
            if isinstance(found, int):
                self.blocks = max(self.blocks, found)
            self._job_ended()
            done(failed)

        self._jobs += 1
        self._workers.submit(device.measure, measured)

    def close(self, done: Callable[[], None]) -> None:
        """Take no more operations, end those under way, give the device back."""
        self._block(DeviceState.PENDING, VolumeError(Fault.BECOMING_READY, f"{self.path}: closed"))

        def idle() -> None:
            device, self._device = self._device, None
            self._queue = None
            if device is None:
                done()
            else:
                # The last close of a block device writes its cache back.
                self._workers.submit(device.close, lambda _: done())

        if self._jobs or self._queue:
            self._idle.append(idle)
        else:
            idle()

    def failed_flush(self, made_up_for: int) -> VolumeError | None:
        """Give what a flush must be answered with when, of the first `failed_flushes`, only some are made up for.

        Args:
            made_up_for: how many failed flushes there were when every write that they may have lost was written again.
        """
        return self._failed_flush if self.failed_flushes > max(made_up_for, self._failed_before_open) else None

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        """Read whole blocks: at once when that can not block, else on a thread."""
        if self._unready is not None:
            done(self._unready)
            return
        assert 0 <= lba <= lba + blocks <= self.blocks
        length = blocks * self.block_bytes
        offset = lba * self.block_bytes
        have: bytes | bytearray = b""
        if length <= MOST_INLINE_BYTES:
            try:
                if self._in_memory:
                    have = os.pread(self._descriptor, length, offset)
                    count = len(have)
                elif self._nowait:
                    have = bytearray(length)
                    count = os.preadv(self._descriptor, [have], offset, os.RWF_NOWAIT)
                else:
                    count = -1
            except BlockingIOError:
                count = -1
            except OSError as error:
                done(self._failure(error, "read", lba))
                return
            if count == length:
                done(have)
                return
        self._read_on_thread(lba, length, done)

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        """Write whole blocks; to memory at once, else on a thread."""
        if self._unready is not None:
            done(self._unready)
            return
        if self.read_only:
            done(VolumeError(Fault.WRITE_PROTECTED, f"{self.path}: is read-only"))
            return
        assert lba >= 0
        assert lba * self.block_bytes + len(data) <= self.blocks * self.block_bytes
        offset = lba * self.block_bytes
        if not self._in_memory:
            assert self._queue is not None
            self._queue.add(QueuedWrite(offset, data, fua, done))
            return
        try:
            count = os.pwrite(self._descriptor, data, offset)
        except OSError:
            count = -1
        if count == len(data):
            done(None)
            return
        write = QueuedWrite(offset, data, False, done)  # again, to the end or to the first block that fails
        write.carry_out(self._descriptor)
        done(self._write_failure(write))

    def write_and_read(self, lba: int, data: Buffer, done: ReadDone) -> None:
        """Write whole blocks, have them stable, and read them again."""
        write_then_read(self, lba, data, done)

    def write_same(self, lba: int, block: Buffer, blocks: int, done: Done) -> None:
        """Write one block's data to many blocks; to memory in steps between other work, else on a thread."""
        self._change_range(lba, blocks, block, done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        """Have blocks read as zeroes, and give their storage back; as `write_same`."""
        self._change_range(lba, blocks, None, done)

    def _change_range(self, lba: int, blocks: int, block: Buffer | None, done: Done) -> None:
        if self._unready is not None:
            done(self._unready)
            return
        if self.read_only:
            done(VolumeError(Fault.WRITE_PROTECTED, f"{self.path}: is read-only"))
            return
        assert 0 <= lba < lba + blocks <= self.blocks
        write = RangeWrite(lba * self.block_bytes, blocks * self.block_bytes, block, done)
        if self._in_memory:
            self._jobs += 1
            self._step(write, self._descriptor)
        else:
            assert self._queue is not None
            self._queue.add(write)

    def _step(self, write: RangeWrite, descriptor: int) -> None:
        if not write.step(descriptor):
            self._scheduler.call_soon(lambda: self._step(write, descriptor))
            return
        error = self._write_failure(write)
        self._job_ended()
        write.done(error)

    def claim(self, lba: int, blocks: int, done: ClaimDone) -> None:
        """Claim blocks; the device is locked against all others anyway."""
        del lba, blocks
        done(OWN_BLOCKS)

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        """Say which blocks have storage; of a block device nobody knows."""
        if self._unready is not None:
            done(self._unready)
            return
        assert 0 <= lba < lba + blocks <= self.blocks
        if not self._knows_allocation:
            done([Allocation(blocks, mapped=True)])
            return
        descriptor, block_bytes = self._descriptor, self.block_bytes

        def ended(result: list[Allocation] | Exception) -> None:
            found = self._failure(result, "read", lba) if isinstance(result, Exception) else result
            self._job_ended()
            done(found)

        self._jobs += 1
        self._workers.submit(lambda: find_allocation(descriptor, lba, blocks, block_bytes), ended)

    def flush(self, done: Done) -> None:
        """Make all acknowledged writes stable. Flushes that come while one runs share the next one."""
        if self._unready or self._in_memory or self.read_only:
            done(self._unready)
        elif self._flushing:
            self._flush_next.append(done)
        else:
            self._start_flush([done])

    def _opened(self, found: OpenDevice | Exception, done: Done) -> None:
        if isinstance(found, Exception):
            reason = found if isinstance(found, VolumeError) else VolumeError(Fault.BLOCKED, f"{self.path}: {found!r}")
            self._block(DeviceState.BLOCKED, reason)
        else:
            self._device = found
            if not self._idle:  # else it was closed meanwhile
                self._use(found)
        self._job_ended()
        done(self._unready)

    def _use(self, found: OpenDevice) -> None:
        self._descriptor = found.descriptor
        self._in_memory = found.in_memory
        self._nowait = found.nowait
        self._knows_allocation = found.knows_allocation
        self.block_bytes = found.block_bytes
        self.blocks = found.blocks
        self.physical_block_exponent = found.physical_block_exponent
        self.read_only = found.read_only
        self.deallocation = found.deallocation
        self._queue = WriteQueue(found.descriptor, self._scheduler, self._workers, self._written)
        self._failed_before_open = self.failed_flushes
        self._unready = None
        _log.info("device %s: in use, %s", self.name, self.path, extra={"event": "device_ready"})
        self._become(DeviceState.READY)

    def _block(self, state: DeviceState, reason: VolumeError) -> None:
        self._unready = reason
        self._descriptor = -1
        self._become(state)

    def _become(self, state: DeviceState) -> None:
        if state is not self.state:
            self.state = state
            for callback in tuple(self._listeners):
                callback(self)

    def _failure(self, error: Exception, operation: str, lba: int | None) -> VolumeError:
        failed = failure(error, operation, self.path, lba)
        if failed.fault is Fault.BLOCKED and self._unready is None:
            _log.error("%s: the device is gone", failed, extra={"event": "device_lost"})
            self._block(DeviceState.BLOCKED, failed)
        return failed

    def _read_on_thread(self, lba: int, length: int, done: ReadDone) -> None:
        descriptor = self._descriptor

        def ended(result: tuple[Buffer, OSError | None] | Exception) -> None:
            data, error = (b"", result) if isinstance(result, Exception) else result
            # The error first: a device that is gone is blocked before the last job's end can close it.
            failed = None if error is None else self._failure(error, "read", lba + len(data) // self.block_bytes)
            self._job_ended()
            done(failed or data)

        self._jobs += 1
        self._workers.submit(lambda: read_fully(descriptor, length, lba * self.block_bytes), ended)

    def _write_failure(self, write: QueuedWrite) -> VolumeError | None:
        if write.error is None:
            return None
        return self._failure(write.error, "write", write.failed_at // self.block_bytes)

    def _written(self, write: QueuedWrite) -> None:
        error = self._write_failure(write)
        if error is not None and write.fua:
            # RWF_DSYNC reports, once, the failed writeback of any block: of one that was acknowledged before, too.
            self._count_failed_flush(error)
        self._check_idle()
        write.done(error)

    def _start_flush(self, waiters: list[Done]) -> None:
        self._flushing = waiters
        self._jobs += 1
        descriptor = self._descriptor
        self._workers.submit(lambda: os.fdatasync(descriptor), self._flushed)

    def _flushed(self, result: Exception | None) -> None:
        waiters, self._flushing = self._flushing, []
        error = None
        if result is not None:
            error = self._failure(result, "flush", None)
            self._count_failed_flush(error)
        next_waiters, self._flush_next = self._flush_next, []
        refusal = self._unready
        if next_waiters and not refusal:
            self._start_flush(next_waiters)
            next_waiters = []
        self._job_ended()
        for done in waiters:
            done(error)
        for done in next_waiters:
            done(refusal)

    def _count_failed_flush(self, error: VolumeError) -> None:
        _log.error(
            "%s; writes that were acknowledged may be lost, and flushes fail from now on",
            error,
            extra={"event": "device_flush_failed"},
        )
        self.failed_flushes += 1
        self._failed_flush = VolumeError(Fault.WRITE_ERROR, f"{error.detail} (an earlier flush)")

    def _job_ended(self) -> None:
        self._jobs -= 1
        self._check_idle()

    def _check_idle(self) -> None:
        if self._idle and not self._jobs and not self._queue:
            waiting, self._idle = self._idle, []
            for callback in waiting:
                callback()
