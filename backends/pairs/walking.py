"""Walks over a pair in chunks, while hosts go on writing.

How this works. A walk chooses runs of blocks, and has several of them under way at once. A chunk takes its place in the
order of the mirror like a write: it waits for writes under way in its range and holds up later ones, and writes
elsewhere flow. A subclass says which blocks, and what is done with them: `backends.pairs.copying`.

A medium error splits the chunk until the bad part is one bit of the map; the rest goes on. A leg whose path is away
ends the walk: the pair begins a new one when the leg is back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from backends.pairs.dirty_map import DirtyMap, Run
from backends.pairs.intent_log import Opened
from backends.pairs.mirror import Mirror
from backends.pairs.pacing import SMALLER, Pacer, RateMeter
from backends.pairs.range_order import Place
from backends.scheduler import Scheduler, Timer
from scsi.volume import Fault, VolumeError

# After these the rest of the leg is not worth trying now.
LEG_FAULTS = frozenset(
    {
        Fault.LINK_LOST,
        Fault.BECOMING_READY,
        Fault.RESERVATION_CONFLICT,
        Fault.BUSY,
        Fault.TIMED_OUT,
        Fault.BLOCKED,
        Fault.WRITE_PROTECTED,
        Fault.NO_SPACE,
        Fault.NOT_MIRRORED,
    }
)
CHUNKS_AT_A_TIME = 8
MOST_BAD_BITS = 4096  # a leg with more bad places than this has failed


@dataclass(frozen=True, slots=True)
class WalkLimits:
    """In what pieces to copy; how fast is the business of `backends.pairs.pacing`.

    Attributes:
        chunk_bytes: most bytes in one read and write.
        chunks: how many are under way at once.
    """

    chunk_bytes: int = 1 << 20
    chunks: int = 4


@dataclass(frozen=True, slots=True)
class WalkTime:
    """What the walks of a pair have in common, and what is seen of them.

    Attributes:
        scheduler: time and the event loop.
        pacer: says when the next chunk may go.
        meter: how fast they go.
    """

    scheduler: Scheduler
    pacer: Pacer
    meter: RateMeter


class WalkEnd:
    """How a walk ended.

    Attributes:
        stopped: True when `stop` ended it.
        error: what ended it before its time, or None.
        leg: the leg that gave the error, or None.
        bad_blocks: blocks that could not be read or written, and stay dirty.
        found_blocks: of a comparison: blocks that differed.
    """

    __slots__ = ("bad_blocks", "error", "found_blocks", "leg", "stopped")

    def __init__(self) -> None:
        self.stopped = False
        self.error: VolumeError | None = None
        self.leg: int | None = None
        self.bad_blocks = 0
        self.found_blocks = 0


class Walk(ABC):
    """One walk over a pair; a subclass says where it goes and what it does there.

    Attributes:
        done_blocks: that it has copied or compared.
        rewrite: a copy writes blocks on the source again too, since a flush of it failed.
    """

    def __init__(self, mirror: Mirror, time: WalkTime, limits: WalkLimits, ended: Callable[[WalkEnd], None]) -> None:
        self.mirror = mirror
        self.source = mirror.current
        self.target = 1 - mirror.current
        self.end = WalkEnd()
        self.rewrite = False
        self.done_blocks = 0
        self.bad = DirtyMap(mirror.dirty.blocks, mirror.dirty.block_bytes)
        self.chunk_blocks = _chunk_blocks(mirror, limits.chunk_bytes)
        self._limits = limits
        self._scheduler = time.scheduler
        self._pacer = time.pacer
        self._meter = time.meter
        self._ended = ended
        self._under_way = 0
        self._waiting = False
        self._timer: Timer | None = None
        self._over = False
        self._filling = False
        self._stops: list[Callable[[], None]] = []

    marks_first = True  # the extents of a chunk must be open before the work on it

    @abstractmethod
    def next_run(self) -> Run | None:
        """Choose the next blocks, or None when there are none for now."""

    @abstractmethod
    def work(self, chunk: Chunk) -> None:
        """Do the work on a chunk whose turn it is; `chunk.finish` ends it."""

    def start(self) -> None:
        self._pacer.begin()
        self._meter.begin()
        self.mirror.faults.arm()  # the ticks close extents: what is copied has to be stable before the end of it all
        self._fill()

    def stop(self, done: Callable[[], None]) -> None:
        """End the walk; call back when nothing of it is under way."""
        if self._over:
            done()
            return
        self.end.stopped = True
        self._stops.append(done)
        self._fill()

    @property
    def piece_blocks(self) -> int:
        """How many blocks to move at once, at most."""
        if not self._pacer.stands_back():
            return self.chunk_blocks
        bit_blocks = 1 << self.mirror.dirty.bit_shift
        return max(self.chunk_blocks // SMALLER // bit_blocks, 1) * bit_blocks

    def did(self, blocks: int) -> None:
        """So many blocks are copied or compared."""
        self.done_blocks += blocks
        self._meter.count(blocks)

    def give_back(self, blocks: int) -> None:
        """So many blocks of a chunk did not have to be moved: the pace leaves room for others."""
        self._pacer.give_back(blocks * self.mirror.dirty.block_bytes)
        self.look_again()

    def look_again(self) -> None:
        """The pace has changed: do not wait for the time that the old one named."""
        if self._timer is not None:
            self._timer.cancel()
            self._resume()

    def fail(self, leg: int, error: VolumeError) -> None:
        """End the walk because of a leg."""
        if self.end.error is None:
            self.end.error, self.end.leg = error, leg

    def spoil(self, run: Run) -> None:
        """Blocks can not be copied: they stay dirty, the walk goes on with others."""
        before = self.bad.dirty_blocks()
        self.bad.set(*run)
        self.end.bad_blocks += self.bad.dirty_blocks() - before

    def chunk_ended(self) -> None:
        self._under_way -= 1
        self._fill()

    def begin(self, run: Run) -> None:
        """Put a chunk under way; also for the halves of one that failed."""
        self._under_way += 1
        Chunk(self, run).begin()

    def _fill(self) -> None:
        if self._filling:
            return
        self._filling = True
        try:
            begun = 0
            while not self._over and not self.halted() and self._under_way < self._limits.chunks and self._on_pace():
                if begun == CHUNKS_AT_A_TIME:  # legs that answer at once must not keep the loop from everybody else
                    self._waiting = True
                    self._scheduler.call_soon(self._resume)
                    break
                run = self.next_run()
                if run is None:
                    break
                begun += 1
                self._pacer.took(run.blocks * self.mirror.dirty.block_bytes)
                self.begin(run)
        finally:
            self._filling = False
        if not self._under_way and not self._over and (self.halted() or not self._waiting):
            self._over = True
            stops, self._stops = self._stops, []
            self._ended(self.end)
            for done in stops:
                done()

    def halted(self) -> bool:
        """Tell whether nothing more is to be begun."""
        return self.end.stopped or self.end.error is not None

    def _on_pace(self) -> bool:
        if self._waiting:
            return False
        delay = self._pacer.delay()
        if delay <= 0:
            return True
        self._waiting = True
        self._timer = self._scheduler.call_later(delay, self._resume)
        return False

    def _resume(self) -> None:
        self._waiting = False
        self._timer = None
        self._fill()


class Chunk(Place):
    """Blocks of a walk on their way: extents open, then its turn, then the work."""

    __slots__ = ("run", "walk")

    def __init__(self, walk: Walk, run: Run) -> None:
        super().__init__(run.lba, run.blocks)
        self.walk = walk
        self.run = run

    def begin(self) -> None:
        if not self.walk.marks_first or self.admit_extents(self._opened):
            self._opened(None)

    def admit_extents(self, opened: Opened) -> bool:
        """Have the chunk's extents open, see `IntentLog.admit`."""
        first, last = self._extents()
        return self.walk.mirror.log.admit(first, last, opened)

    def go(self) -> None:
        walk = self.walk
        first, last = self._extents()
        if walk.halted():
            self.finish()
        elif not walk.marks_first or all(at in walk.mirror.log.open for at in range(first, last + 1)):
            walk.work(self)
        else:
            walk.mirror.leave(self)
            self.begin()

    def _extents(self) -> tuple[int, int]:
        shift = self.walk.mirror.dirty.extent_shift
        return self.lba >> shift, (self.end - 1) >> shift

    def finish(self) -> None:
        """The chunk is done, well or not."""
        self.walk.mirror.leave(self)
        self.walk.chunk_ended()

    def failed(self, leg: int, error: VolumeError, bit_blocks: int) -> None:
        """A leg could not read or write the chunk."""
        walk, run = self.walk, self.run
        if error.fault in LEG_FAULTS:
            walk.fail(leg, error)
        elif run.blocks <= bit_blocks:
            walk.spoil(run)
            if walk.bad.dirty_bits > MOST_BAD_BITS:
                walk.fail(leg, error)
        else:
            half = max(run.blocks // 2 // bit_blocks, 1) * bit_blocks
            walk.begin(Run(run.lba, half))
            walk.begin(Run(run.lba + half, run.blocks - half))
        self.finish()

    def _opened(self, error: Exception | None) -> None:
        if error is not None:
            self.walk.fail(self.walk.target, VolumeError(Fault.NOT_MIRRORED, f"the mark is not stable: {error}"))
            self.walk.chunk_ended()
        elif self.walk.mirror.order.enter(self):
            self.go()


def _chunk_blocks(mirror: Mirror, chunk_bytes: int) -> int:
    """Give a chunk's size: whole bits, and what both legs take at once."""
    bit_blocks = 1 << mirror.dirty.bit_shift
    blocks = chunk_bytes // mirror.dirty.block_bytes
    for leg in mirror.legs:
        if leg.max_transfer_blocks:
            blocks = min(blocks, leg.max_transfer_blocks)
    return max(blocks // bit_blocks, 1) * bit_blocks
