"""A log of dm-log-writes: what reached a disk, in order, so that the disk can be had as of any power cut.

The log's order is that in which things became stable; a write that is neither FUA nor flushed yet comes with the next
flush. Several disks may be parts of the logged one (dm-linear), so that there is one order for all of them; then a
flush carries the first sector of the part that it was sent to, and only what was written to that part is stable.

Spec: the kernel's Documentation/admin-guide/device-mapper/log-writes.rst
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SECTOR_BYTES = 512
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_MAGIC = 0x6A736677736872
_VERSION = 1
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


class Entry(NamedTuple):
    """One entry; a discard has no data, and a flush without data none either. A mark is its text alone."""

    sector: int
    sectors: int
    flush: bool
    fua: bool
    mark: str
    data: bytes


class Part(NamedTuple):
    """A disk that is a part of the logged one."""

    first_sector: int
    sectors: int


def entries(log: Path) -> Iterator[Entry]:
    """Give the entries in order.

    Raises:
        ValueError: it is no such log.
    """
    with log.open("rb") as file:
        magic, version, count, sector_bytes = _SUPER.unpack_from(file.read(SECTOR_BYTES))
        if (magic, version, sector_bytes) != (_MAGIC, _VERSION, SECTOR_BYTES):
            raise ValueError(f"{log}: is no log of dm-log-writes with sectors of {SECTOR_BYTES} bytes")
        for _ in range(count):
            head = file.read(SECTOR_BYTES)
            sector, sectors, flags, data_bytes = _ENTRY.unpack_from(head)
            mark = head[_ENTRY.size : _ENTRY.size + data_bytes].rstrip(b"\0").decode() if flags & _MARK else ""
            data = b"" if flags & (_MARK | _DISCARD) else file.read(sectors * SECTOR_BYTES)
            yield Entry(sector, sectors, bool(flags & _FLUSH), bool(flags & _FUA), mark, data)


class StableDisk:
    """What of a logged disk survives a power cut, entry by entry.

    Attributes:
        data: that; as bytes of the whole disk.
    """

    def __init__(self, data: bytearray, parts: list[Part]) -> None:
        self.data = data
        self._parts = parts
        self._volatile: list[list[tuple[int, bytes]]] = [[] for _ in parts]

    def take(self, entry: Entry) -> bool:
        """Take the next entry; tell whether that made something stable."""
        number = next(
            (
                number
                for number, part in enumerate(self._parts)
                if part.first_sector <= entry.sector < part.first_sector + part.sectors
            ),
            None,
        )
        if entry.mark or number is None:
            return False
        if entry.flush:
            for sector, data in self._volatile[number]:
                self._put(sector, data)
            self._volatile[number].clear()
        if entry.sectors:
            data = entry.data or bytes(entry.sectors * SECTOR_BYTES)
            if entry.fua:
                self._put(entry.sector, data)
            else:
                self._volatile[number].append((entry.sector, data))
        return entry.flush or entry.fua

    def part(self, number: int, length: int) -> bytes:
        """Give what is stable of the first `length` bytes of a part."""
        start = self._parts[number].first_sector * SECTOR_BYTES
        return bytes(self.data[start : start + length])

    def _put(self, sector: int, data: bytes) -> None:
        self.data[sector * SECTOR_BYTES : sector * SECTOR_BYTES + len(data)] = data
