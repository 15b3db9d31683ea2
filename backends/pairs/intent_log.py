"""Marks on stable storage that say, before any data is written, which extents of a pair may come to differ.

How this works. An extent of 4 MiB is *open* or closed. No write goes to a leg before its extents are open on stable
storage; a write into an open extent costs a dict lookup and no I/O. After a crash every block of an open extent
counts as dirty, and of a closed one exactly those whose fine bits say so. So this must hold at every moment:

    what is open on disk ⊇ everything that is not known to be stable and equal on both legs, except what fine bits on
    disk cover

Whoever closes an extent answers for that (`backends.pairs.extent_closing`): no write in flight in it, both legs flushed
since its last write or its unequal blocks dirty in the map.

On disk an extent has a code of two bits, in sectors of 512 bytes, each with its own CRC: *clean*, *fine* (its bits
are in the second part of the file), or zero: everything dirty. A sector that is missing, zero, torn or damaged thus
reads as dirty, never as clean. Fine bits are stable before the code that points at them.

One write is under way at a time; extents that wait to be opened meanwhile go together with the next one. Who writes one
extent after the other has some more opened with the third and later ones, so that not each has to be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from backends.pairs.dirty_map import DirtyMap
from backends.pairs.intent_sectors import Code, IntentLayout, decode_sector, encode_sector, fine_payload, read_fine
from backends.pairs.stable_file import StableFile
from backends.workers import Workers

AHEAD: Final = 7  # extents; what a crash copies for nothing if they are not used

Opened = Callable[[Exception | None], None]
Writes = list[tuple[int, bytes]]


class IntentLog:
    """The marks of one pair.

    Attributes:
        open: extents open on stable storage → the stamp of their last use; the fast path of a write looks here.
        stamp: what a write puts there; it grows with time and with every flush.
        dirty: the dirty bits in memory; they may change in open extents only.
        last_error: why the last step failed, None since one worked.
    """

    def __init__(self, file: StableFile, identity: bytes, dirty: DirtyMap, workers: Workers) -> None:
        self.open: dict[int, int] = {}
        self.stamp = 1
        self.dirty = dirty
        self.last_error: Exception | None = None
        self._file = file
        self._identity = identity
        self._workers = workers
        self._layout = IntentLayout(dirty.extents)
        self._image = bytearray(self._layout.code_bytes)  # the codes as they stand on disk, or are being written
        self._sequence = 0
        self._uncertain: set[int] = set()  # zero in the image, anything on disk: must be written before use
        self._to_open: dict[int, None] = {}
        self._to_close: dict[int, None] = {}
        self._waiters: list[tuple[set[int], Opened]] = []
        self._busy = False
        self._idle: list[Callable[[], None]] = []

    # --- Before hosts are served: these block, and raise OSError ---

    def load(self) -> int:
        """Take the dirty bits from disk.

        Returns:
            How many sectors were damaged; what they covered is dirty.
        """
        layout = self._layout
        damaged = 0
        repair: Writes = []
        raw = self._file.read(0, layout.map_bytes)
        for index in range(layout.map_sectors):
            first = index * layout.codes
            payload = decode_sector(raw, index, self._identity)
            if payload is None:
                damaged += 1
                repair.append(self._map_sector(index))
            else:
                self._image[index * layout.payload : (index + 1) * layout.payload] = payload
            for extent in range(first, min(first + layout.codes, layout.extents)):
                if layout.code(self._image, extent) is Code.DIRTY:
                    self.dirty.put_mask(extent, -1)
        damaged_fine = self._load_fine()
        repair += [self._map_sector(index) for index in {extent // layout.codes for extent in damaged_fine}]
        if repair:
            self._write(repair)
        return damaged + len(damaged_fine)

    def _load_fine(self) -> list[int]:
        damaged = []
        layout = self._layout
        fine = [extent for extent in range(layout.extents) if layout.code(self._image, extent) is Code.FINE]
        for extent, mask in read_fine(self._file, layout, fine, self._identity):
            if mask is None:
                damaged.append(extent)
                layout.put_code(self._image, extent, Code.DIRTY)
            self.dirty.put_mask(extent, -1 if mask is None else mask)
        return damaged

    def format_clean(self) -> None:
        """Write that every block is equal on both legs: for a new pair whose host said so."""
        for extent in range(self._layout.extents):
            self._layout.put_code(self._image, extent, Code.CLEAN)
        self._write([self._map_sector(index) for index in range(self._layout.map_sectors)])

    # --- While hosts are served ---

    def admit(self, first: int, last: int, opened: Opened) -> bool:
        """Have the extents first … last open.

        Returns:
            True when they are open now. Otherwise `opened` is called once they are, with None, or with the error when
            they can not be.
        """
        missing: set[int] = set()
        stamp = self.stamp
        for extent in range(first, last + 1):
            if extent in self.open or self._is_open_on_disk(extent):
                self.open[extent] = stamp
                self._to_close.pop(extent, None)
            else:
                missing.add(extent)
                self._to_open[extent] = None
        if not missing:
            return True
        if first - 1 in self.open and first - 2 in self.open:
            self._look_ahead(last + 1)
        self._waiters.append((missing, opened))
        self._step()
        return False

    def _look_ahead(self, first: int) -> None:
        """Have the next extents opened as well; whoever is served by that does not wait for it."""
        for extent in range(first, min(first + AHEAD, self._layout.extents)):
            if extent not in self.open and not self._is_open_on_disk(extent):
                self._to_open[extent] = None

    def _is_open_on_disk(self, extent: int) -> bool:
        return (
            self._layout.code(self._image, extent) is Code.DIRTY
            and extent not in self._to_open
            and extent not in self._uncertain
        )

    def close_extents(self, extents: Iterable[int]) -> None:
        """Close open extents, with the dirty bits that they have now; the caller answers for these being right."""
        for extent in extents:
            del self.open[extent]
            self._to_close[extent] = None
        self._step()

    def when_idle(self, done: Callable[[], None]) -> None:
        """Call back once nothing is being written nor waiting to be."""
        self._idle.append(done)
        self._step()

    def close_file(self) -> None:
        """Close the file; nothing may be under way."""
        assert not self._busy
        self._file.close()

    def _step(self) -> None:
        if self._busy:
            return
        if self._to_open:
            self._busy = True
            self._open_batch()
        elif self._to_close:
            self._busy = True
            self._close_batch()
        else:
            idle, self._idle = self._idle, []
            for done in idle:
                done()

    def _open_batch(self) -> None:
        batch = list(self._to_open)
        for extent in batch:
            self._layout.put_code(self._image, extent, Code.DIRTY)
        writes = self._map_sectors(batch)

        def done(result: Exception | None) -> None:
            for extent in batch:
                del self._to_open[extent]
                if result is None:
                    self.open[extent] = self.stamp
                    self._uncertain.discard(extent)
                else:
                    self._uncertain.add(extent)
            self._ended(result)
            self._tell_waiters(set(batch), result)
            self._step()

        self._workers.submit(lambda: self._write(writes), done)

    def _close_batch(self) -> None:
        batch = list(self._to_close)
        self._to_close.clear()
        layout, dirty = self._layout, self.dirty
        fine: dict[int, tuple[int, bytes]] = {}
        for extent in batch:
            mask = dirty.mask(extent)
            if mask == 0:
                code = Code.CLEAN
            elif mask == dirty.whole(extent):
                code = Code.DIRTY
            else:
                code = Code.FINE
                index = layout.fine_index(extent)
                if index not in fine:
                    self._sequence += 1
                    payload = fine_payload(layout, index, dirty)
                    fine[index] = (
                        layout.fine_offset(index),
                        encode_sector(layout.map_sectors + index, self._sequence, self._identity, payload),
                    )
            layout.put_code(self._image, extent, code)
        codes = self._map_sectors(batch)
        fine_writes = list(fine.values())

        def write() -> None:
            if fine_writes:
                self._write(fine_writes)
            self._write(codes)

        def done(result: Exception | None) -> None:
            if result is not None:
                for extent in batch:
                    layout.put_code(self._image, extent, Code.DIRTY)
                    self._uncertain.add(extent)
            self._ended(result)
            self._step()

        self._workers.submit(write, done)

    def _ended(self, result: Exception | None) -> None:
        self._busy = False
        self.last_error = result

    def _tell_waiters(self, batch: set[int], result: Exception | None) -> None:
        waiters, self._waiters = self._waiters, []
        ready = []
        for missing, opened in waiters:
            left = missing - batch
            if left != missing and (result is not None or not left):
                ready.append(opened)
            else:
                self._waiters.append((left, opened))
        for opened in ready:
            opened(result)

    def _map_sectors(self, extents: Iterable[int]) -> Writes:
        return [self._map_sector(index) for index in sorted({extent // self._layout.codes for extent in extents})]

    def _map_sector(self, index: int) -> tuple[int, bytes]:
        self._sequence += 1
        layout = self._layout
        payload = self._image[index * layout.payload : (index + 1) * layout.payload]
        return layout.map_offset(index), encode_sector(index, self._sequence, self._identity, bytes(payload))

    def _write(self, writes: Writes) -> None:
        for offset, raw in writes:
            self._file.write(offset, raw)
        self._file.sync()
