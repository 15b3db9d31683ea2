"""Which parts of a pair's two legs are not known to be equal: one bit for 4 KiB, kept by extents of 4 MiB.

An extent with no dirty bit takes no memory, and all wholly dirty extents share one bit mask, so that a pair of 1 TiB
costs nothing while it is in sync and some 20 MB just after its creation. A mask is a Python int of 1024 bits: bit 0
is the first 4 KiB of the extent, 1 is dirty.

The last extent, and the last bit in it, may cover less than others; counts are in blocks of the volume all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

BIT_BYTES = 4096
EXTENT_BYTES = 4 << 20
EXTENT_BITS = EXTENT_BYTES // BIT_BYTES
FULL = (1 << EXTENT_BITS) - 1
MASK_BYTES = EXTENT_BITS // 8
MOST_LISTED_EXTENTS = 16384  # in one list: 64 GiB where all is dirty


class Run(NamedTuple):
    """Consecutive blocks."""

    lba: int
    blocks: int


class DirtyMap:
    """The dirty bits of one pair, in memory.

    Attributes:
        blocks: size of the volume, in its blocks of `block_bytes`.
        extents: number of 4 MiB extents, the last one rounded up.
        bit_shift: an LBA shifted right by it is a bit number.
        extent_shift: an LBA shifted right by it is an extent number.
    """

    __slots__ = ("_last_mask", "_masks", "bit_shift", "block_bytes", "blocks", "dirty_bits", "extent_shift", "extents")

    def __init__(self, blocks: int, block_bytes: int) -> None:
        self.blocks = blocks
        self.block_bytes = block_bytes
        self.bit_shift = (BIT_BYTES // block_bytes).bit_length() - 1
        self.extent_shift = (EXTENT_BYTES // block_bytes).bit_length() - 1
        self.extents = -(-blocks >> self.extent_shift)
        bits = -(-blocks >> self.bit_shift)
        self._last_mask = (1 << (bits - (self.extents - 1) * EXTENT_BITS)) - 1 if blocks else 0
        self._masks: dict[int, int] = {}
        self.dirty_bits = 0

    def whole(self, extent: int) -> int:
        """Give the mask of an extent with every bit dirty."""
        return self._last_mask if extent == self.extents - 1 else FULL

    def mask(self, extent: int) -> int:
        """Give the dirty bits of one extent."""
        return self._masks.get(extent, 0)

    def put_mask(self, extent: int, mask: int) -> None:
        """Replace the dirty bits of one extent."""
        whole = self.whole(extent)
        mask &= whole
        self.dirty_bits += mask.bit_count() - self._masks.get(extent, 0).bit_count()
        if mask == 0:
            self._masks.pop(extent, None)
        else:
            self._masks[extent] = whole if mask == whole else mask  # the shared constant, not an equal int of 164 bytes

    def dirty_extents(self) -> Iterator[int]:
        """List extents that have a dirty bit, in no order; the map must not change meanwhile."""
        return iter(self._masks)

    def set_all(self) -> None:
        """Make every block dirty."""
        self._masks = dict.fromkeys(range(self.extents), FULL)
        if self.extents:
            self._masks[self.extents - 1] = self._last_mask
        self.dirty_bits = -(-self.blocks >> self.bit_shift)

    def clear_all(self) -> None:
        """Make every block clean."""
        self._masks.clear()
        self.dirty_bits = 0

    def set(self, lba: int, blocks: int) -> None:
        """Make every bit dirty that has a block of the range."""
        for extent, mask in self._parts(lba, blocks):
            self.put_mask(extent, self._masks.get(extent, 0) | mask)

    def clear(self, lba: int, blocks: int) -> None:
        """Make every bit clean whose blocks are all in the range; a bit that is only touched stays as it is."""
        first = -(-lba >> self.bit_shift)
        end = lba + blocks
        last = (-(-end >> self.bit_shift) if end >= self.blocks else end >> self.bit_shift) - 1
        for extent, mask in _masks_of_bits(first, last):
            have = self._masks.get(extent, 0)
            if have & mask:
                self.put_mask(extent, have & ~mask)

    def any(self, lba: int, blocks: int) -> bool:
        """Tell whether a block of the range is dirty."""
        if not self.dirty_bits:
            return False
        return any(self._masks.get(extent, 0) & mask for extent, mask in self._parts(lba, blocks))

    def dirty_blocks(self) -> int:
        """Count the blocks that dirty bits cover."""
        blocks = self.dirty_bits << self.bit_shift
        last_bit = (self.blocks - 1) >> self.bit_shift
        if self.blocks and self._masks.get(last_bit // EXTENT_BITS, 0) >> (last_bit % EXTENT_BITS) & 1:
            blocks -= (-self.blocks) & ((1 << self.bit_shift) - 1)
        return blocks

    def next_run(self, lba: int, most_blocks: int, besides: DirtyMap | None = None) -> Run | None:
        """Find the next dirty blocks at or behind `lba`: at most `most_blocks` (at least one bit), within one extent.

        Blocks that are dirty in `besides` too are passed over.
        """
        if lba >= self.blocks:  # the last bit may cover less than others, and `lba` may be in what it lacks
            return None
        extent = lba >> self.extent_shift
        first = (lba >> self.bit_shift) % EXTENT_BITS
        while True:
            mask = self._masks.get(extent, 0)
            if besides is not None:
                mask &= ~besides.mask(extent)
            mask >>= first
            if mask:
                break
            found = self._next_extent(extent + 1)
            if found is None:
                return None
            extent, first = found, 0
        skipped = (mask & -mask).bit_length() - 1
        mask >>= skipped
        length = (~mask & (mask + 1)).bit_length() - 1
        start = (extent * EXTENT_BITS + first + skipped) << self.bit_shift
        length = min(length, max(1, most_blocks >> self.bit_shift)) << self.bit_shift
        return Run(start, min(length, self.blocks - start))

    def ranges(self, lba: int, most: int) -> tuple[list[Run], int | None]:
        """List the dirty blocks at and behind `lba`, in order, in as few runs as they are.

        Returns:
            At most `most` runs, at least one, and where a next list has to begin, None when there is nothing more. A
            list of very much ends early, so its last run may go on in the next one.
        """
        found: list[Run] = []
        visited = 0
        for extent in self._extents_from(lba >> self.extent_shift):
            visited += 1
            if visited > MOST_LISTED_EXTENTS:
                return found, extent << self.extent_shift
            for first, bits in _ones(self._masks[extent]):
                start = (extent * EXTENT_BITS + first) << self.bit_shift
                end = min(start + (bits << self.bit_shift), self.blocks)
                start = max(start, lba)
                if start >= end:
                    continue
                if found and found[-1].lba + found[-1].blocks == start:
                    found[-1] = Run(found[-1].lba, end - found[-1].lba)
                elif len(found) == most:
                    return found, start
                else:
                    found.append(Run(start, end - start))
        return found, None

    def _extents_from(self, extent: int) -> Iterator[int]:
        """List the extents with dirty bits from one on, in order; the map must not change meanwhile."""
        if len(self._masks) < self.extents // 4:
            return iter(sorted(at for at in self._masks if at >= extent))
        return (at for at in range(extent, self.extents) if at in self._masks)

    def _next_extent(self, extent: int) -> int | None:
        if len(self._masks) < self.extents - extent:
            return min((dirty for dirty in self._masks if dirty >= extent), default=None)
        return next((at for at in range(extent, self.extents) if at in self._masks), None)

    def _parts(self, lba: int, blocks: int) -> Iterator[tuple[int, int]]:
        return _masks_of_bits(lba >> self.bit_shift, (lba + blocks - 1) >> self.bit_shift)


def encode_clean(mask: int) -> bytes:
    """Give an extent's bits as they are stored: 1 is *clean*, so that zeros that nobody wrote mean dirty."""
    return (mask ^ FULL).to_bytes(MASK_BYTES, "little")


def decode_clean(raw: bytes) -> int:
    """Read an extent's stored bits into a mask of dirty ones."""
    return int.from_bytes(raw, "little") ^ FULL


def _masks_of_bits(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Split the bits first … last into (extent, mask); none when last < first."""
    extent = first // EXTENT_BITS
    while extent * EXTENT_BITS <= last and first <= last:
        base = extent * EXTENT_BITS
        low = max(first - base, 0)
        high = min(last - base, EXTENT_BITS - 1)
        yield extent, ((1 << (high - low + 1)) - 1) << low
        extent += 1


def _ones(mask: int) -> Iterator[tuple[int, int]]:
    """List the runs of ones in a mask: the first bit, and how many."""
    at = 0
    while mask:
        skipped = (mask & -mask).bit_length() - 1
        mask >>= skipped
        length = (~mask & (mask + 1)).bit_length() - 1
        yield at + skipped, length
        at += skipped + length
        mask >>= length
