"""Starts what a pair's state asks for: a copy in COPY, a comparison in PAIR after a lapse or on a host's wish.

How this works. `advance` looks at the pair and starts the walk that is due, if both legs can be used; when they can
not, it looks again later. What a walk's end means is decided here: everything copied and flushed → PAIR; blocks that
could not be copied → PSUE; blocks found to differ after a lapse → COPY, and only when that is done are the legs taken
as verified (I10).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from backends.pairs import states as pair_states
from backends.pairs.copying import Comparison, Copy
from backends.pairs.mirror_faults import STATE_HOLD
from backends.pairs.pacing import Pace, Pacer, RateMeter
from backends.pairs.states import PairEvent
from backends.pairs.volumes import serves
from backends.pairs.walking import Walk, WalkEnd, WalkLimits, WalkTime
from backends.scheduler import Scheduler
from scsi.array_commands import PairState
from scsi.errors import PairSideNotReady, PairStateForbids, ScsiError
from scsi.volume import Fault, VolumeError

if TYPE_CHECKING:
    from backends.pairs.pair import Pair

LOOK_AGAIN_S = 2.0
# The target refuses for good, where others are worth another try.
_HOPELESS = frozenset({Fault.WRITE_PROTECTED, Fault.NO_SPACE})

_log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """How a copy or a comparison gets on.

    Attributes:
        blocks_a_second: over the last ten seconds; blocks that had nothing to be moved are among them.
        seconds_left: at this rate; None when there is none.
        stands_back: it is slower than it could be because hosts are busy.
    """

    blocks_a_second: float
    seconds_left: float | None
    stands_back: bool


class Waiting(NamedTuple):
    """What a copy or a comparison that is due waits for.

    Attributes:
        leg: the leg that is not ready, None when it is something else.
        why: in words.
    """

    leg: int | None
    why: str


class Synchronizer:
    """The walks of one pair, one at a time."""

    def __init__(self, pair: Pair, scheduler: Scheduler, limits: WalkLimits, pacer: Pacer) -> None:
        self._pair = pair
        self._scheduler = scheduler
        self._limits = limits
        self._pacer = pacer
        self._meter = RateMeter(scheduler)
        self._walk: Walk | None = None
        self._pauses = 0
        self._flushing = False
        self._looking = False
        self._closed = False
        self._copying = False  # said to be so
        self._compared = False  # since the last lapse
        self._compare_again = False
        self._askers: list[Callable[[ScsiError | None], None]] = []
        self._done_blocks: dict[type[Walk], int] = {}  # by walks that are over

    @property
    def walk(self) -> Walk | None:
        """What is under way, for reports."""
        return self._walk

    @property
    def copied_blocks(self) -> int:
        """How many blocks were copied since annexd has served the pair, some of them more than once."""
        return self._all_blocks(Copy)

    @property
    def compared_blocks(self) -> int:
        """How many blocks were compared since annexd has served the pair."""
        return self._all_blocks(Comparison)

    def set_pace(self, pace: Pace) -> None:
        """Change how fast the pair copies and compares, also what is under way."""
        self._pacer.set(pace)
        if self._walk is not None:
            self._walk.look_again()

    def progress(self) -> Progress | None:
        """Tell how the copy or the comparison gets on; None when there is none."""
        walk = self._walk
        if walk is None:
            return None
        dirty = self._pair.mirror.dirty
        left = dirty.dirty_blocks() if isinstance(walk, Copy) else dirty.blocks - walk.done_blocks
        rate = self._meter.blocks_a_second()
        return Progress(rate, left / rate if rate >= 1 else None, self._pacer.stands_back())

    def waiting(self) -> Waiting | None:
        """Tell what keeps a copy or a comparison that is due from going on; None when nothing does.

        In PSUE a copy is due too, once the leg is back: it waits for a command.
        """
        record, mirror = self._pair.record, self._pair.mirror
        comparing = record.state is PairState.PAIR and (record.unverified or bool(self._askers))
        if record.state not in {PairState.COPY, PairState.PSUE} and not comparing:
            return None
        for leg, volume in enumerate(mirror.legs):
            fault = volume.fault()
            if fault is not None:
                return Waiting(leg, str(fault))
            if mirror.lapsed & (1 << leg):
                return Waiting(leg, "its fence is not held")
        if record.state is PairState.PSUE:
            return Waiting(None, "a resync")
        if mirror.held_for(STATE_HOLD):
            return Waiting(None, "the pair's new state is not stable yet")
        if self._flushing:
            return Waiting(None, "both legs are being flushed")
        if self._pauses:
            return Waiting(None, "a command is changing the pair")
        return None

    def verify(self, done: Callable[[ScsiError | None], None]) -> None:
        """Compare the legs; `done` when every block was compared, or it became impossible."""
        self._askers.append(done)
        self.advance()

    def cancel(self, done: Callable[[ScsiError | None], None]) -> None:
        """Compare no more for who asked with `done`, who is not called; what was found to differ stays marked.

        A comparison that somebody else has asked for, or that the pair needs itself (I10), goes on.
        """
        if done not in self._askers:
            return
        self._askers.remove(done)
        walk = self._walk
        if isinstance(walk, Comparison) and not self._askers and not self._pair.record.unverified:
            walk.stop(lambda: self._compared_so_far(walk.end))

    def restart_comparison(self) -> None:
        """A fence lapsed: what was compared before does not count."""
        self._compared = False
        self._compare_again = True

    def pause(self, done: Callable[[], None]) -> None:
        """Stop what is under way and start nothing until `resume`."""
        self._pauses += 1
        self.stop(done)

    def resume(self) -> None:
        self._pauses -= 1
        self.advance()

    def stop(self, done: Callable[[], None]) -> None:
        """Stop what is under way; call back when nothing of it is left."""
        if self._walk is None:
            done()
        else:
            self._walk.stop(done)

    def close(self) -> None:
        """Start nothing any more."""
        self._closed = True

    def advance(self) -> None:
        """Start what is due."""
        if self._walk is not None or self._pauses or self._flushing or self._closed:
            return
        record = self._pair.record
        kind: type[Walk] | None = None
        if record.state is PairState.COPY:
            kind = Copy
        elif record.state is PairState.PAIR and (record.unverified or self._askers):
            kind = Comparison
        else:
            self._tell_askers(PairStateForbids())
        if kind is not Copy:
            self._copying = False
        if kind is None:
            return
        if not self._ready():
            self._look_again_later()
            return
        self._compare_again = False
        self._walk = kind(
            self._pair.mirror, WalkTime(self._scheduler, self._pacer, self._meter), self._limits, self._ended
        )
        self._walk.rewrite = bool(record.failed_flushes & (1 << record.current))
        if kind is Copy and not self._copying:
            self._copying = True
            blocks = self._pair.mirror.dirty.dirty_blocks()
            _log.info(
                "pair %d: copying begins, %d blocks are out of sync",
                self._pair.number,
                blocks,
                extra={"event": "copy_begun"},
            )
        self._walk.start()

    def _all_blocks(self, kind: type[Walk]) -> int:
        walk = self._walk
        return self._done_blocks.get(kind, 0) + (walk.done_blocks if isinstance(walk, kind) else 0)

    def _ready(self) -> bool:
        mirror = self._pair.mirror
        return (
            mirror.mirrored
            and not mirror.lapsed
            and not mirror.held_for(STATE_HOLD)  # I7: a record that is not stable must not be acted on
            and serves(mirror.legs[0])
            and serves(mirror.legs[1])
        )

    def _look_again_later(self) -> None:
        if self._looking:
            return
        self._looking = True

        def look() -> None:
            self._looking = False
            self.advance()

        self._scheduler.call_later(LOOK_AGAIN_S, look)

    def _ended(self, end: WalkEnd) -> None:
        walk, self._walk = self._walk, None
        if walk is not None:
            self._done_blocks[type(walk)] = self._done_blocks.get(type(walk), 0) + walk.done_blocks
        if end.stopped:
            self.advance()
        elif isinstance(walk, Copy):
            self._copy_ended(end)
        else:
            self._comparison_ended(end)

    # --- Copies ---

    def _copy_ended(self, end: WalkEnd) -> None:
        pair = self._pair
        if end.error is not None and end.leg is not None:
            pair.last_error = f"copying stopped at the leg of {pair.record.naas[end.leg]}: {end.error}"
            _log.warning("pair %d: %s", pair.number, pair.last_error, extra={"event": "copy_stopped"})
            if end.error.fault in _HOPELESS and end.leg != pair.record.current:
                pair.leg_lost(end.leg, end.error)
            elif end.bad_blocks:
                pair.suspend(PairEvent.COPY_FAILED)
            else:
                self._look_again_later()
            return
        if pair.mirror.dirty.dirty_bits > (1 if end.bad_blocks else 0) and not end.bad_blocks:
            self.advance()  # marked after the last chunk was chosen
            return
        self._flushing = True
        pair.flushes.flush_both(lambda error: self._flushed(error, end))

    def _flushed(self, error: VolumeError | None, end: WalkEnd) -> None:
        pair = self._pair
        self._flushing = False
        if pair.state is not PairState.COPY or self._closed:
            return
        if end.bad_blocks:
            pair.last_error = f"{end.bad_blocks} blocks could not be copied"
            pair.suspend(PairEvent.COPY_FAILED)
        elif error is not None or self._pauses or pair.mirror.dirty.dirty_bits:
            self._look_again_later()
        else:
            self._copied()

    def _copied(self) -> None:
        """Every block is equal on both legs, stably."""
        pair = self._pair
        _log.info("pair %d: copying is done", pair.number, extra={"event": "copy_done"})
        self._copying = False
        step = pair_states.event_step(pair.state, PairEvent.COPIED)
        assert step is not None
        if pair.record.unverified and not self._compared:
            pair.change(hold=False, state=step.state, failed_flushes=0)
        else:
            primary = pair.record.primary
            pair.change(hold=False, state=step.state, failed_flushes=0, unverified=False, current=primary)
        self.advance()

    # --- Comparisons ---

    def _comparison_ended(self, end: WalkEnd) -> None:
        pair = self._pair
        if end.error is not None:
            pair.last_error = f"comparing stopped: {end.error}"
            self._tell_askers(PairSideNotReady(pair.last_error))
            self._look_again_later()
            return
        if self._compare_again:
            self.advance()
            return
        self._compared_so_far(end)
        self._tell_askers(None)
        if not pair.record.unverified:
            return
        self._compared = True
        if pair.mirror.dirty.dirty_bits:
            pair.found_dirty()
        else:
            pair.change(hold=False, unverified=False, current=pair.record.primary)

    def _compared_so_far(self, end: WalkEnd) -> None:
        if end.found_blocks:
            _log.warning(
                "pair %d: %d blocks differ between its legs",
                self._pair.number,
                end.found_blocks,
                extra={"event": "pair_differs"},
            )
        self._pair.look_again()

    def _tell_askers(self, error: ScsiError | None) -> None:
        askers, self._askers = self._askers, []
        for done in askers:
            done(error)
