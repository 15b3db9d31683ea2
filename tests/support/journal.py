"""The checker of pairs.md: every block says which write made it, and a journal knows which writes may be seen.

A block holds its LBA, the version that its writer gave it, and a CRC32C over both, over and over to its end; so a block
that is old, torn or in the wrong place is told from a good one without knowing the data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import crc32c

_STAMP = struct.Struct(">QII")


def stamped(lba: int, blocks: int, version: int, block_bytes: int) -> bytes:
    """Give the data of a write: `blocks` blocks from `lba` on, each stamped with its own LBA and `version`."""
    return b"".join(_block(lba + index, version, block_bytes) for index in range(blocks))


def _block(lba: int, version: int, block_bytes: int) -> bytes:
    head = struct.pack(">QI", lba, version)
    return _STAMP.pack(lba, version, crc32c.crc32c(head)) * (block_bytes // _STAMP.size)


class Journal:
    """What was written to each block: the last version acknowledged, and the last one issued.

    The writer keeps to one write in flight per block, so what may be read is every version from the one to the other.
    """

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._issued: dict[int, int] = {}
        self._acknowledged: dict[int, int] = {}
        self._zeroes: dict[int, set[int]] = {}  # by block, the versions that are zeroes
        self._homes: dict[tuple[int, int], int] = {}  # (block, version) → the block that its stamp names instead
        self.acknowledged_writes = 0

    def issue(self, lba: int, blocks: int) -> bytes:
        """Note a write before it is sent, and give its data."""
        return stamped(lba, blocks, self._next_version(lba, blocks), self._block_bytes)

    def issue_same(self, lba: int, blocks: int) -> bytes:
        """Note a WRITE SAME before it is sent, and give its one block."""
        version = self._next_version(lba, blocks)
        self._homes.update({(lba + index, version): lba for index in range(blocks)})
        return stamped(lba, 1, version, self._block_bytes)

    def issue_unmap(self, lba: int, blocks: int) -> None:
        """Note an UNMAP before it is sent."""
        version = self._next_version(lba, blocks)
        for index in range(blocks):
            self._zeroes.setdefault(lba + index, set()).add(version)

    def _next_version(self, lba: int, blocks: int) -> int:
        version = 1 + max(self._issued.get(lba + index, 0) for index in range(blocks))
        for index in range(blocks):
            self._issued[lba + index] = version
        return version

    def acknowledge(self, lba: int, blocks: int) -> None:
        """Note the GOOD of the write issued last to these blocks."""
        self.acknowledged_writes += 1
        for index in range(blocks):
            self._acknowledged[lba + index] = self._issued[lba + index]

    def acknowledged_as(self, earlier: Journal) -> Journal:
        """Give the journal of one who saw all that was issued, and of the acknowledgements those of `earlier`."""
        then = Journal(self._block_bytes)
        then._issued, then._zeroes, then._homes = self._issued, self._zeroes, self._homes
        then._acknowledged = earlier._acknowledged
        return then

    def written(self) -> list[int]:
        """List the blocks that were ever written."""
        return sorted(self._issued)

    def wrong(self, lba: int, data: bytes) -> Iterator[str]:
        """Say in words what is wrong with `data`, read from `lba` on; nothing if all of it may be seen."""
        for index in range(len(data) // self._block_bytes):
            block = data[index * self._block_bytes : (index + 1) * self._block_bytes]
            fault = self._fault(lba + index, block)
            if fault:
                yield f"block {lba + index}: {fault}"

    def _fault(self, lba: int, block: bytes) -> str | None:
        oldest, newest = self._acknowledged.get(lba, 0), self._issued.get(lba, 0)
        if not any(block):
            if not oldest or any(oldest <= version <= newest for version in self._zeroes.get(lba, ())):
                return None
            return f"never written, but version {oldest} was acknowledged"
        found_lba, version, _ = _STAMP.unpack_from(block)
        if block != _block(found_lba, version, self._block_bytes):
            return "torn or damaged"
        if found_lba != self._homes.get((lba, version), lba):
            return f"holds block {found_lba}"
        if not oldest <= version <= newest:
            return f"version {version}, acknowledged {oldest}, issued {newest}"
        return None
