"""What becomes of writes that do not simply succeed, and the bound on every wait.

How this works. A leg can fail a write in two ways:

- its *path* is away (link lost, reservation conflict, not ready): the leg's part stalls, with its place in the order
kept, until the
  fence is verified again and the part is sent once more, or until the wait is over;
- anything else: the part has failed. When the other leg has the write, the failed leg is lost to the pair
(`Keeper.leg_lost`); when
  both failed, their blocks are marked and the host gets the error.

The wait is over after `hold_s` for a path that is away, and after `write_limit_s` for a leg that does not answer at
all: then the leg is lost to the pair too. A write that ended on the good leg only is answered by the fence level:

    data    04/80/0A
    status  GOOD once the state PSUE is stable (the mark is: its extents are open)
    never   GOOD at once, unless the leg that failed was the current one: then as *status*, because a restart must
    know (I5)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from backends.pairs.mirror import BOTH, CheckedRead, Mirror, MirroredWrite
from backends.pairs.range_order import Place
from backends.scheduler import Scheduler
from scsi.array_commands import FenceLevel
from scsi.volume import Buffer, Fault, VolumeError

TICK_S = 1.0
STATE_HOLD = "a new state is being made stable"

# The path to the leg is away: whether the operation was done is not known, and it can be sent again once the path is
# back.
PATH_FAULTS = frozenset({Fault.LINK_LOST, Fault.BECOMING_READY, Fault.RESERVATION_CONFLICT, Fault.BUSY})


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """How long a host may wait.

    Attributes:
        hold_s: for the fence or path of a leg to come back, before the leg is lost to the pair.
        write_s: for a leg's answer; with the tick on top it must stay below 15 s.
    """

    hold_s: int = 8
    write_s: int = 13


class Keeper(Protocol):
    """The pair, as its data path sees it."""

    @property
    def fence_level(self) -> FenceLevel: ...

    def leg_lost(self, leg: int, error: VolumeError) -> None:
        """A leg failed where the other did not: it leaves the mirror (`WriteFaults.drop` follows)."""

    def leg_away(self, leg: int, error: VolumeError) -> None:
        """The path of a leg is away."""

    def found_dirty(self) -> None:
        """Blocks were marked that only a copy makes equal again."""

    def has_path(self, leg: int) -> bool:
        """Tell whether the leg has a path that can come back by itself: it is on an external array."""

    def refusal(self, leg: int) -> VolumeError | None:
        """Say why a write through the LU of this leg is refused now."""

    def ticked(self) -> None:
        """A second has passed while something was under way."""


class WriteFaults:
    """The faults of one mirror.

    Attributes:
        stragglers: by leg, operations that nobody waits for and that the leg has not answered.
    """

    def __init__(self, mirror: Mirror, scheduler: Scheduler, keeper: Keeper, limits: WaitLimits) -> None:
        self.stragglers = [0, 0]
        self._mirror = mirror
        self._scheduler = scheduler
        self._keeper = keeper
        self._limits = limits
        self._stalled: list[tuple[MirroredWrite, int]] = []
        self._unverified: list[MirroredWrite] = []  # the legs have it; acknowledged when the fence is verified (I6)
        self._unstable: list[MirroredWrite] = []  # acknowledged when the new state is stable (I2)
        self._closed = False
        mirror.faults = self

    def refusal(self, leg: int) -> VolumeError | None:
        return self._keeper.refusal(leg)

    # --- Answers of legs ---

    def leg_answered_badly(self, write: MirroredWrite, leg: int, error: VolumeError) -> bool:
        if write.legs != BOTH or error.fault not in PATH_FAULTS or not self._keeper.has_path(leg):
            return False
        self._stalled.append((write, leg))
        self._keeper.leg_away(leg, error)
        return True

    def straggled(self, leg: int) -> None:
        self.stragglers[leg] -= 1

    def ended(self, write: MirroredWrite) -> None:
        errors = write.errors
        if errors is None:
            self._acknowledge(write)
            return
        if write.legs != BOTH:
            write.finish(next(iter(errors.values())))
            return
        mirror = self._mirror
        if len(errors) == 1 and mirror.mirrored:
            self._keeper.leg_lost(*next(iter(errors.items())))
        mirror.dirty.set(write.lba, write.end - write.lba)  # I3: any of it may be on either leg
        if len(errors) == 2:
            write.finish(errors[mirror.current])
            self._keeper.found_dirty()
        else:
            self._answer_degraded(write, next(iter(errors)))

    def _answer_degraded(self, write: MirroredWrite, lost: int) -> None:
        mirror = self._mirror
        assert write.errors is not None
        if mirror.current == lost:
            write.finish(write.errors[lost])  # what has it is no leg that anyone will read
        elif self._keeper.fence_level is FenceLevel.DATA:
            write.finish(VolumeError(Fault.NOT_MIRRORED, str(write.errors[lost])))
        elif mirror.held_for(STATE_HOLD):
            self._unstable.append(write)
        else:
            self._acknowledge(write)

    def _acknowledge(self, write: MirroredWrite) -> None:
        """Answer GOOD, once the fences of the legs that have the write are verified (I6)."""
        mirror = self._mirror
        if mirror.steady is not None:
            mirror.steady()  # if annexd stood still, they have lapsed now
        if mirror.lapsed & write.landed and not write.answered:
            self._unverified.append(write)
        else:
            write.finish(None)

    # --- What the pair decided ---

    def drop(self, leg: int, error: VolumeError) -> None:
        """A leg has left the mirror: no write waits for it any more, and none was mirrored that it did not confirm.

        A source that failed is served from all the same, as nothing newer is there. What is on its way to it keeps its
        place until it has answered: else it could land after a newer write, or after a read that did not show it.
        """
        mirror = self._mirror
        stalled, self._stalled = self._stalled, []
        waiting, self._unverified = self._unverified, []
        for write, at in stalled:
            if at == leg:
                write.fail_leg(leg, error)
            else:
                self._stalled.append((write, at))
        for write in self._in_flight() if leg != mirror.current else ():
            if write.legs == BOTH and write.pending & (1 << leg):
                self.stragglers[leg] += 1
                write.fail_leg(leg, error)
        for write in waiting:
            if write.legs == BOTH:
                mirror.dirty.set(write.lba, write.end - write.lba)
                write.errors = {leg: error}
                self._answer_degraded(write, leg)
            else:
                self._unverified.append(write)

    def leg_back(self, back: int) -> None:
        """Legs, a bit set, are no longer away: what stalled for them is sent again, and what they had is acknowledged.

        What a leg had answered and nobody was told of yet is sent to it once more: it may have lost its power since.
        """
        lapsed = self._mirror.lapsed
        stalled, self._stalled = self._stalled, []
        waiting, self._unverified = self._unverified, []
        again = [(write, leg) for leg in (0, 1) if back & (1 << leg) for write in self._unacknowledged_on(leg)]
        for write, leg in again:
            write.pending |= 1 << leg
        for write, leg in stalled:
            if lapsed & (1 << leg):
                self._stalled.append((write, leg))
            else:
                write.send(leg)
        for write in waiting:
            if write.pending:
                continue
            if lapsed & write.landed:
                self._unverified.append(write)
            else:
                write.finish(None)
        for write, leg in again:
            write.send(leg)

    def state_stable(self, error: Exception | None) -> None:
        """The new state is on stable storage, or could not be put there."""
        waiting, self._unstable = self._unstable, []
        for write in waiting:
            if error is None:
                self._acknowledge(write)
            else:
                write.finish(_mark_failed(f"the state could not be made stable: {error}"))

    def _in_flight(self) -> list[MirroredWrite]:
        return [place for place in self._mirror.order.places() if isinstance(place, MirroredWrite) and place.pending]

    def _unacknowledged_on(self, leg: int) -> list[MirroredWrite]:
        """List what a leg of the mirror has confirmed, and whose host has no answer yet."""
        mirror = self._mirror
        writes = [place for place in mirror.order.places() if isinstance(place, MirroredWrite) and not place.answered]
        return [write for write in writes if write.landed & mirror.legs_of(write.leg) & (1 << leg)]

    # --- Time ---

    def arm(self) -> None:
        if not self._mirror.ticking and not self._closed:
            self._mirror.set_ticking(True)
            self._scheduler.call_later(TICK_S, self._on_tick)

    def close(self) -> None:
        """Stop the ticks."""
        self._closed = True

    def _on_tick(self) -> None:
        mirror = self._mirror
        if self._closed:
            return
        mirror.tick += 1
        mirror.log.stamp += 1
        self._expire_waiting()  # first: a leg that is lost now leaves a tick to make the new state stable
        self._expire_away()
        self._expire_silent()
        self._send_stalled_again()
        self._keeper.ticked()
        if mirror.order or mirror.held or mirror.opening or mirror.log.open or mirror.lapsed:
            self._scheduler.call_later(TICK_S, self._on_tick)
        else:
            mirror.set_ticking(False)

    def _send_stalled_again(self) -> None:
        """A leg may have refused a write and still have its path: no change of that sends the write again."""
        lapsed = self._mirror.lapsed
        again = [(write, leg) for write, leg in self._stalled if not lapsed & (1 << leg)]
        self._stalled = [(write, leg) for write, leg in self._stalled if lapsed & (1 << leg)]
        for write, leg in again:
            write.send(leg)

    def _expire_away(self) -> None:
        """A host waits too long for a path: its leg is lost to the pair."""
        mirror = self._mirror
        limit = mirror.tick - self._limits.hold_s
        if mirror.mirrored and mirror.lapsed in (1, 2):
            waiting = [*mirror.held, *self._unverified, *(write for write, _ in self._stalled)]
            if any(operation.tick <= limit for operation in waiting):
                leg = mirror.lapsed >> 1
                self._keeper.leg_lost(leg, VolumeError(Fault.LINK_LOST, "its fence was not verified in time"))

    def _expire_silent(self) -> None:
        """A leg does not answer at all."""
        mirror = self._mirror
        limit = mirror.tick - self._limits.write_s
        late = [write for write in self._in_flight() if write.legs == BOTH and write.tick <= limit]
        for write in late:
            error = VolumeError(Fault.TIMED_OUT, f"no answer in {self._limits.write_s} s")
            if BOTH not in (write.pending, mirror.lapsed) and write.pending and mirror.mirrored:
                self._keeper.leg_lost(write.pending >> 1, error)
            if write.pending:  # no leg to prefer, or none but this; its place is kept until they have answered
                write.answer(error)

    def _expire_waiting(self) -> None:
        """What was not begun in time is refused: nothing of it is on any leg."""
        mirror = self._mirror
        limit = mirror.tick - self._limits.write_s
        error = _mark_failed("could not be begun in time")
        for write in [write for write in mirror.opening if write.tick <= limit]:
            write.answer(error)
        late = [operation for operation in mirror.held if operation.tick <= limit]
        mirror.held = [operation for operation in mirror.held if operation.tick > limit]
        for operation in late:
            operation.answer(error)
        for waiting, why in (
            (self._unstable, "the state is not stable"),
            (self._unverified, "the fence is not verified"),
        ):
            for write in [write for write in waiting if write.tick <= limit]:
                waiting.remove(write)
                write.finish(_mark_failed(f"not acknowledged in time: {why}"))
        for place in list(mirror.order.places()):
            if isinstance(place, MirroredWrite) and place.waits_for and place.tick <= limit:
                place.answer(error)

    # --- Reads ---

    def read_failed(self, read: CheckedRead, error: VolumeError) -> None:
        mirror = self._mirror
        other = 1 - read.leg
        if (
            not mirror.mirrored
            or mirror.only_current  # I10
            or mirror.lapsed & (1 << other)
            or mirror.dirty.any(read.lba, read.end - read.lba)
        ):
            read.done(error)
            return
        second = _SecondRead(mirror, self._keeper, read, error)
        if mirror.order.enter(second):
            second.go()


def _mark_failed(why: str) -> VolumeError:
    return VolumeError(Fault.NOT_MIRRORED, why)


class _SecondRead(Place):
    """A read that one leg failed, tried on the other one; what it gives is written back to the first (F10).

    It has a place in the order: a write under way may be readable on one leg and not yet on the other (I4). It takes
    whole bits of the marks, 4 KiB: a local device that can not read a page can not be written a part of it either.
    """

    __slots__ = ("_bad", "_data", "_data_lba", "_error", "_keeper", "_mirror", "_read")

    def __init__(self, mirror: Mirror, keeper: Keeper, read: CheckedRead, error: VolumeError) -> None:
        shift = mirror.dirty.bit_shift
        first = read.lba >> shift << shift
        end = min(-(-read.end >> shift) << shift, mirror.dirty.blocks)
        super().__init__(first, end - first)
        self._mirror = mirror
        self._keeper = keeper
        self._read = read
        self._error = error
        self._bad = read.leg
        self._data: Buffer = b""
        self._data_lba = first

    def go(self) -> None:
        mirror = self._mirror
        if not mirror.mirrored or mirror.dirty.any(self.lba, self.end - self.lba):
            self._end(self._error)
        else:
            mirror.legs[1 - self._bad].read(self.lba, self.end - self.lba, self._was_read)

    def _was_read(self, result: Buffer | VolumeError) -> None:
        read, mirror = self._read, self._mirror
        if isinstance(result, VolumeError):
            if (self.lba, self.end) == (read.lba, read.end):
                self._end(self._error)
            else:  # it may be beside what was asked for that nobody can read
                self._data_lba = read.lba
                mirror.legs[1 - self._bad].read(read.lba, read.end - read.lba, self._was_read_alone)
            return
        skipped = (read.lba - self.lba) * mirror.dirty.block_bytes
        self._answer(result, memoryview(result)[skipped : skipped + (read.end - read.lba) * mirror.dirty.block_bytes])

    def _was_read_alone(self, result: Buffer | VolumeError) -> None:
        if isinstance(result, VolumeError):
            self._end(self._error)
        else:
            self._answer(result, result)

    def _answer(self, data: Buffer, asked_for: Buffer) -> None:
        self._data = data
        self._read.done(asked_for)
        if self._error.fault is Fault.READ_ERROR:
            self._repair()
        else:
            self._mirror.leave(self)

    def _repair(self) -> None:
        mirror = self._mirror
        shift = mirror.dirty.extent_shift
        if mirror.log.admit(self.lba >> shift, (self.end - 1) >> shift, self._opened):
            self._opened(None)

    def _opened(self, error: Exception | None) -> None:
        mirror = self._mirror
        if error is not None or not mirror.mirrored or mirror.lapsed:
            mirror.leave(self)
        else:
            mirror.legs[self._bad].write(self._data_lba, self._data, False, self._repaired)

    def _repaired(self, error: VolumeError | None) -> None:
        self._mirror.leave(self)
        if error is not None and self._mirror.mirrored and error.fault not in PATH_FAULTS:
            self._keeper.leg_lost(self._bad, error)

    def _end(self, error: VolumeError) -> None:
        self._mirror.leave(self)
        self._read.done(error)
