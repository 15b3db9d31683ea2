"""The reservations that annex holds on external LUs, so that a host cabled to the array is kept out.

How this works. Each unit has one `_Fence` while anybody needs it: its holders (a pair, acquisitions) are counted, the
first brings a RESERVE, the last one's end a RELEASE. A RESERVE belongs to the I_T nexus; it is gone, or may be, after

    the session's end · a reset of the LU by anyone · a power-on of the array · a preemption · a stall of this daemon

and each of these is a *lapse*: from that moment `held()` is False, the holders are told (others may be writing now,
unseen), and RESERVE is sent again until the array says GOOD to one that went out after the last such event. Only that
counts as held. While the link is up this happens at once; when the unit was away it is a step of `before_ready`, so
that no data command goes out unfenced.

A RESERVE that may be left behind at the array (an old session that has not noticed its end, a process that was killed)
is cleared by the unit's LOGICAL UNIT RESET before the step: see `unit.reset_needed`.

Spec: SPC-2 "RESERVE(6) command", "RELEASE(6) command"; vendor-commands.md "Fences"; pairs.md I6, I10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from backends.devices.state import DeviceState
from backends.external.unit import ExternalLogicalUnit
from backends.scheduler import Scheduler, Timer
from scsi.volume import Done, Fault, VolumeError

RETRY_S: Final = 1.0  # after a refused or failed re-take
BEAT_S: Final = 1.0
STALL_S: Final = 5.0  # the loop standing still for this long may have cost the session or the reservation


class FenceHolder(Protocol):
    """Who needs a fence; identity is the object. The calls may come inside calls of the holder's own."""

    def fence_lapsed(self, unit: ExternalLogicalUnit) -> None:
        """Learn that a time is open in which others may write unseen: acknowledge nothing until `fence_retaken`."""

    def fence_retaken(self, unit: ExternalLogicalUnit) -> None:
        """Learn that the fence is held again; when the unit was away this comes before `unit_ready`."""

    def fence_refused(self, unit: ExternalLogicalUnit, error: VolumeError) -> None:
        """Learn that the array refused a re-take (another holds the LU); it is tried again all the time."""


class _Fence:
    """The reservation on one unit."""

    def __init__(self, unit: ExternalLogicalUnit) -> None:
        self.unit = unit
        self.holders: list[FenceHolder] = []
        self.takers: list[tuple[FenceHolder, Done]] = []  # want it, and wait for the answer
        self.droppers: list[Callable[[], None]] = []  # wait for the release
        self.held = False
        self.reserving = False
        self.releasing = False
        self.suspect = False  # something happened since the RESERVE in flight was sent
        self.retry: Timer | None = None
        self.step: Callable[[Done], None] | None = None

    @property
    def wanted(self) -> bool:
        """Whether anybody needs it."""
        return bool(self.holders or self.takers)


class FenceKeeper:
    """Takes, holds, takes again and drops the fences of all external LUs."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._now = scheduler.now  # asked at every write that is acknowledged
        self._fences: dict[ExternalLogicalUnit, _Fence] = {}
        self._beat_at = 0.0
        self._beat: Timer | None = None

    # --- For holders ---

    def take(self, unit: ExternalLogicalUnit, holder: FenceHolder, done: Done) -> None:
        """Hold `unit` for `holder`; `done(None)` when the array has said so.

        Errors: RESERVATION_CONFLICT when another initiator holds the LU; what `unit.fault()` says when it is not
        ready. After an error the holder holds nothing.
        """
        fault = unit.fault()
        if fault is not None:
            done(fault)
            return
        fence = self._fence(unit)
        if self.held(unit) and not fence.releasing:
            self._add(fence, holder)
            done(None)
            return
        fence.takers.append((holder, done))
        self._go_on(fence)

    def adopt(self, unit: ExternalLogicalUnit, holder: FenceHolder) -> None:
        """Hold `unit` for `holder` as before a restart: it counts as lapsed until the array has said otherwise.

        The unit may be away; it does not become READY before its RESERVE. A reservation that an earlier life of annex
        left at the array is cleared first. `holder.fence_retaken` tells when it is held.
        """
        fence = self._fence(unit)
        known = self.held(unit)
        self._add(fence, holder)
        if known:
            holder.fence_retaken(unit)
        elif unit.state is DeviceState.READY and not fence.reserving:
            fence.reserving = True
            unit.reset(lambda _error: self._reserve(fence))
        elif not fence.reserving:
            unit.reset_needed = True

    def drop(self, unit: ExternalLogicalUnit, holder: FenceHolder, done: Callable[[], None]) -> None:
        """Hold it for `holder` no longer; `done` after the array answered the release, or its session is gone.

        With other holders left, or when `holder` holds nothing, `done` is called at once. A `take` of the same holder
        that waits for its answer ends with an error.
        """
        fence = self._fences.get(unit)
        if fence is None:
            done()
            return
        if holder in fence.holders:
            fence.holders.remove(holder)
        waiting = [taker for taker in fence.takers if taker[0] is holder]
        fence.takers = [taker for taker in fence.takers if taker[0] is not holder]
        if fence.wanted:
            done()
        else:
            fence.droppers.append(done)
            self._go_on(fence)
        for _, taker_done in waiting:
            taker_done(VolumeError(Fault.BUSY, f"{unit.name}: the fence was dropped while it was being taken"))

    def wanted(self, unit: ExternalLogicalUnit) -> bool:
        """Say whether anybody needs the reservation."""
        fence = self._fences.get(unit)
        return fence is not None and fence.wanted

    def held(self, unit: ExternalLogicalUnit) -> bool:
        """Say whether the array has confirmed the reservation since the last event that could have dropped it."""
        fence = self._fences.get(unit)
        if fence is None or not fence.held:
            return False
        if self._now() - self._beat_at > STALL_S:
            self._scheduler.call_soon(self._check_stall)
            return False
        return True

    def steady(self) -> bool:
        """Say whether the daemon has not stood still; if it has, every fence has lapsed when this returns."""
        if self._beat is None or self._now() - self._beat_at <= STALL_S:
            return True
        self._check_stall()
        return False

    def holders(self, unit: ExternalLogicalUnit) -> int:
        """Count who holds `unit`, whether the array agrees just now or not."""
        fence = self._fences.get(unit)
        return len(fence.holders) if fence else 0

    # --- ExternalListener ---

    def unit_ready(self, unit: ExternalLogicalUnit) -> None:
        """Go on where nothing could be done while the unit was away."""
        fence = self._fences.get(unit)
        if fence is not None:
            self._go_on(fence)

    def unit_lost(self, unit: ExternalLogicalUnit) -> None:
        """Count a lapse; the step before READY takes it again."""
        fence = self._fences.get(unit)
        if fence is None:
            return
        self._lapse(fence)
        takers, fence.takers = fence.takers, []
        for _, done in takers:
            done(unit.fault() or VolumeError(Fault.LINK_LOST, unit.name))
        self._go_on(fence)

    def unit_lapsed(self, unit: ExternalLogicalUnit, why: str) -> None:
        """Count a lapse, and take it again at once."""
        del why
        fence = self._fences.get(unit)
        if fence is not None:
            self._lapse(fence)
            self._go_on(fence)

    # --- Inside ---

    def _fence(self, unit: ExternalLogicalUnit) -> _Fence:
        fence = self._fences.get(unit)
        if fence is None:
            fence = self._fences[unit] = _Fence(unit)

            def step(done: Done) -> None:
                self._retake_before_ready(fence, done)

            fence.step = step
            unit.before_ready.insert(0, step)  # first of all steps: the others may want to write
            unit.listen(self)
            self._start_beat()
        return fence

    def _forget(self, fence: _Fence) -> None:
        del self._fences[fence.unit]
        if fence.retry is not None:
            fence.retry.cancel()
        if fence.step is not None:
            fence.unit.before_ready.remove(fence.step)
        fence.unit.unlisten(self)
        if not self._fences and self._beat is not None:
            self._beat.cancel()
            self._beat = None

    @staticmethod
    def _add(fence: _Fence, holder: FenceHolder) -> None:
        if holder not in fence.holders:
            fence.holders.append(holder)

    def _lapse(self, fence: _Fence) -> None:
        fence.suspect = True
        if fence.held:
            fence.held = False
            for holder in tuple(fence.holders):
                holder.fence_lapsed(fence.unit)

    def _go_on(self, fence: _Fence) -> None:
        """Do the next thing between what is wanted and what is; one command is under way at a time."""
        if fence.reserving or fence.releasing or self._fences.get(fence.unit) is not fence:
            return
        if not fence.wanted:
            self._end(fence)
        elif fence.unit.state is DeviceState.READY and not fence.held and fence.retry is None:
            fence.reserving = True
            self._reserve(fence)
        elif fence.held and fence.takers:
            self._took(fence)

    def _reserve(self, fence: _Fence) -> None:
        fence.suspect = False
        fence.unit.reserve(lambda error: self._reserved(fence, error))

    def _reserved(self, fence: _Fence, error: VolumeError | None) -> None:
        self.steady()  # an answer from before a stall says nothing about what came in it
        if error is None and fence.suspect and fence.unit.reachable:
            self._reserve(fence)  # it may have been dropped again before its answer came
            return
        fence.reserving = False
        if error is None and not fence.suspect:
            self._took(fence)
        else:
            self._refused(fence, error)
        self._go_on(fence)

    def _took(self, fence: _Fence) -> None:
        retaken = () if fence.held else tuple(fence.holders)
        fence.held = True
        takers, fence.takers = fence.takers, []
        for holder, _ in takers:
            self._add(fence, holder)
        for holder in retaken:
            holder.fence_retaken(fence.unit)
        for _, done in takers:
            done(None)

    def _refused(self, fence: _Fence, error: VolumeError | None) -> None:
        error = error or VolumeError(Fault.LINK_LOST, f"{fence.unit.name}: reset while it was being reserved")
        takers, fence.takers = fence.takers, []
        if fence.holders:
            if error.fault is Fault.RESERVATION_CONFLICT:
                for holder in tuple(fence.holders):
                    holder.fence_refused(fence.unit, error)
            if fence.retry is None:
                fence.retry = self._scheduler.call_later(RETRY_S, lambda: self._retry(fence))
        for _, done in takers:
            done(error)

    def _retry(self, fence: _Fence) -> None:
        fence.retry = None
        self._go_on(fence)

    def _retake_before_ready(self, fence: _Fence, done: Done) -> None:
        """Take the fence of a unit that comes back; a step of `before_ready`."""
        if not fence.holders:
            done(None)
            return

        def answered(error: VolumeError | None) -> None:
            self.steady()
            if error is None and fence.suspect:
                error = VolumeError(Fault.BUSY, f"{fence.unit.name}: reset while it was being reserved")
            if error is None:
                self._took(fence)
            else:
                self._refused(fence, error)
            done(error)

        fence.suspect = False
        fence.unit.reserve(answered)

    def _end(self, fence: _Fence) -> None:
        """Release what the last holder left, and tell those who wait for that."""
        if fence.retry is not None:
            fence.retry.cancel()
            fence.retry = None
        if not fence.unit.reachable:
            self._ended(fence)
            return
        fence.releasing = True
        fence.held = False
        fence.unit.release(lambda error: self._released(fence, error))

    def _released(self, fence: _Fence, error: VolumeError | None) -> None:
        if error is not None and fence.unit.reachable:
            # It answered, but not with GOOD: a reset ends the reservation too, and an unanswered one the session.
            fence.unit.reset(lambda _error: self._ended(fence))
        else:
            self._ended(fence)

    def _ended(self, fence: _Fence) -> None:
        fence.releasing = False
        droppers, fence.droppers = fence.droppers, []
        if fence.wanted:
            self._go_on(fence)
        else:
            self._forget(fence)
        for done in droppers:
            done()

    # --- Stalls ---

    def _start_beat(self) -> None:
        if self._beat is None:
            self._beat_at = self._now()
            self._beat = self._scheduler.call_later(BEAT_S, self._on_beat)

    def _on_beat(self) -> None:
        self._check_stall()
        self._beat = self._scheduler.call_later(BEAT_S, self._on_beat)

    def _check_stall(self) -> None:
        now = self._now()
        stalled = now - self._beat_at > STALL_S
        self._beat_at = now
        if stalled:
            for fence in tuple(self._fences.values()):
                self._lapse(fence)
                self._go_on(fence)
