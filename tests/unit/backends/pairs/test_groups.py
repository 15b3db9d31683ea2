from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from backends.pairs.group_run import REST_LIMIT_S
from backends.pairs.group_store import PairGroup
from backends.pairs.groups import PairGroups, of_one_moment
from backends.pairs.pair import Pair
from backends.pairs.states import PairCommand
from scsi.array_commands import ArrayOut, FenceLevel, PairState
from scsi.volume import Fault, VolumeError
from tests.support.pair_world import BLOCK, FakeDevice, PairWorld, naa_of, pattern
from tests.support.stable_memory import Crash

SPLIT, RESYNC, TAKEOVER = PairCommand.SPLIT, PairCommand.RESYNC, PairCommand.TAKEOVER


class Grouped:
    """Pairs in PAIR, with numbers from 1, in a group "db"; pair n is LUs 2n-1 and 2n, the second on an array."""

    def __init__(self, pairs: int = 3, *, together: bool = True, level: FenceLevel = FenceLevel.STATUS) -> None:
        self.world = PairWorld()
        for number in range(1, pairs + 1):
            primary = self.world.add_unit(2 * number - 1)
            secondary = self.world.add_unit(2 * number, external=f"array-{number}")
            self.world.create(primary, secondary, nocopy=True, level=level)
        self.define("db", range(1, pairs + 1), together=together)

    @property
    def groups(self) -> PairGroups:
        return self.world.book.groups

    @property
    def group(self) -> PairGroup:
        return self.groups.by_name["db"]

    @property
    def pairs(self) -> list[Pair]:
        return self.world.book.pairs()

    @property
    def states(self) -> list[PairState]:
        return [pair.state for pair in self.pairs]

    def define(self, name: str, numbers: Iterable[int], *, together: bool = True) -> Exception | None:
        answers: list[Exception | None] = []
        self.groups.put(PairGroup(name, tuple(numbers), together), answers.append)
        return self.world.ended(answers)

    def begin(self, command: PairCommand) -> list[Exception | None]:
        answers: list[Exception | None] = []
        self.groups.run(self.group, command, lambda _pair: None, answers.append)
        return answers

    def run(self, command: PairCommand) -> str:
        """Give "" when it is done, or why not."""
        error = self.world.ended(self.begin(command))
        return "" if error is None else str(error)

    def write(self, number: int, lba: int, seed: int) -> list[VolumeError | None]:
        """Begin a write to the primary of a pair; give its answers."""
        return self.world.write(self.world.units.by_naa[naa_of(2 * number - 1)], lba, pattern(seed))

    def device(self, number: int, leg: int) -> FakeDevice:
        return self.world.units.by_naa[naa_of(2 * number - 1 + leg)].virtual_device

    def on_secondary(self, number: int, lba: int, seed: int) -> bool:
        data = self.device(number, 1).data
        return bytes(data[lba * BLOCK : (lba + 8) * BLOCK]) == pattern(seed)


def test_a_group_splits_all_of_its_pairs_or_none() -> None:
    grouped = Grouped()
    assert grouped.run(SPLIT) == ""
    assert grouped.states == [PairState.PSUS] * 3
    assert of_one_moment(grouped.pairs)
    assert grouped.run(SPLIT) == "", "once more: nothing to do"
    assert grouped.run(RESYNC) == ""
    for pair in grouped.pairs:
        grouped.world.wait_state(pair, PairState.PAIR)
    assert grouped.world.command(grouped.pairs[1], ArrayOut.PAIR_SPLIT) is None
    assert not of_one_moment(grouped.pairs)
    assert grouped.run(SPLIT) == "no pair was changed: pair 2 (PSUS): was split before, so it is of another moment"
    assert grouped.states == [PairState.PAIR, PairState.PSUS, PairState.PAIR]


def test_a_write_that_follows_another_is_not_on_a_secondary_without_it() -> None:
    grouped = Grouped(2)
    grouped.device(1, 1).hold = True
    first = grouped.write(1, 0, 1)
    grouped.world.scheduler.run_until_idle()  # its extent is open, and it is on its way
    split = grouped.begin(SPLIT)
    assert split == [], "a write is under way"
    second = grouped.write(2, 0, 2)
    grouped.world.scheduler.run_until_idle()
    assert second == []
    grouped.device(1, 1).release()
    assert grouped.world.ended(split) is None
    assert grouped.world.ended(first) is None
    assert grouped.world.ended(second) is None
    assert grouped.on_secondary(1, 0, 1)
    assert not grouped.on_secondary(2, 0, 2)


def test_a_write_that_does_not_end_refuses_the_split_before_a_held_write_is_refused() -> None:
    grouped = Grouped(2)
    grouped.device(1, 1).hold = True
    grouped.write(1, 0, 1)
    grouped.world.scheduler.run_until_idle()
    split = grouped.begin(SPLIT)
    held = grouped.write(2, 0, 2)
    grouped.world.scheduler.advance(REST_LIMIT_S - 0.1)
    assert (split, held) == ([], [])
    grouped.world.scheduler.advance(0.2)
    assert [str(error) for error in split] == ["no pair was changed: writes under way did not end within 5 s"]
    assert held == [None]
    assert grouped.states == [PairState.PAIR] * 2
    assert grouped.on_secondary(2, 0, 2)
    grouped.device(1, 1).hold = False
    grouped.device(1, 1).release()
    assert grouped.run(SPLIT) == "", "what came to an end late disturbs nothing"


@pytest.mark.parametrize("level", list(FenceLevel))
def test_when_one_loses_its_secondary_all_stop_before_a_write_is_answered_without_it(level: FenceLevel) -> None:
    grouped = Grouped(level=level)
    grouped.device(1, 1).fail("write", Fault.WRITE_ERROR)
    grouped.device(2, 1).hold = True
    first, second = grouped.write(1, 0, 1), grouped.write(2, 0, 2)
    grouped.world.scheduler.run_until_idle()
    assert grouped.states == [PairState.PSUE] * 3
    answer = grouped.world.ended(first)
    assert (answer is None) == (level is not FenceLevel.DATA)
    assert not grouped.on_secondary(2, 0, 2)
    assert (grouped.world.ended(second) is None) == (level is not FenceLevel.DATA)
    assert of_one_moment(grouped.pairs)
    assert "pair 1 of group db lost its secondary" in grouped.pairs[1].last_error


def test_the_others_go_on_in_a_group_whose_pairs_stop_alone() -> None:
    grouped = Grouped(together=False)
    grouped.device(1, 1).fail("write", Fault.WRITE_ERROR)
    assert grouped.world.ended(grouped.write(1, 0, 1)) is None
    assert grouped.states == [PairState.PSUE, PairState.PAIR, PairState.PAIR]


def test_a_primary_that_is_lost_stops_nobody_else_since_no_secondary_lacks_anything() -> None:
    grouped = Grouped()
    grouped.device(1, 0).fail("write", Fault.WRITE_ERROR)
    assert grouped.world.ended(grouped.write(1, 0, 1)) is None
    assert grouped.states == [PairState.PSUE, PairState.PAIR, PairState.PAIR]


def steps_of(act: str, stop_at: int | None) -> tuple[Grouped, int, list[object]]:
    """Have a group split, or lose a secondary, and stop the machine at a step of its state directory."""
    grouped = Grouped()
    directory = grouped.world.directory
    before = directory.steps
    directory.stop_at = None if stop_at is None else before + stop_at
    answers: list[object] = []
    try:
        if act == "split":
            answers = list(grouped.begin(SPLIT))
        else:
            grouped.device(1, 1).fail("write", Fault.WRITE_ERROR)
            answers = list(grouped.write(1, 0, 1))
        grouped.world.scheduler.run_until_idle()
    except Crash:
        pass
    return grouped, directory.steps - before, answers


@pytest.mark.parametrize("act", ["split", "loss"])
def test_after_a_crash_at_any_step_all_pairs_have_it_or_none(act: str) -> None:
    whole, steps, _ = steps_of(act, None)
    wanted = {PairState.PSUS if act == "split" else PairState.PSUE}
    assert set(whole.states) == wanted
    seen = set()
    for stop_at in range(1, steps + 1):
        for seed in range(4):
            grouped, _, answers = steps_of(act, stop_at)
            grouped.world.directory.crash(random.Random(seed))
            grouped.device(1, 1).heal()
            grouped.world.restart()
            found = set(grouped.states)
            assert found <= wanted or not found & wanted, (stop_at, grouped.states)
            assert found <= wanted or not answers, "it was said to be done"
            if found <= wanted:
                assert of_one_moment(grouped.pairs)
            seen.add(frozenset(found))
    assert len(seen) == 2, "neither before nor after is missing"
