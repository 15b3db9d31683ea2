"""The redo records of atomic writes (`scsi.redo`), in files of the state directory.

How this works: a record is a file: a header, and the data after it. Both are written and synced before anybody acts on
it; the header has a checksum of everything, so that a record is whole or none. To forget it, the header is overwritten
with zeroes and synced; the file is used again for the next one. So a start finds the records of writes that may be
half done, and no others.

    0-7 magic · 8-15 LBA · 16-19 block length · 20-23 length of the data · 24-31 number, ever rising · 32-35 CRC32C of
    the 32 bytes before it and the data · 4096… data
"""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Callable
from functools import partial

from crc32c import crc32c

from backends.pairs.stable_file import StableDirectory, StableFile
from backends.workers import Workers
from scsi.redo import Redo
from scsi.volume import Buffer, Done, Fault, VolumeError

HEADER_BYTES = 4096
MOST_AT_ONCE = 8  # of one unit; more wait
MOST_DATA_BYTES = 16 << 20
_MAGIC = b"annexred"
_HEADER = struct.Struct("<8sQIIQ")
_CHECKSUM = struct.Struct("<I")
_NAME = re.compile(r"([0-9a-f]{32})-([0-9]+)")

RedoDone = Callable[[Redo | VolumeError], None]


class RedoLogs:
    """The records of all units."""

    def __init__(self, directory: StableDirectory, workers: Workers) -> None:
        """Read what a crash has left; this blocks.

        Raises:
            OSError: a file can not be read.
        """
        self._directory = directory
        self._workers = workers
        self._found: dict[bytes, list[_Found]] = {}
        for name in directory.names():
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            file = directory.open(name)
            found = read_record(file)
            if found is None:
                file.close()
                directory.remove(name)
            else:
                self._found.setdefault(bytes.fromhex(match[1]), []).append(_Found(*found, name, file))

    def of(self, naa: bytes) -> UnitRedoLog:
        """Give the log of a unit."""
        return UnitRedoLog(self._directory, self._workers, naa, self._found.pop(naa, []))


class _Found:
    def __init__(self, number: int, lba: int, block_bytes: int, data: bytes, name: str, file: StableFile) -> None:
        self.number = number
        self.lba = lba
        self.block_bytes = block_bytes
        self.data = data
        self.name = name
        self.file = file


class UnitRedoLog:
    """The records of one unit; a `scsi.redo.RedoLog`."""

    def __init__(self, directory: StableDirectory, workers: Workers, naa: bytes, found: list[_Found]) -> None:
        self._directory = directory
        self._workers = workers
        self._naa = naa
        found.sort(key=lambda one: one.number)
        self.found = [_Record(self, one.file, one.lba, one.data, one.block_bytes) for one in found]
        self._number = max((one.number for one in found), default=0)
        self._next_name = max((int(one.name.rpartition("-")[2]) + 1 for one in found), default=0)
        self._files = len(found)
        self._free: list[StableFile] = []
        self._waiting: deque[Callable[[], None]] = deque()

    def keep(self, lba: int, data: Buffer, block_bytes: int, done: RedoDone) -> None:
        """Make a record."""
        if self._free:
            self._write(self._free.pop(), lba, data, block_bytes, done)
        elif self._files < MOST_AT_ONCE:
            self._files += 1
            name = f"{self._naa.hex()}-{self._next_name}"
            self._next_name += 1
            create = partial(self._directory.create, name, HEADER_BYTES + len(data))
            self._workers.submit(create, partial(self._created, lba, data, block_bytes, done))
        else:
            self._waiting.append(partial(self.keep, lba, data, block_bytes, done))

    def freed(self, file: StableFile) -> None:
        """Take back the file of a record that is forgotten."""
        self._free.append(file)
        if self._waiting:
            self._waiting.popleft()()

    def submit(self, work: Callable[[], None], done: Callable[[Exception | None], None]) -> None:
        """Have a worker do something with a file."""
        self._workers.submit(work, done)

    def _created(
        self, lba: int, data: Buffer, block_bytes: int, done: RedoDone, result: StableFile | Exception
    ) -> None:
        if isinstance(result, Exception):
            self._files -= 1
            done(_failed(result))
        else:
            self._write(result, lba, data, block_bytes, done)

    def _write(self, file: StableFile, lba: int, data: Buffer, block_bytes: int, done: RedoDone) -> None:
        self._number += 1
        number = self._number

        def work() -> None:
            file.write(HEADER_BYTES, bytes(data))
            file.write(0, encode_header(number, lba, block_bytes, data))
            file.sync()

        record = _Record(self, file, lba, data, block_bytes)

        def written(error: Exception | None) -> None:
            if error is None:
                done(record)
            else:
                record.forget(partial(not_written, _failed(error)))

        def not_written(error: VolumeError, not_forgotten: VolumeError | None) -> None:
            # It may be whole all the same.
            if not_forgotten is None:
                done(error)
            else:
                record.failure = error
                done(record)

        self.submit(work, written)


class _Record:
    """A `scsi.redo.Redo`."""

    def __init__(self, log: UnitRedoLog, file: StableFile, lba: int, data: Buffer, block_bytes: int) -> None:
        self.lba = lba
        self.data = data
        self.block_bytes = block_bytes
        self.failure: VolumeError | None = None
        self._log = log
        self._file = file

    def forget(self, done: Done) -> None:
        def work() -> None:
            self._file.write(0, bytes(HEADER_BYTES))
            self._file.sync()

        def forgotten(error: Exception | None) -> None:
            if error is None:
                self._log.freed(self._file)
                done(None)
            else:
                done(_failed(error))

        self._log.submit(work, forgotten)


def encode_header(number: int, lba: int, block_bytes: int, data: Buffer) -> bytes:
    """Give the header of a record."""
    fields = _HEADER.pack(_MAGIC, lba, block_bytes, len(data), number)
    return (fields + _CHECKSUM.pack(crc32c(bytes(data), crc32c(fields)))).ljust(HEADER_BYTES, b"\0")


def read_record(file: StableFile) -> tuple[int, int, int, bytes] | None:
    """Give number, LBA, block length and data of a record, or None when it is not whole."""
    header = file.read(0, HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return None
    magic, lba, block_bytes, length, number = _HEADER.unpack_from(header)
    if magic != _MAGIC or length > MOST_DATA_BYTES or not block_bytes or length % block_bytes:
        return None
    data = file.read(HEADER_BYTES, length)
    checksum = crc32c(data, crc32c(header[: _HEADER.size]))
    if len(data) != length or _CHECKSUM.unpack_from(header, _HEADER.size) != (checksum,):
        return None
    return number, lba, block_bytes, data


def _failed(error: Exception) -> VolumeError:
    return VolumeError(Fault.HARDWARE, f"the redo record could not be kept: {error}")
