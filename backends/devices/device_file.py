"""Opening a block device or a file: whose it is, what it can do, and the reason in words when annex can not have it.

Everything here may block, and runs on a worker thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from backends.devices import holders
from backends.devices.range_writes import can_give_back
from scsi.volume import Buffer, Deallocation, Fault, VolumeError

FILE_BLOCK_BYTES = 512
BLOCK_BYTES = (512, 4096)  # logical block lengths that hosts of a disk know
_PAGE_BYTES = 4096

# linux/fs.h
_BLKROGET = 0x125E
_BLKSSZGET = 0x1268
_BLKPBSZGET = 0x127B
_BLKGETSIZE64 = 0x80081272

# A file here is memory: nothing can block, and it refuses RWF_NOWAIT.
_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs"}
_REFUSED_FOR_WRITING = {errno.EROFS, errno.EACCES, errno.EPERM}

# What an errno means whatever was asked; any other one is a READ_ERROR or a WRITE_ERROR. Those in the second half are
# what the kernel makes of a block device's status (block/blk-core.c, blk_errors).
FAULTS: dict[int, Fault] = {
    errno.ENOSPC: Fault.NO_SPACE,
    errno.EDQUOT: Fault.NO_SPACE,
    errno.EFBIG: Fault.NO_SPACE,
    errno.EROFS: Fault.WRITE_PROTECTED,
    errno.EPERM: Fault.WRITE_PROTECTED,
    errno.EACCES: Fault.WRITE_PROTECTED,
    errno.ENXIO: Fault.BLOCKED,
    errno.ENODEV: Fault.BLOCKED,
    errno.ENOMEDIUM: Fault.BLOCKED,
    errno.ESTALE: Fault.BLOCKED,
    errno.ENOMEM: Fault.BUSY,
    errno.EBUSY: Fault.BUSY,
    errno.EAGAIN: Fault.BUSY,
    errno.ETIMEDOUT: Fault.TIMED_OUT,
    errno.ENOLINK: Fault.LINK_LOST,
    errno.EBADE: Fault.RESERVATION_CONFLICT,
    errno.EREMOTEIO: Fault.HARDWARE,
}


class OpenDevice:
    """A device or file that was opened and measured.

    Attributes:
        descriptor: -1 once closed.
        path: as it was opened.
        block_bytes: logical block length.
        blocks: capacity.
        physical_block_exponent: logical blocks per physical block, as a power of two.
        read_only: it could only be opened, or only is there, for reading.
        in_memory: neither reads nor writes can block.
        nowait: reads can be tried without blocking (RWF_NOWAIT).
        deallocation: in what pieces it gives storage back, None when it does not.
        knows_allocation: it can be asked which blocks have storage.
    """

    __slots__ = (
        "block_bytes", "blocks", "deallocation", "descriptor", "in_memory", "knows_allocation", "nowait", "path",
        "physical_block_exponent", "read_only",
    )  # fmt: skip

    def __init__(self, path: str) -> None:
        """Open and measure.

        Raises:
            VolumeError: BLOCKED, with the reason in its detail.
        """
        self.path = path
        self.descriptor = -1
        try:
            self._open()
        except OSError as error:
            self.close()
            raise VolumeError(Fault.BLOCKED, f"{path}: {(error.strerror or str(error)).lower()}") from error
        except VolumeError:
            self.close()
            raise

    def close(self) -> None:
        """Give the device back. The caller sees to it that no thread uses the descriptor any more."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def measure(self) -> int:
        """Give how many blocks it has now; it may have grown since it was opened."""
        if stat.S_ISBLK(os.fstat(self.descriptor).st_mode):
            return int(self._ask(_BLKGETSIZE64, "Q")) // self.block_bytes
        return os.fstat(self.descriptor).st_size // self.block_bytes

    def _open(self) -> None:
        found = os.stat(self.path)  # noqa: PTH116 - one way for all of this module: os
        # Opening anything else may block for ever (a fifo) or do something (a tape).
        if not (stat.S_ISBLK(found.st_mode) or stat.S_ISREG(found.st_mode)):
            raise self._blocked("is neither a block device nor a regular file")
        is_device = stat.S_ISBLK(found.st_mode)
        flags = os.O_CLOEXEC | (os.O_EXCL if is_device else 0)
        self.read_only = False
        try:
            self.descriptor = self._opened(flags | os.O_RDWR, found)
        except OSError as error:
            if error.errno not in _REFUSED_FOR_WRITING:
                raise
            self.read_only = True
            self.descriptor = self._opened(flags | os.O_RDONLY, found)
        opened = os.fstat(self.descriptor)
        if (opened.st_dev, opened.st_ino, opened.st_rdev) != (found.st_dev, found.st_ino, found.st_rdev):
            raise self._blocked("became another file while it was opened")
        if is_device:
            self._measure_device()
        else:
            self._lock_file(opened)
            self._measure_file(opened)
        if not self.blocks:
            raise self._blocked("has no whole block")
        self._probe()

    def _opened(self, flags: int, found: os.stat_result) -> int:
        try:
            return os.open(self.path, flags)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise self._blocked(holders.device_holder(found.st_rdev)) from error
            raise

    def _lock_file(self, opened: os.stat_result) -> None:
        """Exclude a second annexd: what O_EXCL does for a device, a lock does for a file."""
        try:
            fcntl.flock(self.descriptor, (fcntl.LOCK_SH if self.read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._blocked(f"locked, {holders.lock_holder(opened)}") from error

    def _measure_device(self) -> None:
        self.block_bytes = self._ask(_BLKSSZGET, "i")
        if self.block_bytes not in BLOCK_BYTES:
            raise self._blocked(f"has blocks of {self.block_bytes} bytes, and hosts know 512 and 4096")
        self.blocks = self._ask(_BLKGETSIZE64, "Q") // self.block_bytes
        physical_bytes = self._ask(_BLKPBSZGET, "I")
        self.physical_block_exponent = max(physical_bytes // self.block_bytes, 1).bit_length() - 1
        self.read_only = self.read_only or bool(self._ask(_BLKROGET, "i"))
        self.in_memory = False
        self.deallocation = device_deallocation(os.fstat(self.descriptor).st_rdev, self.block_bytes)
        self.knows_allocation = False

    def _measure_file(self, opened: os.stat_result) -> None:
        self.block_bytes = FILE_BLOCK_BYTES
        self.blocks = opened.st_size // FILE_BLOCK_BYTES
        self.in_memory = holders.file_system(opened.st_dev) in _MEMORY_FILE_SYSTEMS
        # The page cache reads the rest of a page from the disk before it can take a part of one.
        whole_bytes = FILE_BLOCK_BYTES if self.in_memory else _PAGE_BYTES
        self.physical_block_exponent = (whole_bytes // FILE_BLOCK_BYTES).bit_length() - 1
        self.deallocation = None
        self.knows_allocation = True
        if not self.read_only and can_give_back(self.descriptor, opened.st_size, FILE_BLOCK_BYTES):
            piece_bytes = os.fstatvfs(self.descriptor).f_frsize
            self.deallocation = Deallocation(max(piece_bytes // FILE_BLOCK_BYTES, 1))

    def _probe(self) -> None:
        self.nowait = False
        if self.in_memory:
            return
        try:
            os.preadv(self.descriptor, [bytearray(self.block_bytes)], 0, os.RWF_NOWAIT)
            self.nowait = True
        except OSError as error:
            # EAGAIN: understood, and the block is not in the cache. A bad first block is no reason to refuse the
            # device.
            self.nowait = error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

    def _ask(self, request: int, kind: str) -> int:
        answer = fcntl.ioctl(self.descriptor, request, bytes(struct.calcsize(kind)))
        value: int = struct.unpack(kind, answer)[0]
        return value

    def _blocked(self, reason: str) -> VolumeError:
        return VolumeError(Fault.BLOCKED, f"{self.path}: {reason}")


def device_deallocation(number: int, block_bytes: int, sys: Path = holders.SYS) -> Deallocation | None:
    """Say in what pieces a block device gives storage back that reads as zeroes then, None when it does not.

    To discard is no promise of zeroes: a device must know WRITE ZEROES too, which is what punching a hole asks for.
    """
    place = sys / f"dev/block/{os.major(number)}:{os.minor(number)}"
    queue = next((queue for queue in (place / "queue", place.resolve().parent / "queue") if queue.exists()), place)
    piece_bytes = _number(queue / "discard_granularity")
    if not (piece_bytes and _number(queue / "discard_max_bytes") and _number(queue / "write_zeroes_max_bytes")):
        return None
    granularity = max(piece_bytes // block_bytes, 1)
    return Deallocation(granularity, _number(place / "discard_alignment") // block_bytes % granularity)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def read_fully(descriptor: int, length: int, offset: int) -> tuple[Buffer, OSError | None]:
    """Read `length` bytes, however many calls it takes; less only with the error that stopped it."""
    data = bytearray()
    try:
        while (left := length - len(data)) > 0:
            part = os.pread(descriptor, left, offset + len(data))
            if len(part) == length:
                return part, None
            if not part:
                return data, OSError(errno.EIO, "ends before its capacity")
            data += part
    except OSError as error:
        return data, error
    return data, None


def failure(error: Exception, operation: str, path: str, lba: int | None) -> VolumeError:
    """Give what a host is told of a failed system call.

    Args:
        error: what the kernel said; anything else than an OSError is a fault of annex's own.
        operation: "read", "write" or "flush".
        path: of the device, for the log.
        lba: the first block that was not done, None when it is not known.
    """
    if not isinstance(error, OSError):
        return VolumeError(Fault.HARDWARE, f"{path}: {operation}: {error!r}", lba)
    usual = Fault.READ_ERROR if operation == "read" else Fault.WRITE_ERROR
    fault = FAULTS.get(error.errno or 0, usual)
    if operation == "read" and fault is Fault.WRITE_PROTECTED:
        fault = usual
    return VolumeError(fault, f"{path}: {operation}: {error.strerror}", lba)
