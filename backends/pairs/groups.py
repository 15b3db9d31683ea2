"""Consistency groups: pairs whose secondaries are to be of one moment.

What is promised. Right after a split of the group, a write that a host sent after it had the answer to another one is
on a secondary only if that other one is, whichever pairs of the group the two went to. With `together` the same holds
when a pair of the group loses its secondary by an error.

How this works. All hosts are served by one thread, so writes of all pairs are held in one step, between two answers.
What was answered before that is on all secondaries; what is sent because of an answer given later is held. What is
under way meanwhile may be on a secondary or not, since no host has built on it.

- A split (`backends.pairs.group_run`) then lets what is under way end on both legs, and splits.
- A pair that loses its secondary (`suspending`) stops the others before any of its writes is answered without the
  secondary, and what is under way counts as not mirrored.

Either way the new records of all pairs are first put into one record (`backends.pairs.group_store`): the step is stable
for all of them, or for none. Only then may a pair store its own (`Pair.shut_record`), and writes go on.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from backends.pairs import states as pair_states
from backends.pairs.group_run import GroupRefused, GroupRun, PlannedStep, plan
from backends.pairs.group_store import GroupFile, GroupRecord, PairGroup
from backends.pairs.operations import PairOperations
from backends.pairs.pair import Pair
from backends.pairs.record_writer import RecordWriter, Stored
from backends.pairs.stable_file import StableDirectory
from backends.pairs.states import MIRRORED, PairCommand, Step
from backends.pairs.store import PairRecord
from backends.scheduler import Scheduler
from backends.workers import Workers
from scsi.volume import Fault, VolumeError

MOST_GROUPS = 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")

_log = logging.getLogger(__name__)


class PairGroups:
    """All groups of a daemon.

    Attributes:
        by_name: the groups.
    """

    def __init__(
        self,
        directory: StableDirectory,
        workers: Workers,
        scheduler: Scheduler,
        operations: Callable[[int], PairOperations | None],
    ) -> None:
        """Begin without groups; `load` fills it.

        Args:
            directory: where they are kept.
            workers: for what blocks.
            scheduler: time.
            operations: finds a pair with its commands, by number.
        """
        self.by_name: dict[str, PairGroup] = {}
        self._file = GroupFile(directory)
        self._writer = RecordWriter(self._file, workers, scheduler, self._stable)
        self._scheduler = scheduler
        self._operations = operations
        self._last_step = 0
        self._changed: dict[int, PairRecord] = {}
        self._shut: list[Pair] = []  # pairs whose own record waits until the one of the groups is stable
        self._stopping: tuple[Pair, list[Pair]] | None = None  # who lost its secondary, and who stops with it

    def load(self, pairs: Iterable[int]) -> None:
        """Read what is stored; raises OSError. `pairs` are the numbers of those that there are."""
        record = self._file.load()
        there = set(pairs)
        self._last_step = record.last_step
        self._changed = {changed.number: changed for changed in record.changed if changed.number in there}
        for group in record.groups:
            left = tuple(number for number in group.pairs if number in there)
            self.by_name[group.name] = group._replace(pairs=left)

    def close(self) -> None:
        """Store nothing any more."""
        self._writer.close()

    def changed(self, number: int) -> PairRecord | None:
        """Give the record that the newest step has given to a pair, if its own may be older."""
        return self._changed.get(number)

    def of_pair(self, number: int) -> PairGroup | None:
        """Find the group that a pair is in."""
        return next((group for group in self.by_name.values() if number in group.pairs), None)

    def members(self, group: PairGroup) -> list[Pair]:
        """Give the pairs of a group."""
        return [operations.pair for operations in self._members(group.pairs)]

    # --- Which groups there are ---

    def put(self, group: PairGroup, done: Callable[[Exception | None], None]) -> None:
        """Make a group, or give one of that name other pairs; `done(None)` when that is stable."""
        numbers = tuple(sorted(set(group.pairs)))
        missing = [number for number in numbers if self._operations(number) is None]
        others = [(number, self.of_pair(number)) for number in numbers]
        taken = next(((number, other) for number, other in others if other and other.name != group.name), None)
        if not NAME.fullmatch(group.name):
            done(GroupRefused("a name is 1 to 32 letters, digits, '.', '_' and '-', and begins with none of the last"))
        elif missing:
            done(GroupRefused(f"there is no pair {missing[0]}"))
        elif taken is not None and taken[1] is not None:
            done(GroupRefused(f"pair {taken[0]} is in group {taken[1].name}, and a pair is in one at most"))
        elif group.name not in self.by_name and len(self.by_name) >= MOST_GROUPS:
            done(GroupRefused(f"there are {MOST_GROUPS} groups already"))
        else:
            self._define(self.by_name | {group.name: group._replace(pairs=numbers)}, done)

    def remove(self, name: str, done: Callable[[Exception | None], None]) -> None:
        """End a group; its pairs stay."""
        self._define({other: group for other, group in self.by_name.items() if other != name}, done)

    def forget_pair(self, number: int) -> None:
        """Take a pair that is no more out of its group; a restart does the same by itself."""
        self._changed.pop(number, None)
        group = self.of_pair(number)
        if group is not None:
            left = tuple(other for other in group.pairs if other != number)
            self.by_name[group.name] = group._replace(pairs=left)
            self._store(_ignore)

    def _define(self, groups: dict[str, PairGroup], done: Callable[[Exception | None], None]) -> None:
        before, self.by_name = self.by_name, groups

        def stored(error: Exception | None) -> None:
            if error is None:
                done(None)
                return
            for name in before.keys() | groups.keys():  # as it was, and what else has changed meanwhile stays
                if name in before:
                    self.by_name[name] = before[name]
                else:
                    self.by_name.pop(name, None)
            self._store(_ignore)
            done(GroupRefused(f"it could not be stored: {error}"))

        self._store(stored)

    # --- Commands ---

    def plan(self, group: PairGroup, command: PairCommand) -> list[PlannedStep]:
        """Tell what a command would do to each pair now; nothing is done."""
        return plan(self._members(group.pairs), command)

    def run(
        self,
        group: PairGroup,
        command: PairCommand,
        tell: Callable[[Pair], None],
        done: Callable[[Exception | None], None],
    ) -> None:
        """Carry out a command on all pairs of a group, or on none.

        Args:
            group: which.
            command: not CREATE, VERIFY or DELETE.
            tell: called with each pair that has another state.
            done: called once, with None when it is done and stable, with GroupRefused or GroupNotStored.
        """
        operations = self._members(group.pairs)
        GroupRun(group.name, operations, command, self._scheduler, self.take_step, tell, done).start()

    def take_step(self, pairs: list[Pair], change: Callable[[Pair, int], None], done: Stored) -> None:
        """Change the records of several pairs as one.

        Args:
            pairs: which; their writes are held.
            change: changes the record of one, by `Pair.change`; it gets the number of the step.
            done: called when it is stable, or could not be made so at the first attempt; it is tried on.
        """
        self._last_step += 1
        for pair in pairs:
            self._begin_step(pair)
        for pair in pairs:
            change(pair, self._last_step)
        self._commit(pairs, done)

    def _begin_step(self, pair: Pair) -> None:
        pair.shut_record()
        self._shut.append(pair)

    def _commit(self, pairs: Iterable[Pair], done: Stored) -> None:
        for pair in pairs:
            self._changed[pair.number] = pair.record
        self._store(done)

    def _store(self, done: Stored) -> None:
        groups = tuple(sorted(self.by_name.values()))
        self._writer.store(GroupRecord(self._last_step, groups, tuple(self._changed.values())), done)

    def _stable(self) -> None:
        """Every step so far is stable: the pairs store their own records."""
        shut, self._shut = self._shut, []
        for pair in shut:
            pair.open_record()

    # --- A pair that loses its secondary ---

    def suspending(self, pair: Pair, step: Step) -> dict[str, Any]:
        """A pair is about to become PSUE by itself: stop the others of its group, where that is wanted.

        Returns:
            What else changes in the pair's record; then `suspended` follows.
        """
        if self._stopping is not None:
            return self._stopped_with(pair) if pair in self._stopping[1] else {}
        group = self.of_pair(pair.number)
        _, current = pair_states.turn(step.roles, pair.record.primary, pair.record.current)
        if group is None or not group.together or current != pair.record.primary:
            return {}
        others = [
            other
            for other in self.members(group)
            if other is not pair and other.state in MIRRORED and other.record.current == other.record.primary
        ]
        if not others:
            return {}
        self._last_step += 1
        self._stopping = pair, others
        self._begin_step(pair)
        return self._stopped_with(pair)

    def suspended(self, pair: Pair) -> None:
        """A pair has become PSUE by itself, and no write of it was answered since: now the others stop."""
        if self._stopping is None or self._stopping[0] is not pair:
            return
        others = self._stopping[1]
        why = VolumeError(Fault.NOT_MIRRORED, f"pair {pair.number} of its group lost its secondary")
        for other in others:
            self._begin_step(other)
            other.stop_mirroring(why)
        self._stopping = None
        self._commit([pair, *others], _ignore)

    def _stopped_with(self, pair: Pair) -> dict[str, Any]:
        moment = self._last_step if pair.in_sync() else 0
        return {"group_step": self._last_step, "moment": moment}

    def _members(self, numbers: Iterable[int]) -> list[PairOperations]:
        found = [self._operations(number) for number in sorted(numbers)]
        return [operations for operations in found if operations is not None]


def of_one_moment(pairs: list[Pair]) -> bool:
    """Tell whether the secondaries of stopped pairs are of one moment, and nothing was written to them since."""
    moments = {pair.record.moment if pair.record.current == pair.record.primary else 0 for pair in pairs}
    return len(moments) == 1 and 0 not in moments


def _ignore(_error: Exception | None) -> None:
    """The writer logs it, and goes on trying."""
