"""The book of all pairs: forms them, finds them, commands them, and brings them back after a restart.

`PairBook` is what the array services and the daemon see of pairs. It owns the files in its directory, puts LUs on
pairs and takes them off again, and tells hosts by unit attentions. What happens inside a pair is the business of
`backends.pairs.pair`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from backends.pairs.admission import Existing, check_command, check_create
from backends.pairs.building import PairBuilder
from backends.pairs.creation import PairCreation
from backends.pairs.fences import FenceService
from backends.pairs.groups import PairGroups
from backends.pairs.operations import PairOperations
from backends.pairs.pacing import Operations
from backends.pairs.pair import Pair, PairOptions, PairParts
from backends.pairs.stable_file import OsDirectory, StableDirectory
from backends.pairs.states import PairCommand, Step
from backends.pairs.store import PairStore
from backends.pairs.unit_directory import Unit, UnitDirectory
from backends.scheduler import Scheduler
from backends.workers import Workers
from scsi.array_commands import (
    IMMEDIATE,
    RESYNC_REVERSE,
    RESYNC_SWAP,
    SPLIT_SECONDARY_WRITABLE,
    ArrayOut,
    PairCreate,
    PairRow,
)
from scsi.errors import (
    InternalTargetFailure,
    InvalidFieldInCdb,
    NoSuchPair,
    PairSideNotReady,
    PairStateForbids,
    ScsiError,
)
from scsi.nexus import Nexus

PAIR_STATE_CHANGED = 0x80, 0x80  # ASC, ASCQ of the unit attention
FLAGS_OFFSET = 9

Answer = Callable[[ScsiError | None], None]
_log = logging.getLogger(__name__)
_RESYNCS = {0: PairCommand.RESYNC, RESYNC_REVERSE: PairCommand.REVERSE, RESYNC_SWAP: PairCommand.SWAP}
_COMMANDS = {
    ArrayOut.PAIR_SPLIT: PairCommand.SPLIT,
    ArrayOut.PAIR_DELETE: PairCommand.DELETE,
    ArrayOut.PAIR_TAKEOVER: PairCommand.TAKEOVER,
    ArrayOut.PAIR_VERIFY: PairCommand.VERIFY,
}


class PairBook:
    """Every pair of the daemon."""

    def __init__(
        self,
        scheduler: Scheduler,
        workers: Workers,
        directory: Path | StableDirectory,
        fences: FenceService,
        units: UnitDirectory,
        options: PairOptions | None = None,
    ) -> None:
        """Open an empty book; `load` fills it.

        Args:
            scheduler: time and the event loop.
            workers: for what blocks.
            directory: where pairs are kept, and nothing else is.
            fences: takes reservations on external LUs.
            units: finds LUs.
            options: limits.
        """
        self.options = options or PairOptions()
        self._workers = workers
        files = OsDirectory(directory) if isinstance(directory, Path) else directory
        self._store = PairStore(files)
        self._units = units
        self._pairs: dict[int, Pair] = {}
        self._operations: dict[int, PairOperations] = {}
        self.groups = PairGroups(files, workers, scheduler, self._operations.get)
        self._builder = PairBuilder(scheduler, workers, fences, units, self.options, _Hosts(units, self.groups))
        self._forming: deque[Callable[[Callable[[], None]], None]] = deque()  # creations and deletions, one at a time
        self._forming_now = False

    # --- Finding ---

    def pairs(self) -> list[Pair]:
        """List all pairs by number."""
        return [self._pairs[number] for number in sorted(self._pairs)]

    def by_number(self, number: int) -> Pair | None:
        return self._pairs.get(number)

    def pair_of(self, naa: bytes) -> Pair | None:
        """Find the pair that a LU is in."""
        return next((pair for pair in self._pairs.values() if pair.leg_of(naa) is not None), None)

    @property
    def forming(self) -> bool:
        """Whether a pair is being formed or ended just now."""
        return self._forming_now

    def tell_hosts(self, pair: Pair) -> None:
        """Tell every host of a pair that it has another state."""
        tell_hosts(pair, None)

    def row(self, pair: Pair) -> PairRow:
        """Give the row of REPORT PAIRS."""
        return pair.row()

    # --- Restart and stop ---

    def load(self) -> None:
        """Bring back every stored pair, before any host is served; this blocks.

        Raises:
            DamagedError: it can not be known which pairs there were.
            OSError: the directory can not be read or written.
        """
        self._store.load()
        self.groups.load(self._store.entries)
        for entry in list(self._store.entries.values()):
            pair = self._builder.bring_back(self._store, entry, self.groups.changed(entry.number))
            pair.fences.adopt()
            self._put(pair)

    def close(self, done: Callable[[], None]) -> None:
        """Stop all pairs cleanly: everything flushed, marks closed, fences dropped."""
        left = len(self._pairs)

        def closed() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                self.groups.close()
                self._store.close()
                done()

        if not left:
            closed()

        for pair in self.pairs():
            self._close_pair(pair, closed)

    def _close_pair(self, pair: Pair, done: Callable[[], None]) -> None:
        pair.synchronizer.close()
        operations = self._operations[pair.number]

        def quiet() -> None:
            pair.flushes.flush_both(lambda _error: flushed())

        def flushed() -> None:
            pair.closer.finish(lambda: pair.log.when_idle(stored))

        def stored() -> None:
            pair.close()
            pair.log.close_file()
            pair.fences.drop(done)

        operations.quiesce(quiet)

    # --- Forming and ending ---

    def create(self, asker: Nexus, primary: Unit, parameters: PairCreate, done: Answer) -> None:
        """Form a pair with the addressed LU as its primary; `done(None)` when it exists, stably, with its fences."""

        def check() -> Unit:
            room = len(self._pairs) < self.options.most_pairs
            return check_create(asker, primary, parameters, self._units, self.pair_of, room=room)

        def begin(over: Callable[[], None]) -> None:
            def end(error: ScsiError | None) -> None:
                done(error)
                over()

            try:
                units = (primary, check())
            except Existing:
                end(None)
            except ScsiError as error:
                end(error)
            else:
                book = _Newcomer(self._builder, self._put, asker)
                PairCreation(book, self._store, self._workers, units, parameters, check, end).start()

        self._form(begin)

    def command(self, asker: Nexus, pair: Pair, action: ArrayOut, flags: int, addressed: Unit, done: Answer) -> None:
        """Carry out SPLIT, RESYNC, DELETE, TAKEOVER or VERIFY.

        Args:
            asker: the nexus that sent it.
            pair: the one it names, or that the addressed LU is in.
            action: which.
            flags: of the CDB; only defined bits are set.
            addressed: the LU that it was sent to.
            done: called with None when it is done, or with the refusal.
        """
        if action is ArrayOut.PAIR_RESYNC and flags not in _RESYNCS:
            done(InvalidFieldInCdb(FLAGS_OFFSET))
            return
        command = _RESYNCS[flags] if action is ArrayOut.PAIR_RESYNC else _COMMANDS[action]
        try:
            check_command(asker, pair, command)
            if command is PairCommand.TAKEOVER and addressed.logical_unit.naa != pair.naa(pair.secondary):
                raise PairStateForbids("a takeover is sent to the secondary")
        except ScsiError as error:
            done(error)
            return
        operations = self._operations[pair.number]
        if command is PairCommand.DELETE:
            self.dissolve(asker, pair, done)
        elif command is PairCommand.VERIFY:
            operations.verify(done, immediate=bool(flags & IMMEDIATE))
        else:
            writable = command is PairCommand.SPLIT and bool(flags & SPLIT_SECONDARY_WRITABLE)
            operations.run(command, done, writable=writable, changed=lambda: tell_hosts(pair, asker))

    def dissolve(self, asker: Nexus, pair: Pair, done: Answer) -> None:
        """End a pair for whoever may, also one whose LUs are gone; `done(None)` when it is stably no more."""
        self.dissolve_all(asker, [pair], done)

    def dissolve_all(self, asker: Nexus, pairs: Sequence[Pair], done: Answer) -> None:
        """End pairs all at once, or none; `done(None)` when they are stably no more."""
        all_operations = [self._operations[pair.number] for pair in pairs]

        def begin() -> None:
            if any(pair.mirror.dissolved for pair in pairs):
                end(NoSuchPair())
            else:
                wait_for_all([operations.quiesce for operations in all_operations], lambda: self._form(unlist))

        def unlist(over: Callable[[], None]) -> None:
            def unlisted(result: Exception | None) -> None:
                over()
                if result is None:
                    end_all = [partial(self._end, pair, asker) for pair in pairs]
                    wait_for_all(end_all, lambda: done(None))
                    go_on()
                else:
                    give_back(InternalTargetFailure(f"the pair could not be ended: {result}"))

            if any(any(pair.faults.stragglers) for pair in pairs):
                # One that lands later would be over what a host has written to the LU by then.
                over()
                give_back(PairSideNotReady("a write that nobody waits for is still under way to a leg"))
                return
            numbers = [pair.number for pair in pairs]
            self._workers.submit(lambda: self._store.unlist_pairs(numbers), unlisted)

        def give_back(error: ScsiError) -> None:
            for operations in all_operations:
                operations.let_go()
            end(error)

        def end(error: ScsiError) -> None:
            done(error)
            go_on()

        def go_on() -> None:
            for operations in all_operations:
                operations.next_one()

        wait_for_all([operations.enqueue for operations in all_operations], begin)

    def _end(self, pair: Pair, asker: Nexus, done: Callable[[], None]) -> None:
        """The pair is no more: each LU goes on with its own leg."""
        _log.info("pair %d: ended", pair.number, extra={"event": "pair_ended"})
        del self._pairs[pair.number]
        del self._operations[pair.number]
        self.groups.forget_pair(pair.number)
        tell_hosts(pair, asker)
        for unit in pair.units:
            if unit is not None:
                unit.logical_unit.volume = unit.virtual_device
        pair.mirror.dissolve()
        pair.close()
        pair.log.when_idle(pair.log.close_file)
        pair.fences.drop(lambda: self._remove_files(pair.number, done))

    def _remove_files(self, number: int, done: Callable[[], None]) -> None:
        self._workers.submit(lambda: self._store.remove_files(number), lambda _result: done())

    def _put(self, pair: Pair) -> None:
        """Put the LUs on a pair, and start it."""
        self._pairs[pair.number] = pair
        self._operations[pair.number] = PairOperations(pair)
        for unit, volume in zip(pair.units, pair.volumes, strict=True):
            if unit is not None:
                unit.logical_unit.volume = volume
                unit.virtual_device.listen(pair.device_changed)
        pair.device_changed()

    def _form(self, begin: Callable[[Callable[[], None]], None]) -> None:
        """Change the set of pairs; one change at a time, each calls what it is given at its end."""
        self._forming.append(begin)
        if not self._forming_now:
            self._form_next()

    def _form_next(self) -> None:
        self._forming_now = bool(self._forming)
        if self._forming:
            self._forming.popleft()(self._form_next)


class _Newcomer:
    """Puts a pair that is being formed into the book."""

    def __init__(self, builder: PairBuilder, put: Callable[[Pair], None], asker: Nexus) -> None:
        self._builder = builder
        self._put = put
        self._asker = asker

    def build(self, parts: PairParts) -> Pair:
        return self._builder.build(parts)

    def admit(self, pair: Pair) -> None:
        tell_hosts(pair, self._asker)
        self._put(pair)


class _Hosts:
    """Tells hosts of what pairs do by themselves, and counts what hosts do."""

    def __init__(self, units: UnitDirectory, groups: PairGroups) -> None:
        self._units = units
        self._groups = groups

    def suspending(self, pair: Pair, step: Step) -> dict[str, Any]:
        return self._groups.suspending(pair, step)

    def state_changed(self, pair: Pair) -> None:
        self._groups.suspended(pair)
        tell_hosts(pair, None)

    def traffic(self, naas: Sequence[bytes]) -> Operations:
        return self._units.traffic(naas)


def wait_for_all(begin: Sequence[Callable[[Callable[[], None]], None]], then: Callable[[], None]) -> None:
    """Begin several things, at least one, each with what it calls at its end; go on when all have ended."""
    left = len(begin)

    def over() -> None:
        nonlocal left
        left -= 1
        if not left:
            then()

    for one in begin:
        one(over)


def tell_hosts(pair: Pair, but: Nexus | None) -> None:
    """Make 06/80/80 pending for every nexus of both LUs but one; all learn of a write protection that came or went."""
    for unit in pair.units:
        if unit is not None:
            unit.logical_unit.establish_unit_attention(*PAIR_STATE_CHANGED, but=but)
            unit.logical_unit.tell_write_protection()
