from __future__ import annotations

import pytest

from backends.acquisitions.range_fence import RangeFence
from scsi.volume import Fault, VolumeError
from tests.support.fence_keeper import FakeFenceKeeper, FakeUnit

A, B = FakeUnit("a"), FakeUnit("b")
REFUSED = VolumeError(Fault.RESERVATION_CONFLICT, "another has it")


class Fencing:
    def __init__(self, *units: FakeUnit) -> None:
        self.keeper = FakeFenceKeeper()
        self.events: list[str] = []
        self.fence = RangeFence(self.keeper, units, lambda: self.events.append("lapsed"))  # type: ignore[arg-type]  # fakes

    def take(self) -> None:
        self.fence.take(lambda error: self.events.append(f"taken {error}"))

    def drop(self) -> None:
        self.fence.drop(lambda: self.events.append("dropped"))


@pytest.mark.parametrize("held_back", [False, True])
def test_all_are_taken_and_all_are_dropped(held_back: bool) -> None:
    fencing = Fencing(A, B)
    fencing.keeper.hold_answers = held_back
    fencing.take()
    fencing.keeper.answer_all()
    assert fencing.events == ["taken None"]
    assert len(fencing.keeper.holders[A]) == len(fencing.keeper.holders[B]) == 1
    fencing.drop()
    fencing.keeper.answer_all()
    assert fencing.events == ["taken None", "dropped"]
    assert fencing.keeper.is_free()


def test_a_range_on_local_regions_only_needs_no_array() -> None:
    fencing = Fencing()
    fencing.take()
    fencing.drop()
    assert fencing.events == ["taken None", "dropped"]
    assert fencing.keeper.journal == []


@pytest.mark.parametrize("refused", [A, B])
def test_one_refusal_gives_the_others_back_before_it_is_told(refused: FakeUnit) -> None:
    fencing = Fencing(A, B)
    fencing.keeper.refusals[refused] = REFUSED
    fencing.keeper.hold_answers = True
    fencing.take()
    fencing.keeper.pending.pop(0)()
    fencing.keeper.pending.pop(0)()
    assert fencing.events == []  # the other one's release is on its way
    fencing.keeper.answer_all()
    assert fencing.events == [f"taken {REFUSED}"]
    assert fencing.keeper.is_free()


def test_dropped_while_it_is_taken_nothing_is_kept() -> None:
    fencing = Fencing(A, B)
    fencing.keeper.hold_answers = True
    fencing.take()
    fencing.keeper.pending.pop(0)()
    fencing.drop()
    assert fencing.events == []
    fencing.keeper.answer_all()
    assert fencing.events == ["taken None", "dropped"]
    assert fencing.keeper.is_free()


def test_dropped_again_it_waits_for_the_same_answers() -> None:
    fencing = Fencing(A)
    fencing.take()
    fencing.keeper.hold_answers = True
    fencing.drop()
    fencing.drop()
    assert fencing.events == ["taken None"]
    fencing.keeper.answer_all()
    fencing.drop()
    assert fencing.events == ["taken None", "dropped", "dropped", "dropped"]
    assert fencing.keeper.journal == ["take a", "drop a"]


def test_a_lapse_is_told_while_it_is_held_only() -> None:
    fencing = Fencing(A)
    fencing.fence.fence_lapsed(A)  # type: ignore[arg-type]  # fakes
    fencing.take()
    fencing.keeper.lapse(A)
    assert fencing.events == ["taken None", "lapsed"]
    fencing.drop()
    fencing.fence.fence_lapsed(A)  # type: ignore[arg-type]  # fakes
    assert fencing.events == ["taken None", "lapsed", "dropped"]
