"""One pair: its state, and what each event on the data path or at a fence makes of it.

How this works. `Pair.record` is the truth about the pair; it changes only in `change`, which tells the mirror, and
puts the record on stable storage. Where an acknowledgement would lean on the new state (a lost leg at level *status*,
another current leg, a split) writes are held until it is stable, so that the state on disk never contradicts a status
that a host has seen (I5, I7).

What follows from a state by itself — copy, compare, wait for an array — is started by `backends.pairs.synchronizing`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from backends.pairs import states as pair_states
from backends.pairs.dirty_map import DirtyMap
from backends.pairs.extent_closing import ExtentCloser
from backends.pairs.fences import FenceService, PairFences
from backends.pairs.intent_log import IntentLog
from backends.pairs.mirror import Mirror
from backends.pairs.mirror_faults import STATE_HOLD, WaitLimits, WriteFaults
from backends.pairs.mirror_flush import Flushes
from backends.pairs.pacing import Operations, Pace, Pacer
from backends.pairs.record_writer import RecordWriter, Stored
from backends.pairs.slot_file import SlotFile
from backends.pairs.states import MIRRORED, PairEvent, Roles, Step
from backends.pairs.store import PairRecord, error_to_store
from backends.pairs.synchronizing import Synchronizer
from backends.pairs.unit_directory import PairedDevice, Unit
from backends.pairs.volumes import AbsentVolume, PairedVolume
from backends.pairs.walking import WalkLimits
from backends.scheduler import Scheduler
from backends.workers import Workers
from scsi.array_commands import FenceLevel, PairFlag, PairRow, PairState
from scsi.volume import Fault, VolumeError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PairOptions:
    """What the admin can set.

    Attributes:
        most_pairs: how many pairs there can be.
        most_open_extents: of 4 MiB, in one pair: what a crash makes it copy at most, beside what was dirty.
        extent_idle_s: an extent not used for this long is closed.
        limits: how long hosts may wait.
        walk: how hard to copy.
    """

    most_pairs: int = 64
    most_open_extents: int = 512
    extent_idle_s: int = 10
    limits: WaitLimits = field(default_factory=WaitLimits)
    walk: WalkLimits = field(default_factory=WalkLimits)


@dataclass(frozen=True, slots=True)
class PairParts:
    """What a pair is built from.

    Attributes:
        record: what is stored of it.
        slot: where; None when that is damaged.
        dirty: blocks not known to be equal.
        log: its marks.
    """

    record: PairRecord
    slot: SlotFile | None
    dirty: DirtyMap
    log: IntentLog


class PairListener(Protocol):
    """Who knows the hosts."""

    def suspending(self, pair: Pair, step: Step) -> dict[str, Any]:
        """The pair is about to become PSUE by itself; give what else changes in its record: see `PairGroups`."""

    def state_changed(self, pair: Pair) -> None:
        """The pair has become PSUE by itself: 06/80/80 to every nexus."""

    def traffic(self, naas: Sequence[bytes]) -> Operations:
        """Give what counts the reads and writes of hosts on these LUs, and on all others on the same devices."""


class Pair:
    """A pair that is served.

    Attributes:
        record: what is stored of it.
        mirror, faults, flushes: its data path.
        fences: its fences.
        synchronizer: its copies and comparisons.
        units: by leg, its LU and virtual device, None where they are missing.
        volumes: what its two LUs sit on.
        damaged: its record was lost: nothing is served until it is deleted.
        last_error: what went wrong last, in words, or "".
    """

    def __init__(
        self,
        parts: PairParts,
        mirror: Mirror,
        units: Sequence[Unit | None],
        fence_service: FenceService,
        scheduler: Scheduler,
        workers: Workers,
        options: PairOptions,
        listener: PairListener,
    ) -> None:
        self.record = record = parts.record
        self.mirror = mirror
        self.units = list(units)
        self.faults = WriteFaults(mirror, scheduler, self, options.limits)
        self.flushes = Flushes(mirror, self, self.faults.arm)
        self.closer = ExtentCloser(
            mirror, self.flushes, most_open=options.most_open_extents, idle_s=options.extent_idle_s
        )
        external = [unit.virtual_device.external_units() if unit else [] for unit in units]
        self.fences = PairFences(record.number, external, fence_service, self._paths_changed)
        if any(external):
            mirror.steady = fence_service.steady
        pace = Pace(record.pace_mib_s, record.least_pace_mib_s)
        pacer = Pacer(scheduler, pace, lambda: listener.traffic((self.naa(0), self.naa(1))))
        self.synchronizer = Synchronizer(self, scheduler, options.walk, pacer)
        self.volumes = [PairedVolume(mirror, self.flushes, self, leg) for leg in (0, 1)]
        self.damaged = parts.slot is None
        self.last_error = record.last_error
        self._listener = listener
        self._away = 0
        self._writer: RecordWriter | None = None
        if parts.slot is not None:
            self._writer = RecordWriter(parts.slot, workers, scheduler, self._record_stable)
        self._set_roles()

    @property
    def number(self) -> int:
        return self.record.number

    @property
    def state(self) -> PairState:
        return self.record.state

    @property
    def log(self) -> IntentLog:
        return self.mirror.log

    @property
    def secondary(self) -> int:
        """Leg of the secondary's LU."""
        return 1 - self.record.primary

    @property
    def fence_level(self) -> FenceLevel:
        return self.record.fence_level

    def naa(self, leg: int) -> bytes:
        return bytes.fromhex(self.record.naas[leg])

    def leg_of(self, naa: bytes) -> int | None:
        """Give the leg whose LU has this id, or None."""
        return self.record.naas.index(naa.hex()) if naa.hex() in self.record.naas else None

    def in_sync(self) -> bool:
        """Tell whether the legs are known to be equal, but for what is under way."""
        return self.state is PairState.PAIR and not self.mirror.dirty.dirty_bits and not self.record.unverified

    # --- Changes ---

    def change(self, done: Stored | None = None, *, hold: bool = True, **changes: Any) -> None:
        """Give the pair another record.

        Args:
            done: called when it is stable, or could not be made so at the first attempt.
            hold: begin no write before it is stable.
            changes: fields of the record.
        """
        before = self.record
        if changes.get("state", before.state) is not before.state:
            changes = {"moment": 0} | changes
        self.record = replace(before, **changes, last_error=error_to_store(self.last_error))
        if hold:
            self.mirror.hold(STATE_HOLD)
        self._set_roles()
        if before.state is not self.record.state:
            _log.info(
                "pair %d: %s → %s",
                self.number,
                before.state.name,
                self.record.state.name,
                extra={"event": "pair_state"},
            )
        if self._writer is not None:
            self._writer.store(self.record, done or _ignore)

    def apply(self, step: Step, done: Stored | None = None, *, hold: bool = True, **changes: Any) -> None:
        """Take a step of the table."""
        primary, current = pair_states.turn(step.roles, self.record.primary, self.record.current)
        self.change(done, hold=hold, state=step.state, primary=primary, current=current, **changes)

    def set_pace(self, pace: Pace, done: Stored) -> None:
        """Change how fast the pair copies, from now on; `done` when that is stable, or could not be made so."""
        self.synchronizer.set_pace(pace)
        self.change(done, hold=False, pace_mib_s=pace.most_mib_s, least_pace_mib_s=pace.least_mib_s)

    def when_stable(self, done: Stored) -> None:
        """Call back when what the pair is now is stable, or could not be made so at the next attempt."""
        if self._writer is None or not self.mirror.held_for(STATE_HOLD):
            done(None)
        else:
            self._writer.store(self.record, done)

    def shut_record(self) -> None:
        """Store no record until `open_record`: a step of the pair's group has to be stable first."""
        if self._writer is not None:
            self._writer.shut()

    def open_record(self) -> None:
        """Take back one `shut_record`."""
        if self._writer is not None:
            self._writer.open()

    def close(self) -> None:
        """Stop: nothing is stored any more."""
        self.faults.close()
        if self._writer is not None:
            self._writer.close()

    def _set_roles(self) -> None:
        record = self.record
        self.mirror.set_roles(
            record.primary,
            record.current,
            mirrored=record.state in MIRRORED and not self.damaged,
            only_current=record.unverified or (record.state is PairState.PAIR and bool(self.mirror.dirty.dirty_bits)),
        )

    def look_again(self) -> None:
        """Tell the mirror again which legs may be read; the map of dirty blocks has changed."""
        self._set_roles()

    def _record_stable(self) -> None:
        self.faults.state_stable(None)
        self.mirror.release(STATE_HOLD)
        self.synchronizer.advance()

    # --- Events of the data path (mirror_faults.Keeper, mirror_flush.FlushKeeper) ---

    def leg_lost(self, leg: int, error: VolumeError) -> None:
        if not self.mirror.mirrored:
            return
        if leg != self.record.current:
            event = PairEvent.OTHER_LEG_LOST
        elif self.in_sync() and not self.mirror.lapsed & (2 >> leg):
            event = PairEvent.CURRENT_LEG_LOST
        else:
            event = PairEvent.SOURCE_LEG_LOST
        self.last_error = f"the leg of {self.record.naas[leg]} was lost: {error}"
        _log.error("pair %d: %s", self.number, self.last_error, extra={"event": "pair_leg_lost"})
        self.suspend(event)
        self.faults.drop(leg, error)
        self.mirror.go_on()

    def suspend(self, event: PairEvent) -> None:
        """Go to PSUE because of an event."""
        step = pair_states.event_step(self.state, event)
        assert step is not None
        with_others = self._listener.suspending(self, step)
        critical = bool(with_others) or self.fence_level is not FenceLevel.NEVER or step.roles is not Roles.KEEP
        self.apply(step, self._suspended, hold=critical, **with_others)
        self.synchronizer.stop(_nothing)
        self._listener.state_changed(self)

    def stop_mirroring(self, why: VolumeError) -> None:
        """Go to PSUE though both legs are well, with the current leg: the others of the group do."""
        self.last_error = str(why)
        _log.warning("pair %d: %s", self.number, self.last_error, extra={"event": "pair_stopped_with_group"})
        self.suspend(PairEvent.OTHER_LEG_LOST)
        self.faults.drop(1 - self.record.current, why)
        self.mirror.go_on()

    def _suspended(self, error: Exception | None) -> None:
        if error is not None:
            self.faults.state_stable(error)

    @property
    def failed_flushes(self) -> int:
        return self.record.failed_flushes

    def flush_failed(self, leg: int, error: VolumeError) -> None:
        self.last_error = f"a flush of the leg of {self.record.naas[leg]} failed: {error}"
        _log.error("pair %d: %s", self.number, self.last_error, extra={"event": "pair_flush_failed"})
        self.mirror.mark_unflushed()
        self.change(failed_flushes=self.record.failed_flushes | (1 << leg))

    def leg_away(self, leg: int, error: VolumeError) -> None:
        self.last_error = f"the leg of {self.record.naas[leg]} is away: {error}"
        self._away |= 1 << leg
        self._paths_changed()

    def found_dirty(self) -> None:
        step = pair_states.event_step(self.state, PairEvent.FOUND_DIRTY)
        if step is not None:
            self.apply(step, hold=False)
        self.synchronizer.advance()

    def has_path(self, leg: int) -> bool:
        return self.fences.has_units(leg)

    def refusal(self, leg: int) -> VolumeError | None:
        blocked = self.blocked()
        if blocked is not None:
            return blocked
        record = self.record
        if leg == record.primary:
            lost = record.state is PairState.PSUE and record.fence_level is FenceLevel.DATA
            refused = lost or record.state is PairState.SSWS
        else:
            split = record.state is PairState.PSUS and record.secondary_writable
            refused = not split and record.state is not PairState.SSWS
        return _PROTECTED if refused else None

    def blocked(self) -> VolumeError | None:
        return self.mirror.legs[0].fault() if self.damaged else None

    def ticked(self) -> None:
        self.fences.look_again()
        if self._away:
            self._paths_changed()
        self.closer.tick()

    # --- Fences and paths ---

    def device_changed(self, _device: object = None) -> None:
        """A virtual device under the pair has another state."""
        if self.mirror.dissolved or self.damaged:
            return
        for leg, unit in enumerate(self.units):
            device = unit.virtual_device if unit else None
            if device is not None and device.fault() is None and not self._fits(device):
                why = f"virtual device {device.number} has another size than when it was paired"
                _log.error("pair %d: %s", self.number, why, extra={"event": "pair_size_changed"})
                self.mirror.replace_leg(leg, AbsentVolume(self.record.blocks, self.record.block_bytes, why))
        self._paths_changed()
        self.synchronizer.advance()

    def _fits(self, device: PairedDevice) -> bool:
        return (device.blocks, device.block_bytes) == (self.record.blocks, self.record.block_bytes)

    def forget_failed_flushes(self) -> None:
        """A copy is going to write again whatever failed flushes have lost."""
        for unit in self.units:
            if unit is not None:
                unit.virtual_device.forget_failed_flush()

    def _paths_changed(self) -> None:
        """Work out which legs may be acknowledged on, and see to those that are back (I6, I10)."""
        mirror = self.mirror
        if mirror.dissolved:
            return
        for leg in (0, 1):
            if mirror.legs[leg].fault() is None:
                self._away &= ~(1 << leg)
            elif self.fences.lapsed & (1 << leg):
                self._away |= 1 << leg
        lapsed = self.fences.lapsed | self._away
        back = mirror.lapsed & ~lapsed
        if lapsed:
            mirror.set_lapsed(mirror.lapsed | lapsed)
            self.faults.arm()
            self._leave_lapsed(lapsed)
        if back or (self.fences.gap & ~lapsed):
            self._legs_back(lapsed, back)

    def _leave_lapsed(self, lapsed: int) -> None:
        """Go over to the leg that has its fence, and its cache, all the time, before anything else can happen."""
        current = self.record.current
        if lapsed == 1 << current and self.in_sync():
            self.change(current=1 - current)

    def _legs_back(self, lapsed: int, back: int) -> None:
        mirror = self.mirror
        gap = self.fences.gap & ~lapsed
        self.fences.gap &= lapsed
        if gap:
            mirror.mark_unflushed()
            dirty = bool(mirror.dirty.dirty_bits)
            state = PairState.COPY if dirty and self.state is PairState.PAIR else self.state
            self.change(hold=False, state=state, unverified=True)
            self.synchronizer.restart_comparison()
        mirror.set_lapsed(lapsed)
        self.faults.leg_back(back)
        mirror.go_on()
        self.synchronizer.advance()

    # --- Reports ---

    def row(self) -> PairRow:
        """Give the pair's row of REPORT PAIRS."""
        record, dirty = self.record, self.mirror.dirty
        out_of_sync = dirty.dirty_blocks()
        flags = PairFlag(0)
        for flag, holds in (
            (PairFlag.SECONDARY_WRITABLE, record.secondary_writable or record.state is PairState.SSWS),
            (PairFlag.FENCE_HELD, self.fences.held()),
            (PairFlag.COPYING_TO_PRIMARY, record.state is PairState.COPY and record.current != record.primary),
            (PairFlag.UNVERIFIED, record.unverified),
            (PairFlag.SECONDARY_IS_CURRENT, record.current != record.primary),
            (PairFlag.SECONDARY_MAY_BE_OLD, record.secondary_old),
        ):
            if holds:
                flags |= flag
        percent = 100 if not out_of_sync else min(99, 100 * (record.blocks - out_of_sync) // record.blocks)
        return PairRow(
            record.number,
            record.state,
            record.fence_level,
            flags,
            percent,
            record.blocks,
            out_of_sync,
            self.naa(record.primary),
            self.naa(self.secondary),
            record.label,
        )


_PROTECTED = VolumeError(Fault.WRITE_PROTECTED, "by the state of the pair")


def _ignore(_error: Exception | None) -> None:
    """The writer logs it, and goes on trying."""


def _nothing() -> None:
    """Nobody waits."""
