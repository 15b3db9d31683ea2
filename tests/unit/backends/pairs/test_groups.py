from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest

from backends.pairs.group_run import REST_LIMIT_S
from backends.pairs.group_store import FILE, PairGroup
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
    assert "pair 1 of its group lost its secondary" in grouped.pairs[1].last_error


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


def test_a_takeover_takes_each_pair_where_its_state_leads_it() -> None:
    grouped = Grouped(together=False)
    grouped.world.command(grouped.pairs[1], ArrayOut.PAIR_SPLIT)
    steps = grouped.groups.plan(grouped.group, TAKEOVER)
    assert [(step.next_state, step.refusal) for step in steps] == [
        (PairState.PAIR, ""), (PairState.SSWS, ""), (PairState.PAIR, ""),
    ]  # fmt: skip
    assert grouped.states == [PairState.PAIR, PairState.PSUS, PairState.PAIR], "a plan does nothing"
    assert grouped.run(TAKEOVER) == ""
    assert grouped.states == [PairState.PAIR, PairState.SSWS, PairState.PAIR]
    assert [pair.record.primary for pair in grouped.pairs] == [1, 0, 1]


def test_one_pair_that_refuses_is_enough_and_is_named() -> None:
    grouped = Grouped()
    assert grouped.run(SPLIT) == ""
    grouped.device(2, 1).set_unready(VolumeError(Fault.BECOMING_READY, "planned"))
    assert grouped.run(RESYNC) == "no pair was changed: pair 2 (PSUS): a leg is away"
    assert grouped.states == [PairState.PSUS] * 3
    assert "pair 1 (PSUS): resync swap in PSUS; pair 2" in grouped.run(PairCommand.SWAP)


def test_a_pair_that_may_differ_keeps_its_group_from_being_split() -> None:
    grouped = Grouped()
    grouped.pairs[1].change(unverified=True)
    assert grouped.run(SPLIT) == "no pair was changed: pair 2 (PAIR): its secondary is not known to be equal yet"


def test_a_takeover_waits_for_what_is_still_under_way_to_the_secondary() -> None:
    grouped = Grouped(2)
    late = grouped.device(2, 1)
    late.hold = lambda operation: operation.name == "write"
    grouped.device(1, 1).fail("write", Fault.WRITE_ERROR)
    answers = [grouped.write(2, 0, 2), grouped.write(1, 0, 1)]
    grouped.world.scheduler.run_until_idle()
    assert (grouped.states, answers) == ([PairState.PSUE] * 2, [[None], [None]])
    assert "pair 2 (PSUE): a write that nobody waits for is still under way" in grouped.run(TAKEOVER)
    late.release_all()
    assert grouped.run(TAKEOVER) == ""
    assert grouped.states == [PairState.SSWS] * 2


def test_a_pair_is_in_one_group_and_leaves_it_when_it_ends() -> None:
    grouped = Grouped()
    assert str(grouped.define("other", [1])) == "pair 1 is in group db, and a pair is in one at most"
    assert str(grouped.define("other", [7])) == "there is no pair 7"
    assert "letters" in str(grouped.define("/", []))
    assert grouped.world.command(grouped.pairs[0], ArrayOut.PAIR_DELETE) is None
    assert grouped.group.pairs == (2, 3)
    assert grouped.define("other", [2]) is not None
    assert grouped.define("db", [3]) is None
    assert grouped.define("other", [2], together=False) is None
    grouped.world.restart()
    assert sorted(grouped.groups.by_name.values()) == [PairGroup("db", (3,), True), PairGroup("other", (2,), False)]


def test_a_group_that_can_not_be_stored_is_as_it_was() -> None:
    grouped = Grouped()
    grouped.world.directory.error = OSError(28, "No space left on device")
    assert "could not be stored" in str(grouped.define("db", [1]))
    assert "could not be stored" in str(grouped.define("other", []))
    assert grouped.group.pairs == (1, 2, 3)
    grouped.world.directory.error = None
    grouped.world.scheduler.advance(2.0)
    grouped.world.restart()
    assert list(grouped.groups.by_name.values()) == [PairGroup("db", (1, 2, 3), True)]


def test_a_split_that_can_not_be_stored_is_an_error_also_when_it_is_asked_for_again() -> None:
    grouped = Grouped()
    grouped.world.directory.error = OSError(28, "No space left on device")
    for _ in range(2):
        assert "is done, and could not be stored yet" in grouped.run(SPLIT)
    grouped.world.directory.error = None
    assert grouped.run(SPLIT) == ""
    grouped.world.restart()
    assert grouped.states == [PairState.PSUS] * 3


def test_damaged_groups_are_said_to_be_so_and_each_pair_is_well(caplog: pytest.LogCaptureFixture) -> None:
    grouped = Grouped()
    file = grouped.world.directory.files[FILE]
    file.data[:] = file.stable[:] = bytes(len(file.data))
    grouped.world.restart()
    assert grouped.groups.by_name == {}
    assert grouped.states == [PairState.PAIR] * 3
    assert "there are none now" in caplog.text
    assert grouped.define("db", [1, 2]) is None


@pytest.mark.slow
def test_after_a_crash_at_any_step_of_ending_all_pairs_all_are_there_or_none() -> None:
    seen = set()
    for stop_at in range(1, 40):
        grouped = Grouped()
        world = grouped.world
        answers: list[object] = []
        world.directory.stop_at = world.directory.steps + stop_at
        try:
            world.book.dissolve_all(world.asker, grouped.pairs, answers.append)
            world.scheduler.run_until_idle()
        except Crash:
            pass
        world.directory.crash(random.Random(stop_at))
        world.restart()
        assert len(grouped.pairs) in ((0,) if answers == [None] else (0, 3))
        assert grouped.group.pairs == tuple(pair.number for pair in grouped.pairs)
        seen.add(len(grouped.pairs))
    assert seen == {0, 3}


def steps_of(act: str, stop_at: int | None) -> tuple[Grouped, int, Sequence[object]]:
    """Have a group split, or lose a secondary, and stop the machine at a step of its state directory."""
    grouped = Grouped()
    directory = grouped.world.directory
    before = directory.steps
    directory.stop_at = None if stop_at is None else before + stop_at
    answers: Sequence[object] = []
    try:
        if act == "split":
            answers = grouped.begin(SPLIT)
        else:
            grouped.device(1, 1).fail("write", Fault.WRITE_ERROR)
            answers = grouped.write(1, 0, 1)
        grouped.world.scheduler.run_until_idle()
    except Crash:
        pass
    return grouped, directory.steps - before, answers


@pytest.mark.slow
@pytest.mark.parametrize("act", ["split", "loss"])
def test_after_a_crash_at_any_step_all_pairs_have_it_or_none(act: str) -> None:
    whole, steps, _ = steps_of(act, None)
    wanted = {PairState.PSUS if act == "split" else PairState.PSUE}
    assert set(whole.states) == wanted
    seen = set()
    for stop_at in range(1, steps + 1):
        for seed in range(2):
            grouped, _, answers = steps_of(act, stop_at)
            grouped.world.directory.crash(random.Random(seed))
            grouped.device(1, 1).heal()
            grouped.world.restart()
            found = set(grouped.states)
            assert found <= wanted or not found & wanted, (stop_at, grouped.states)
            assert found <= wanted or answers != [None], "it was said to be done"
            if found <= wanted:
                assert of_one_moment(grouped.pairs)
            seen.add(frozenset(found))
    assert len(seen) == 2, "neither before nor after is missing"
