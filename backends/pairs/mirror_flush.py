"""Flushing a pair: GOOD only when both legs have, and a failed flush is never forgotten by a later one (I8).

A leg whose flush fails may have lost any write since its last good flush, though it may still show it to readers. So
it leaves the mirror with all extents dirty that are not known to be stable. Until a copy has written those again, on
the failed leg too if it is the source, a flush that has to rely on that leg fails; a restart does not change that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from backends.pairs.mirror import BOTH, Mirror
from backends.pairs.mirror_faults import PATH_FAULTS, STATE_HOLD
from scsi.array_commands import FenceLevel
from scsi.volume import Done, Fault, VolumeError


class FlushKeeper(Protocol):
    """The pair, as its flushes see it."""

    @property
    def fence_level(self) -> FenceLevel: ...
    @property
    def failed_flushes(self) -> int:
        """Bit set of legs with a failed flush that no copy has made up for."""

    def flush_failed(self, leg: int, error: VolumeError) -> None:
        """A leg may have lost whatever it had not made stable."""

    def leg_lost(self, leg: int, error: VolumeError) -> None: ...
    def leg_away(self, leg: int, error: VolumeError) -> None: ...
    def has_path(self, leg: int) -> bool: ...


class Flushes:
    """The flushes of one mirror."""

    def __init__(self, mirror: Mirror, keeper: FlushKeeper, arm: Callable[[], None]) -> None:
        self.mirror = mirror
        self.keeper = keeper
        self.arm = arm

    def flush(self, leg: int, done: Done) -> None:
        """Make every write acknowledged through the LU of `leg` stable."""
        mirror = self.mirror
        # Not by the current leg alone before it is stable that it is alone: a crash would bring the other one back.
        if leg == mirror.primary and (mirror.mirrored or mirror.held_for(STATE_HOLD)):
            self.arm()
            BothFlush(self, done, for_host=True).retry()
        else:
            self._flush_one(mirror.current if leg == mirror.primary else leg, done)

    def flush_both(self, done: Done) -> None:
        """Make everything mirrored so far stable on both legs, for annex's own bookkeeping."""
        BothFlush(self, done, for_host=False).retry()

    def _flush_one(self, leg: int, done: Done) -> None:
        if self.keeper.failed_flushes & (1 << leg):
            done(_FAILED_BEFORE)
            return

        def flushed(error: VolumeError | None) -> None:
            if error is not None and error.fault not in PATH_FAULTS:
                self.keeper.flush_failed(leg, error)
            if error is None and self.keeper.failed_flushes & (1 << leg):
                error = _FAILED_BEFORE  # another one, under way at the same time, has failed
            done(error)

        self.mirror.legs[leg].flush(flushed)


class BothFlush:
    """One flush of both legs."""

    def __init__(self, flushes: Flushes, done: Done, *, for_host: bool) -> None:
        self._flushes = flushes
        self._mirror = flushes.mirror
        self._done = done
        self._for_host = for_host
        self.tick = flushes.mirror.tick
        self._mark = 0
        self._pending = 0
        self._failed_before = 0
        self._errors: list[VolumeError | None] = [None, None]

    def retry(self) -> None:
        """Begin, or begin again after a leg was away."""
        mirror = self._mirror
        if mirror.held_for(STATE_HOLD):
            self._wait()
            return
        if not mirror.mirrored:
            if self._for_host:
                self._flushes.flush(mirror.primary, self._done)
            else:
                self._done(_DEGRADED)
            return
        if self._for_host and self._flushes.keeper.failed_flushes:
            self._done(_FAILED_BEFORE)
            return
        if mirror.lapsed:
            self._wait()
            return
        self._failed_before = self._flushes.keeper.failed_flushes
        self._mark = mirror.log.stamp
        mirror.log.stamp += 1
        self._restamp()
        self._pending = BOTH
        self._errors = [None, None]
        for leg in (0, 1):
            mirror.legs[leg].flush(self._answers(leg))

    def answer(self, error: VolumeError | None) -> None:
        self._done(error)

    def _restamp(self) -> None:
        """What is under way now is not covered by this flush."""
        log, shift = self._mirror.log, self._mirror.dirty.extent_shift
        for place in self._mirror.order.places():
            for extent in range(place.lba >> shift, ((place.end - 1) >> shift) + 1):
                if extent in log.open:
                    log.open[extent] = log.stamp

    def _answers(self, leg: int) -> Done:
        def answered(error: VolumeError | None) -> None:
            self._errors[leg] = error
            self._pending &= ~(1 << leg)
            if error is not None and not self._is_path_fault(leg):
                self._failed(leg, error)
            if not self._pending:
                self._ended()

        return answered

    def _failed(self, leg: int, error: VolumeError) -> None:
        """A leg's flush failed: known before any other flush is answered, which may find nothing left to fail for."""
        keeper = self._flushes.keeper
        if self._mirror.mirrored:
            keeper.leg_lost(leg, error)
        keeper.flush_failed(leg, error)

    def _wait(self) -> None:
        if self._for_host:
            self._mirror.held.append(self)
        else:
            self._done(_DEGRADED)

    def _ended(self) -> None:
        mirror, flushes = self._mirror, self._flushes
        away = [leg for leg in (0, 1) if self._is_path_fault(leg)]
        if flushes.keeper.failed_flushes & ~self._failed_before:  # of this flush, or of another one meanwhile
            self._answer_degraded()
        elif away:
            for leg in away:
                flushes.keeper.leg_away(leg, self._error(leg))
            self._wait()
        else:
            mirror.flushed = max(mirror.flushed, self._mark)
            mirror.unflushed = {at for at in mirror.unflushed if mirror.log.open.get(at, 0) > self._mark}
            self._done(None)

    def _is_path_fault(self, leg: int) -> bool:
        error = self._errors[leg]
        return error is not None and error.fault in PATH_FAULTS and self._flushes.keeper.has_path(leg)

    def _error(self, leg: int) -> VolumeError:
        error = self._errors[leg]
        assert error is not None
        return error

    def _answer_degraded(self) -> None:
        current, keeper = self._mirror.current, self._flushes.keeper
        if not self._for_host or keeper.failed_flushes & (1 << current):
            self._done(self._errors[current] or _FAILED_BEFORE)
        elif keeper.fence_level is FenceLevel.DATA:
            self._done(VolumeError(Fault.NOT_MIRRORED, str(self._errors[1 - current] or _FAILED_BEFORE)))
        else:
            self.retry()  # held until the state PSUE is stable, then the good leg alone answers


_FAILED_BEFORE = VolumeError(Fault.HARDWARE, "a flush failed, and what it may have lost was not copied again yet")
_DEGRADED = VolumeError(Fault.BLOCKED, "the pair is not mirrored now")
