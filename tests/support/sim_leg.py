"""A virtual device on a simulated disk: it takes its time, forgets its cache, tears writes, and its link breaks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from functools import partial

from scsi.volume import Allocation, AllocationDone, Buffer, Done, Fault, ReadDone, VolumeError
from tests.support.clock import VirtualScheduler, VirtualTimer
from tests.support.pair_world import FakeDevice, FakeUnit

TIMEOUT_S = 10.0


class SimLeg(FakeDevice):
    """A `FakeDevice` whose operations complete later.

    Attributes:
        slow_s: added to the time that each operation takes.
        hung: operations do not complete; after `hang_s` they end with TIMED_OUT.
        overtaken: by whose chance some operations take seconds longer, and all that came later ends before them.
        bad_writes, bad_reads, bad_flushes: how many of the next ones fail.
        lost_at: when its cache was lost last.
        failed_flushes: how many there were.
    """

    def __init__(self, number: int, naa: bytes, units: list[FakeUnit], rng: random.Random, **options: object) -> None:
        super().__init__(number, naa, units, **options)
        self.rng = rng
        self.scheduler = VirtualScheduler()
        self.slow_s = 0.0
        self.hung = False
        self.hang_s = TIMEOUT_S
        self.overtaken: random.Random | None = None
        self.bad_writes = self.bad_reads = self.bad_flushes = 0
        self._in_flight: dict[
            int, tuple[Callable[[VolumeError | None], None], tuple[int, bytes] | None, VirtualTimer]
        ] = {}
        self.lost_at = -1.0
        self.failed_flushes = 0
        self._next = 0
        self._cached: list[tuple[int, int]] = []  # (offset, length) of what is not stable

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        offset, count = self._place(lba, blocks)

        def finish(error: VolumeError | None) -> None:
            if error is None and self.bad_reads:
                self.bad_reads -= 1
                error = VolumeError(Fault.READ_ERROR, "planned", lba)
            done(error or bytes(self.data[offset : offset + count]))

        self._start(finish, None)

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        offset, _ = self._place(lba, len(data) // self.block_bytes)
        kept = bytes(data)

        def finish(error: VolumeError | None) -> None:
            if error is None and self.bad_writes:
                self.bad_writes -= 1
                self._land_part(offset, kept)
                error = VolumeError(Fault.WRITE_ERROR, "planned", lba)
            elif error is None:
                self._land(offset, kept, stable=fua or not self.write_cache)
            done(error)

        self._start(finish, (offset, kept))

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        # As a write: a part of it may land, and what landed may be lost with the cache.
        self.write(lba, bytes(blocks * self.block_bytes), False, done)

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        """Say that what is zeroes now has no storage: the thinnest leg that there can be."""
        if self.deallocation is None:
            super().allocation(lba, blocks, done)
            return

        def finish(error: VolumeError | None) -> None:
            zeroes = bytes(self.block_bytes)
            starts = range(lba * self.block_bytes, (lba + blocks) * self.block_bytes, self.block_bytes)
            mapped = [self.data[at : at + self.block_bytes] != zeroes for at in starts]
            runs = [Allocation(len(list(run)), mapped=state) for state, run in itertools.groupby(mapped)]
            done(error or runs[: self.rng.choice((1, 2, len(runs)))])

        self._start(finish, None)

    def flush(self, done: Done) -> None:
        covered = list(self._cached)  # what comes later is not made stable by it

        def finish(error: VolumeError | None) -> None:
            failed = error is None and self.bad_flushes > 0
            if failed:
                self.bad_flushes -= 1
                self.failed_flushes += 1
                error = VolumeError(Fault.WRITE_ERROR, "planned flush error")
            if error is None or failed:
                for place in covered:
                    # As a kernel does: what could not be written is forgotten, and the next flush works.
                    if place in self._cached and (not failed or self.rng.random() < 0.5):
                        self._cached.remove(place)
                        if not failed:
                            self._make_stable(*place)
            done(error)

        self._start(finish, None)

    def content(self, *, stable: bool) -> bytearray:
        """Give all that it shows, or all that a power cut would leave for certain."""
        return self.stable if stable else self.data

    def block(self, lba: int, *, stable: bool = False) -> bytes:
        """Look at what a block holds."""
        return bytes(self.content(stable=stable)[lba * self.block_bytes : (lba + 1) * self.block_bytes])

    def lose_link(self, error: VolumeError, *, power: bool) -> None:
        """The path dies: what is in flight landed or not, in part or whole."""
        self.set_unready(error)
        if power:
            self.lose_cache()
        in_flight, self._in_flight = self._in_flight, {}
        for finish, write, timer in in_flight.values():
            timer.cancel()
            if write is not None:
                self._land_part(*write)
            self.scheduler.call_soon(partial(finish, VolumeError(Fault.LINK_LOST, "planned")))

    def lose_cache(self) -> None:
        """The power goes: unflushed writes survive or not, each by chance."""
        self.lost_at = self.scheduler.now()
        for place in self._cached:
            if self.rng.random() < 0.5:
                self._make_stable(*place)
        self._cached.clear()
        self.data[:] = self.stable

    def crash(self, *, power: bool) -> None:
        """The daemon dies: nobody waits for answers any more."""
        in_flight, self._in_flight = self._in_flight, {}
        for _, write, timer in in_flight.values():
            timer.cancel()
            if write is not None:
                self._land_part(*write)
        if power:
            self.lose_cache()

    def _start(self, finish: Callable[[VolumeError | None], None], write: tuple[int, bytes] | None) -> None:
        if self.unready is not None:
            finish(self.unready)
            return
        self._next += 1
        number = self._next
        hung = self.hung
        delay = self.hang_s if hung else self.slow_s + self.rng.choice((0.0, 0.0002, 0.001, 0.005, 0.03))

        if self.overtaken is not None and not hung and self.overtaken.random() < 0.1:
            delay += self.overtaken.uniform(0.1, 8.0)

        def end() -> None:
            del self._in_flight[number]
            if hung and write is not None:
                self._land_part(*write)
            finish(VolumeError(Fault.TIMED_OUT, "planned") if hung else self.unready)

        self._in_flight[number] = (finish, write, self.scheduler.call_later(delay, end))

    def _land_part(self, offset: int, data: bytes) -> None:
        """The first blocks of a write arrive, none or all of them."""
        blocks = self.rng.randint(0, len(data) // self.block_bytes)
        if blocks:
            self._land(offset, data[: blocks * self.block_bytes], stable=False)

    def _make_stable(self, offset: int, length: int) -> None:
        self.stable[offset : offset + length] = self.data[offset : offset + length]

    def _land(self, offset: int, data: bytes, *, stable: bool) -> None:
        self.data[offset : offset + len(data)] = data
        if stable:
            self._make_stable(offset, len(data))
        else:
            self._cached.append((offset, len(data)))
