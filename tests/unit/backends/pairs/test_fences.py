from __future__ import annotations

from typing import cast

from backends.external.unit import ExternalLogicalUnit
from backends.pairs.fences import PairFences
from scsi.volume import Fault, VolumeError
from tests.support.pair_world import FakeFences, FakeUnit

ONE, TWO = FakeUnit("one"), FakeUnit("two")


class World:
    """The fences of a pair with one external LU under each leg, or the same under both."""

    def __init__(self, *legs: list[FakeUnit]) -> None:
        self.service = FakeFences()
        self.changes = 0
        units = [[cast("ExternalLogicalUnit", unit) for unit in leg] for leg in legs]
        self.fences = PairFences(1, units, self.service, self.changed)

    def changed(self) -> None:
        self.changes += 1

    def take(self) -> tuple[object, VolumeError | None]:
        answers: list[tuple[object, VolumeError | None]] = []
        self.fences.take(lambda unit, error: answers.append((unit, error)))
        (answer,) = answers
        return answer


def test_every_unit_is_taken_once_and_dropped_once() -> None:
    world = World([ONE, TWO], [TWO])
    assert world.take() == (None, None)
    assert world.fences.held()
    dropped: list[int] = []
    world.fences.drop(lambda: dropped.append(1))
    assert dropped == [1]
    assert world.service.released == ["one", "two"]


def test_when_the_second_is_refused_the_first_is_dropped() -> None:
    world = World([ONE], [TWO])
    world.service.refusals["two"] = VolumeError(Fault.RESERVATION_CONFLICT, "planned")
    unit, error = world.take()
    assert unit is TWO
    assert error is not None
    assert world.service.released == ["one"]
    assert not world.fences.held()


def test_a_pair_without_external_units_holds_no_fence() -> None:
    world = World([], [])
    assert world.take() == (None, None)
    assert not world.fences.held()


def test_a_lapse_marks_its_legs_until_all_their_units_are_held_again() -> None:
    world = World([ONE], [ONE, TWO])
    world.take()
    world.service.lapse(TWO)
    assert world.fences.lapsed == 0b10
    world.service.lapse(ONE)
    assert world.fences.lapsed == 0b11
    world.service.retake(ONE)
    assert world.fences.lapsed == 0b10
    world.service.retake(TWO)
    assert world.fences.lapsed == 0
    assert world.fences.take_gap() == 0b11, "the gap stays until somebody has seen to it"
    assert world.fences.take_gap() == 0


def test_after_a_restart_a_fence_counts_as_lapsed_until_it_is_taken() -> None:
    world = World([], [ONE])
    world.service.lapsed.add("one")
    world.fences.adopt()
    assert (world.fences.lapsed, world.fences.gap) == (0b10, 0b10)
    world.service.lapsed.clear()
    world.fences.look_again()
    assert world.fences.lapsed == 0
    assert world.changes == 1


def test_a_refused_retake_leaves_the_leg_lapsed() -> None:
    world = World([], [ONE])
    world.take()
    world.service.lapse(ONE)
    unit = cast("ExternalLogicalUnit", ONE)
    world.fences.fence_refused(unit, VolumeError(Fault.RESERVATION_CONFLICT, "planned"))
    assert world.fences.lapsed == 0b10
