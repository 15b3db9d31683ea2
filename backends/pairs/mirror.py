"""The data path of a pair: every write of the primary goes to both legs, and is answered once, when both have it.

How this works. A pair has two legs, numbered 0 and 1 for good; which one is the primary's, and which is *current*
(read by the primary's host), is told by `Mirror.set_roles`. A write takes three steps, each of which usually costs no
waiting:

    1. its extents are open in the intent log             (so that a crash from here on finds them dirty)
    2. nothing that it overlaps is under way before it     (so that both legs see overlapping writes in one order)
    3. it goes to both legs at once; when both have answered, its host is answered

While the pair is split or has lost a leg a write goes to one leg, and its blocks are marked dirty before it goes. What
goes wrong is decided in `backends.pairs.mirror_faults`, what it means for the pair in `backends.pairs.pair`.

While there is a reason to hold writes (`hold`: a split is under way, a new state is not stable yet; or `lapsed`: the
fence of a leg is not verified) no write is begun; held writes go on in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from backends.pairs.dirty_map import DirtyMap
from backends.pairs.intent_log import IntentLog
from backends.pairs.range_order import Place, RangeOrder
from scsi.volume import Buffer, Done, Fault, ReadDone, Volume, VolumeError

BOTH: Final = 0b11


class Faults(Protocol):
    """Who decides what a failure on the data path means."""

    def leg_answered_badly(self, write: MirroredWrite, leg: int, error: VolumeError) -> bool:
        """Tell whether the leg's part of the write waits to be sent again, instead of having failed."""

    def ended(self, write: MirroredWrite) -> None:
        """Answer a write that did not simply succeed, now or later; then it leaves the order."""

    def straggled(self, leg: int) -> None:
        """A leg answered a write that no longer waited for it."""

    def refusal(self, leg: int) -> VolumeError | None:
        """Say why a write through the LU of this leg is refused now."""

    def arm(self) -> None:
        """Begin the ticks that bound every wait."""

    def read_failed(self, read: CheckedRead, error: VolumeError) -> None:
        """Answer a read that one leg could not serve."""


class MirroredWrite(Place):
    """One write through one of the two LUs.

    Attributes:
        leg: leg of the LU that was written to.
        legs: bit set of the legs that it went to.
        pending: those of them that have not answered.
        errors: what legs answered badly, or None.
        tick: when it came, in ticks of the mirror.
    """

    __slots__ = ("data", "done", "errors", "fua", "leg", "legs", "mirror", "pending", "tick")

    def __init__(self, mirror: Mirror, leg: int, lba: int, blocks: int, data: Buffer, fua: bool, done: Done) -> None:
        # Not by way of Place: a call less for every write.
        self.lba = lba
        self.end = lba + blocks
        self.waits_for = 0
        self.followers = None
        self.mirror = mirror
        self.leg = leg
        self.data = data
        self.fua = fua
        self.done = done
        self.legs = self.pending = 0
        self.errors: dict[int, VolumeError] | None = None
        self.tick = mirror.tick

    def go(self) -> None:
        self.mirror.unblocked(self)

    def opened(self, error: Exception | None) -> None:
        self.mirror.opened(self, error)

    def retry(self) -> None:
        self.mirror.admit(self)

    def answer(self, error: VolumeError | None) -> None:
        """Answer the host, unless it was answered already."""
        done, self.done = self.done, _answered
        done(error)

    def finish(self, error: VolumeError | None) -> None:
        """Answer the host, then let those go that waited."""
        self.answer(error)
        self.mirror.leave(self)

    @property
    def landed(self) -> int:
        """Bit set of the legs that have confirmed it."""
        return self.legs & ~self.pending & ~sum(1 << leg for leg in self.errors or ())

    @property
    def answered(self) -> bool:
        return self.done is _answered

    def answered_0(self, error: VolumeError | None) -> None:
        pending = self.pending
        if not pending & 1:
            self.mirror.faults.straggled(0)
            return
        if error is not None and self._failed(0, error):
            return
        self.pending = pending & 2
        if not pending & 2:
            self.mirror.ended(self)

    def answered_1(self, error: VolumeError | None) -> None:
        pending = self.pending
        if not pending & 2:
            self.mirror.faults.straggled(1)
            return
        if error is not None and self._failed(1, error):
            return
        self.pending = pending & 1
        if not pending & 1:
            self.mirror.ended(self)

    def fail_leg(self, leg: int, error: VolumeError) -> None:
        """Take the leg's part as failed, whether or not it has answered; the write may end by that."""
        if self.errors is None:
            self.errors = {}
        self.errors[leg] = error
        if self.pending & (1 << leg):
            self.pending &= ~(1 << leg)
            if not self.pending:
                self.mirror.ended(self)

    def send(self, leg: int) -> None:
        """Hand the leg its part."""
        self.carry_out(self.mirror.legs[leg], self.answered_1 if leg else self.answered_0)

    def carry_out(self, leg: Volume, done: Done) -> None:
        """Have a leg do what was asked for."""
        leg.write(self.lba, self.data, self.fua, done)

    def _failed(self, leg: int, error: VolumeError) -> bool:
        if self.mirror.faults.leg_answered_badly(self, leg, error):
            return True
        if self.errors is None:
            self.errors = {}
        self.errors[leg] = error
        return False


class CheckedRead(Place):
    """A read of mirrored blocks: when one leg can not serve it, the other may.

    A leg whose link is lost answers when it is back, with what it has then; by that time it may not be current any
    more, and the read is made anew.

    Attributes:
        through: leg of the LU that is read.
        leg: leg that is asked.
    """

    __slots__ = ("done", "leg", "mirror", "through")

    def __init__(self, mirror: Mirror, through: int, leg: int, lba: int, blocks: int, done: ReadDone) -> None:
        super().__init__(lba, blocks)
        self.mirror = mirror
        self.through = through
        self.leg = leg
        self.done = done

    def go(self) -> None:
        self.mirror.legs[self.leg].read(self.lba, self.end - self.lba, self._ended_in_order)

    def answered(self, result: Buffer | VolumeError) -> None:
        if isinstance(result, VolumeError):
            self.mirror.faults.read_failed(self, result)
        elif self.mirror.source_of(self.through) != self.leg:
            self.mirror.read(self.through, self.lba, self.end - self.lba, self.done)
        else:
            self.done(result)

    def _ended_in_order(self, result: Buffer | VolumeError) -> None:
        self.mirror.leave(self)
        self.answered(result)


class Held(Protocol):
    """An operation that waits for the reasons to hold it to go away."""

    tick: int

    def retry(self) -> None: ...
    def answer(self, error: VolumeError | None) -> None: ...


class Mirror:
    """Two legs and what is under way on them.

    Attributes:
        legs: the volumes.
        dirty: blocks not known to be equal.
        log: the marks.
        order: what is under way.
        primary: leg of the primary's LU.
        current: leg that the primary's host reads, and writes while writes go to one leg.
        mirrored: True when writes of the primary go to both legs.
        only_current: True while nothing but the current leg is read, for either LU, since the other may differ (I10).
        lapsed: bit set of legs whose fence is not verified, or whose path is away.
        lapses: how often another leg has lapsed.
        tick: counts seconds while anything is under way.
        flushed: everything stamped up to this in the log is stable on both legs.
        unflushed: extents of which that can not be said though they are no longer mirrored.
        held: operations that wait.
        opening: writes that wait for their extents.
        steady: says whether the daemon has not stood still since its fences were verified (I6); None without fences.
        fast_leg: leg of the LU whose writes are begun without another look at the state of the pair; -1 for neither.
    """

    def __init__(self, legs: Sequence[Volume], dirty: DirtyMap, log: IntentLog, order: RangeOrder) -> None:
        self.legs = list(legs)
        self.dirty = dirty
        self.log = log
        self.order = order
        self.primary = self.current = 0
        self.mirrored = False
        self.only_current = False
        self.lapsed = 0
        self.lapses = 0
        self.tick = 0
        self.ticking = False
        self.flushed = 0
        self.unflushed: set[int] = set()
        self.held: list[Held] = []
        self.opening: dict[MirroredWrite, None] = {}
        self.faults: Faults
        self.dissolved = False
        self.steady: Callable[[], bool] | None = None
        self._holds: set[str] = set()
        self._drains: list[Callable[[], None]] = []
        self.fast_leg = -1
        self._careful = False
        self._reads_in_order = False
        self._leg_0, self._leg_1 = self.legs
        self._open = log.open
        self._extent_shift = dirty.extent_shift
        self._block_shift = dirty.block_bytes.bit_length() - 1

    # --- The fast path ---

    def write(self, leg: int, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        """Write through the LU of `leg`."""
        write = MirroredWrite(self, leg, lba, len(data) >> self._block_shift, data, fua, done)
        if leg == self.fast_leg:
            extent = lba >> self._extent_shift
            if extent in self._open and (write.end - 1) >> self._extent_shift == extent:
                self._open[extent] = self.log.stamp
                if self.order.enter(write):
                    write.pending = write.legs = BOTH
                    self._leg_0.write(lba, data, fua, write.answered_0)
                    self._leg_1.write(lba, data, fua, write.answered_1)
                return
        self.admit(write)

    def ended(self, write: MirroredWrite) -> None:
        """Every leg has answered."""
        # Answered before anybody who waits for it is let go: a change of state must not come in between.
        if write.errors is None and (self.steady is None or self.steady()) and not self._careful:
            write.done(None)
            self.order.leave(write)
        else:
            self.faults.ended(write)

    def read(self, leg: int, lba: int, blocks: int, done: ReadDone) -> None:
        """Read through the LU of `leg`."""
        source = self.source_of(leg)
        if not self.mirrored and not self._reads_in_order:
            self.legs[source].read(lba, blocks, done)
            return
        read = CheckedRead(self, leg, source, lba, blocks, done)
        if not self._reads_in_order:
            self.legs[source].read(lba, blocks, read.answered)
        elif self.order.enter(read):
            read.go()

    def source_of(self, leg: int) -> int:
        """Give the leg that reads through the LU of `leg` go to."""
        if (leg == self.primary or self.only_current) and not self.dissolved:
            return self.current
        return leg

    # --- What a write may have to wait for ---

    def admit(self, write: MirroredWrite) -> None:
        """Begin a write, or have it wait for whatever is in its way."""
        if self.dissolved:
            write.carry_out(self.legs[write.leg], write.done)
            return
        self.faults.arm()
        refusal = self.faults.refusal(write.leg)
        if refusal is not None:
            write.answer(refusal)
        elif self.must_hold(write.leg):
            self.held.append(write)
        elif not self._admit_extents(write):
            self.opening[write] = None
        elif self.order.enter(write):
            self._send(write)

    def opened(self, write: MirroredWrite, error: Exception | None) -> None:
        """The log opened the write's extents, or could not."""
        del self.opening[write]
        if write.answered:
            return
        if error is not None:
            write.answer(VolumeError(Fault.NOT_MIRRORED, f"the mark could not be made stable: {error}"))
        else:
            self.admit(write)  # again from the start: anything may have changed meanwhile

    def unblocked(self, write: MirroredWrite) -> None:
        """No earlier operation is in the write's way any more."""
        if write.answered:
            self.leave(write)
        elif self.must_hold(write.leg) or self.faults.refusal(write.leg) or not self._extents_open(write):
            self.leave(write)
            self.admit(write)
        else:
            self._send(write)

    def legs_of(self, leg: int) -> int:
        """Give the bit set of the legs to which a write through the LU of `leg` goes now."""
        if leg != self.primary:
            return 1 << leg
        return BOTH if self.mirrored else 1 << self.current

    def _send(self, write: MirroredWrite) -> None:
        write.pending = write.legs = self.legs_of(write.leg)
        if write.legs != BOTH:
            self.dirty.set(write.lba, write.end - write.lba)  # I2: marked before the data goes
        for leg in (0, 1):
            if write.legs & (1 << leg):
                write.send(leg)

    def must_hold(self, leg: int) -> bool:
        """Tell whether a write through the LU of `leg` may not be begun now."""
        return bool(self._holds) or bool(self.lapsed & self.legs_of(leg))

    def _admit_extents(self, write: MirroredWrite) -> bool:
        shift = self._extent_shift
        return self.log.admit(write.lba >> shift, (write.end - 1) >> shift, write.opened)

    def _extents_open(self, place: Place) -> bool:
        shift = self._extent_shift
        return all(extent in self._open for extent in range(place.lba >> shift, ((place.end - 1) >> shift) + 1))

    # --- Reasons to hold writes ---

    def hold(self, why: str) -> None:
        """Begin no write until `release(why)`."""
        self._holds.add(why)
        self._changed()

    def release(self, why: str) -> None:
        """Take back one reason; held operations go on when it was the last."""
        self._holds.discard(why)
        self._changed()
        self.go_on()

    def held_for(self, why: str) -> bool:
        return why in self._holds

    def go_on(self) -> None:
        """Try held operations again."""
        if self._holds:
            return
        held, self.held = self.held, []
        for operation in held:
            operation.retry()

    def drain(self, done: Callable[[], None]) -> None:
        """Call back once nothing is under way; hold writes first, or it may take forever."""
        if not self.order:
            done()
            return
        self._drains.append(done)
        self._changed()

    def leave(self, place: Place) -> None:
        """Take a place out of the order, and tell those who wait for it to be empty."""
        self.order.leave(place)
        if self._drains and not self.order:
            drains, self._drains = self._drains, []
            self._changed()
            for done in drains:
                done()

    # --- Changes of the pair ---

    def set_roles(self, primary: int, current: int, *, mirrored: bool, only_current: bool) -> None:
        """Say where reads and writes go from now on."""
        if current != self.current and self.order:
            # I4: a write under way may be readable on the leg read so far and not yet on the other one.
            self._reads_in_order = True
            self.drain(self._reads_freed)
        if self.mirrored and not mirrored:
            self.unflushed.update(extent for extent, stamp in self._open.items() if stamp > self.flushed)
        self.primary = primary
        self.current = current
        self.mirrored = mirrored
        self.only_current = only_current
        self._changed()

    def mark_unflushed(self) -> None:
        """Mark as unequal whatever a leg may have lost with its cache."""
        if self.mirrored:
            self.unflushed.update(extent for extent, stamp in self._open.items() if stamp > self.flushed)
        for extent in self.unflushed:
            self.dirty.put_mask(extent, -1)
        self.unflushed.clear()

    def dissolve(self) -> None:
        """End the mirror: each LU goes on with its own leg."""
        self.dissolved = True
        self.mirrored = False
        self._holds.clear()
        self.lapsed = 0
        self._changed()
        self.go_on()

    def replace_leg(self, leg: int, volume: Volume) -> None:
        """Use another volume for a leg: nobody may take what is there now for what was paired."""
        self.legs[leg] = volume
        self._leg_0, self._leg_1 = self.legs

    def set_lapsed(self, lapsed: int) -> None:
        """Say which legs may not be acknowledged on now."""
        if lapsed & ~self.lapsed:
            self.lapses += 1
        self.lapsed = lapsed
        self._changed()

    def set_ticking(self, ticking: bool) -> None:
        """Say whether the ticks that bound every wait are running; without them nothing is begun."""
        self.ticking = ticking
        self._changed()

    def _reads_freed(self) -> None:
        self._reads_in_order = False

    def _changed(self) -> None:
        fast = self.mirrored and not self._holds and not self.lapsed and self.ticking
        self.fast_leg = self.primary if fast else -1
        self._careful = bool(self.lapsed or self._drains)


def _answered(_error: VolumeError | None) -> None:
    """Stands for the host of a write that was answered before both legs had."""
