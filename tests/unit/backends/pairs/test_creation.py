from __future__ import annotations

import random

import pytest

from scsi.array_commands import FenceLevel, PairState
from scsi.errors import InternalTargetFailure, PairFenceRefused, PairSideNotReady, SecondaryInUse
from scsi.volume import Fault, VolumeError
from tests.support.pair_world import FakePresentedUnit, PairWorld, pattern


def world_of_two(**names: str) -> tuple[PairWorld, FakePresentedUnit, FakePresentedUnit]:
    world = PairWorld()
    primary = world.add_unit(1, external=names.get("primary"))
    return world, primary, world.add_unit(2, external=names.get("secondary", "array"))


def nothing_left(world: PairWorld, *units: FakePresentedUnit) -> bool:
    return (
        world.book.pairs() == []
        and not any(world.fences.holders.values())
        and world.directory.names() == ["pairs.index"]
        and all(unit.logical_unit.volume is unit.virtual_device for unit in units)
        and all(unit.logical_unit.drains == 0 for unit in units)
    )


def test_good_means_formed_fenced_and_stored() -> None:
    world, primary, secondary = world_of_two()
    answers = world.begin_create(primary, secondary, level=FenceLevel.DATA, label="log", pace=3, nocopy=True)
    assert answers == [], "not before it is on stable storage"
    world.scheduler.run_until_idle()
    assert answers == [None]
    assert [len(holders) for holders in world.fences.holders.values()] == [1]
    world.directory.crash(random.Random(1))
    world.fences.lapsed.add("array")
    world.restart()
    record = world.book.pairs()[0].record
    assert (record.label, record.fence_level, record.pace_mib_s) == ("log", FenceLevel.DATA, 3)


def test_hosts_other_than_the_asker_get_a_unit_attention() -> None:
    world, primary, secondary = world_of_two()
    world.create(primary, secondary)
    for unit in (primary, secondary):
        assert unit.logical_unit.attentions == [(0x80, 0x80, world.asker)]


def test_every_external_unit_under_either_side_is_fenced() -> None:
    world, primary, secondary = world_of_two(primary="one", secondary="two")
    world.create(primary, secondary)
    assert set(world.fences.holders) == {"one", "two"}


@pytest.mark.parametrize(
    ("name", "fault", "expected"),
    [
        ("two", Fault.RESERVATION_CONFLICT, SecondaryInUse),
        ("one", Fault.RESERVATION_CONFLICT, PairFenceRefused),
        ("two", Fault.HARDWARE, PairFenceRefused),
        ("two", Fault.BECOMING_READY, PairSideNotReady),
    ],
)
def test_a_fence_that_is_refused_leaves_nothing(name: str, fault: Fault, expected: type[Exception]) -> None:
    world, primary, secondary = world_of_two(primary="one", secondary="two")
    world.fences.refusals[name] = VolumeError(fault, "planned")
    answers = world.begin_create(primary, secondary)
    world.scheduler.run_until_idle()
    assert [type(answer) for answer in answers] == [expected]
    assert nothing_left(world, primary, secondary)


def test_a_host_that_reserves_the_secondary_meanwhile_leaves_nothing() -> None:
    world, primary, secondary = world_of_two()
    world.fences.held_takes = []
    answers = world.begin_create(primary, secondary)
    world.scheduler.run_until_idle()
    holder = type(world.asker)("iqn.2026-11.org.example:other", bytes(6), "t", 1, True, {})
    secondary.logical_unit.reservations.holder = holder
    world.fences.held_takes[0]()
    world.scheduler.run_until_idle()
    assert [type(answer) for answer in answers] == [SecondaryInUse]
    assert nothing_left(world, primary, secondary)


def test_commands_that_run_already_end_before_the_pair_begins() -> None:
    world, primary, secondary = world_of_two()
    primary.logical_unit.hold_drain = True
    answers = world.begin_create(primary, secondary)
    world.scheduler.run_until_idle()
    assert answers == []
    assert world.book.pairs() == []
    primary.logical_unit.drained.pop()()
    world.scheduler.run_until_idle()
    assert answers == [None]
    assert primary.logical_unit.drains == secondary.logical_unit.drains == 0


@pytest.mark.parametrize("step", range(1, 16))
def test_a_state_disk_that_fails_at_any_step_leaves_nothing_or_a_whole_pair(step: int) -> None:
    world, primary, secondary = world_of_two()
    world.directory.stop_at = world.directory.steps + step
    answers = world.begin_create(primary, secondary, nocopy=True)
    world.scheduler.run_until_idle()
    world.directory.stop_at = None
    assert len(answers) == 1
    if answers[0] is None:
        assert world.book.pairs()[0].state is PairState.PAIR
        return
    assert isinstance(answers[0], InternalTargetFailure)
    assert world.book.pairs() == []
    assert not any(world.fences.holders.values())
    assert world.written(primary, 0, pattern(1)) is None
    # What could not be removed goes at the next start, and the next pair can be formed at once.
    world.create(primary, secondary, nocopy=True)


@pytest.mark.parametrize("step", range(1, 16))
def test_a_crash_at_any_step_leaves_nothing_or_a_whole_pair(step: int) -> None:
    world, primary, secondary = world_of_two()
    world.directory.stop_at = world.directory.steps + step
    world.begin_create(primary, secondary)
    world.scheduler.run_until_idle()
    world.directory.crash(random.Random(step))
    world.fences.lapsed.add("array")
    world.restart()
    if world.book.pairs():
        assert world.book.pairs()[0].row().out_of_sync_blocks == 20480
    else:
        assert world.directory.names() == ["pairs.index"]


def test_two_creations_at_once_are_made_one_after_the_other() -> None:
    world, primary, secondary = world_of_two()
    third = world.add_unit(3)
    first = world.begin_create(primary, secondary, nocopy=True)
    same = world.begin_create(primary, secondary, nocopy=True)
    other = world.begin_create(third, secondary, nocopy=True)
    world.scheduler.run_until_idle()
    assert first == same == [None]
    assert len(other) == 1
    assert other[0] is not None
    assert len(world.book.pairs()) == 1


def test_writes_before_and_after_creation_are_on_both_sides_at_the_end() -> None:
    world, primary, secondary = world_of_two()
    world.written(primary, 8, pattern(1))
    answers = world.begin_create(primary, secondary)
    world.written(primary, 16, pattern(2))
    world.ended(answers)
    world.written(primary, 24, pattern(3))
    pair = world.book.pairs()[0]
    world.wait_state(pair, PairState.PAIR)
    assert primary.virtual_device.data == secondary.virtual_device.data
