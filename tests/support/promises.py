"""The promises I1–I10 about a pair, each looked at from outside at the moment when it is due.

How this works. A simulated life tells of every write that was acknowledged, every flush, every change of the pair, and
when time has passed; what the legs hold, and what of annex's files a crash now would leave, is looked at directly:

    I1  acknowledged while mirrored: both legs have it
    I2  acknowledged by one leg: that leg has it, and its blocks are marked dirty on stable storage
    I3  acknowledged by both: its blocks are marked all the same, since who has not been answered yet may have
        written beside it; at the end of a life both legs are equal
    I4  reads: `tests.support.block_model`
    I5  a leg that lacks an acknowledged write is not chosen by annex itself, now or after a crash, and not in PAIR
    I6  acknowledged by an external leg: its fence is held
    I7  where the legs differ a crash now would find marks; after one the pair is in a state that it was in
    I8  a flush was GOOD: what had been acknowledged before it is stable
    I9  a command is answered once, and nothing raises
    I10 what somebody else wrote while there was no fence is not read, and not there in PAIR without bit 3

Of blocks that the pair knows to differ nothing is promised, nor of what an array has lost with its power.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.pairs.dirty_map import DirtyMap
from backends.pairs.intent_log import IntentLog
from backends.pairs.slot_file import SlotFile
from backends.pairs.states import MIRRORED
from backends.pairs.store import PairRecord, log_name, record_name
from scsi.array_commands import PairState
from tests.support.block_model import FOREIGN, INITIAL, Kind, Write, version_of

if TYPE_CHECKING:
    from tests.support.pair_simulation import Simulation


LOOKS_PER_COMPARISON = 8


class Violation(AssertionError):
    """An invariant does not hold."""


class Promises:
    """Looks at one life."""

    def __init__(self, life: Simulation) -> None:
        self._writes: dict[int, Write] = {}  # by version
        self._life = life
        self._unmaps: list[Write] = []
        # Acknowledged through the primary, and not covered by a flush yet, with the legs that it went to.
        self._unflushed: list[tuple[Write, tuple[int, ...]]] = []
        self._missed: tuple[dict[int, Write], dict[int, Write]] = ({}, {})  # by leg: the newest it was not given
        self._changes = 0
        self._looks = 0

    # --- What happens ---

    def issued(self, write: Write) -> None:
        """A host has sent a write."""
        self._writes[write.version] = write
        if write.kind is Kind.UNMAP:
            self._unmaps.append(write)

    def acknowledged(self, write: Write, leg: int) -> None:
        """A write through the LU of `leg` got GOOD."""
        pair = self._life.pair
        record, mirror = pair.record, pair.mirror
        through_primary = leg == record.primary
        own = record.current if through_primary else leg
        both = mirror.mirrored and through_primary
        legs = (0, 1) if both else (own,)
        if not through_primary and not _secondary_writable(record):
            raise self._violation("I5: a write through a secondary that is not writable was acknowledged")
        for at in legs:
            lacks = self._lacks(at, write)
            if lacks is not None and (at == own or not self._known_to_differ(lacks)):
                raise self._violation(f"{'I1' if both else 'I2'}: v{write.version} is acknowledged, not on leg {at}")
        if (both or own == self._life.external_leg) and not self._life.fenced():
            raise self._violation(f"I6: v{write.version} is acknowledged without a verified fence")
        unmarked = self._unmarked(record, write)
        if unmarked is not None:
            name = "I3" if both else "I2"
            raise self._violation(f"{name}: v{write.version} is acknowledged, and block {unmarked} not marked")
        leader = self._leader_after_a_crash(leg)
        if not both and self._lacks(leader, write) is not None:
            raise self._violation(f"I5: after a crash leg {leader} would be read, and it lacks v{write.version}")
        self._note_missed(write, legs)
        if through_primary:
            self._unflushed.append((write, legs))

    def flush_begins(self) -> int:
        """A host asks for a flush; give what `flushed` wants to know."""
        return self._changes

    def flushed(self, issued: float, begun: int) -> None:
        """A flush through the primary that was sent at that time got GOOD."""
        pair = self._life.pair
        record = pair.record
        alone = begun != self._changes or not pair.mirror.mirrored
        unflushed, self._unflushed = self._unflushed, []
        for write, legs in unflushed:
            if write.end is None or write.end >= issued:
                self._unflushed.append((write, legs))
                continue
            for at in (record.current,) if alone else legs:
                lacks = self._lacks(at, write, stable=True)
                if lacks is not None and (at == record.current or not self._known_to_differ(lacks)):
                    raise self._violation(f"I8: flushed, and v{write.version} is not stable on leg {at}")

    def changed(self, before: PairRecord, after: PairRecord) -> None:
        """The pair has another record."""
        self._changes += before != after
        split = before.state in (PairState.PSUS, PairState.SSWS)
        if after.state is PairState.SSWS or (split and after.state in MIRRORED):
            self._missed[after.current].clear()  # a host has chosen whose data leads
            if after.current != before.current:
                self._unflushed.clear()
        elif after.current != before.current:
            self._check_missed(after.current, "leads")
        self.passed()

    def passed(self) -> None:
        """Time has passed."""
        self._looks += 1
        if self._looks % LOOKS_PER_COMPARISON == 0:
            self.compared()
        pairs = self._life.world.book.pairs()
        if not pairs or not pairs[0].in_sync():  # it may have been deleted just now
            return
        for leg in (0, 1):
            self._check_missed(leg, "is in PAIR")
        life = self._life
        external, other = life.world.legs[life.external_leg], life.world.legs[1 - life.external_leg]
        if life.foreign and life.fenced() and not life.open_to_others():
            written = [write for writes in life.in_flight.values() for write in writes]
            for lba in life.foreign:
                if any(write.lba <= lba < write.lba + write.blocks for write in written):
                    continue
                if external.block(lba) == FOREIGN * external.block_bytes != other.block(lba):
                    raise self._violation(f"I10: PAIR and verified, and block {lba} is somebody else's")

    def compared(self) -> None:
        """The legs are compared, behind the back of annex."""
        life = self._life
        if not life.world.book.pairs():
            return
        pair = life.pair
        if pair.record.unverified or pair.mirror.lapsed or not life.fenced() or life.open_to_others():
            return
        first, second = life.world.legs
        # A leg that said that it could not flush shows what it may lose: of that I8 speaks.
        views = (False,) if first.failed_flushes or second.failed_flushes else (False, True)
        if all(first.content(stable=stable) == second.content(stable=stable) for stable in views):
            return
        dirty = self._marks_after_a_crash(pair.record)
        for extent in range(dirty.extents):
            if dirty.mask(extent) == dirty.whole(extent):
                continue
            begin = extent << dirty.extent_shift
            for lba in range(begin, min(begin + (1 << dirty.extent_shift), dirty.blocks)):
                equal = all(first.block(lba, stable=stable) == second.block(lba, stable=stable) for stable in views)
                if not equal and not dirty.any(lba, 1) and lba not in life.foreign:
                    raise self._violation(f"I7: the legs differ in block {lba}, and a crash would not find it marked")

    def forget(self) -> None:
        """A leg lost its power, or the pair is another one: of what went before nothing is promised any more."""
        self._unflushed.clear()
        for missed in self._missed:
            missed.clear()

    # --- How it is seen ---

    def _lacks(self, leg: int, write: Write, *, stable: bool = False) -> int | None:
        """Find a block of the write that shows on that leg something that it has overwritten."""
        device = self._life.world.legs[leg]
        if device.lost_at >= write.issued:
            return None
        for lba in range(write.lba, write.lba + write.blocks):
            block = device.block(lba, stable=stable)
            if not self._as_new(write, lba, version_of(block)) and not self._may_be_foreign(leg, lba, block):
                return lba
        return None

    def _as_new(self, write: Write, lba: int, version: int) -> bool:
        """Tell whether a version may be there behind an acknowledged write: it did not end before that was sent."""
        if version == write.shown:
            return True
        if version == INITIAL:
            return any(
                other.lba <= lba < other.lba + other.blocks and (other.end is None or other.end >= write.issued)
                for other in self._unmaps
            )
        found = self._writes.get(version)
        return found is not None and (found.end is None or found.end >= write.issued)

    def _may_be_foreign(self, leg: int, lba: int, block: bytes) -> bool:
        external = leg == self._life.external_leg
        return external and lba in self._life.foreign and block == FOREIGN * len(block)

    def _known_to_differ(self, lba: int) -> bool:
        pair = self._life.pair
        return pair.record.unverified or pair.mirror.dirty.any(lba, 1)

    def _unmarked(self, record: PairRecord, write: Write) -> int | None:
        """Find a block of the write that a crash now would leave as equal on both legs."""
        dirty = self._marks_after_a_crash(record)
        return next((lba for lba in range(write.lba, write.lba + write.blocks) if not dirty.any(lba, 1)), None)

    def _marks_after_a_crash(self, record: PairRecord) -> DirtyMap:
        world = self._life.world
        dirty = DirtyMap(record.blocks, record.block_bytes)
        file = world.directory.as_after_a_crash().open(log_name(record.number))
        IntentLog(file, bytes.fromhex(record.identity), dirty, world.workers).load()
        return dirty

    def _leader_after_a_crash(self, leg: int) -> int:
        """Give the leg that a crash now would leave to be read through the LU of `leg`, and copied from."""
        number = self._life.pair.number
        file = self._life.world.directory.as_after_a_crash().open(record_name(number))
        stored = PairRecord.decode(SlotFile(file).load())
        return stored.current if leg == stored.primary or stored.state in MIRRORED else leg

    def _note_missed(self, write: Write, legs: tuple[int, ...]) -> None:
        for leg in (0, 1):
            for lba in range(write.lba, write.lba + write.blocks):
                if leg in legs:
                    self._missed[leg].pop(lba, None)
                else:
                    self._missed[leg][lba] = write

    def _check_missed(self, leg: int, how: str) -> None:
        missed = self._missed[leg]
        device = self._life.world.legs[leg]
        for lba, write in missed.items():
            block = device.block(lba)
            if device.lost_at < write.issued and not self._as_new(write, lba, version_of(block)):
                raise self._violation(f"I5: leg {leg} {how}, and block {lba} lacks v{write.version}")
        missed.clear()

    def _violation(self, text: str) -> Violation:
        return self._life.violation(text)


def _secondary_writable(record: PairRecord) -> bool:
    return record.state is PairState.SSWS or (record.state is PairState.PSUS and record.secondary_writable)
