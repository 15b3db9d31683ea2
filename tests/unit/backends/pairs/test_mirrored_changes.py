"""WRITE SAME, UNMAP and WRITE AND VERIFY of a pair: writes like any other, but for what goes to the legs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backends.pairs.pair import Pair
from scsi.array_commands import ArrayOut, FenceLevel, PairState
from scsi.volume import Allocation, Buffer, Deallocation, Fault, VolumeError
from scsi.write_through import WriteThrough
from tests.support.memory_volume import Operation
from tests.support.pair_world import BLOCK, LINK_LOST, FakePresentedUnit, PairWorld, pattern

EXTENT = 8192  # blocks of 512 bytes
SAME = pattern(7, 1)


class Formed:
    """A pair in PAIR, of a local primary and an external secondary."""

    def __init__(self, level: int = FenceLevel.STATUS, **options: Any) -> None:
        self.world = PairWorld()
        self.primary = self.world.add_unit(1, **options)
        self.secondary = self.world.add_unit(2, external="array", **options)
        self.legs = (self.primary.virtual_device, self.secondary.virtual_device)
        for leg in self.legs:
            leg.data[:] = b"\xaa" * len(leg.data)
        self.pair: Pair = self.world.create(self.primary, self.secondary, level=level, nocopy=True)
        for leg in self.legs:
            leg.journal.clear()


def unmap(formed: Formed, lba: int, blocks: int, at: FakePresentedUnit | None = None) -> list[VolumeError | None]:
    answers: list[VolumeError | None] = []
    (at or formed.primary).logical_unit.volume.unmap(lba, blocks, answers.append)
    return answers


def write_same(formed: Formed, lba: int, blocks: int, at: FakePresentedUnit | None = None) -> list[VolumeError | None]:
    answers: list[VolumeError | None] = []
    (at or formed.primary).logical_unit.volume.write_same(lba, SAME, blocks, answers.append)
    return answers


Operate = Callable[..., list[VolumeError | None]]
both_kinds = pytest.mark.parametrize(("operate", "name"), [(unmap, "unmap"), (write_same, "write")])


def is_change(operation: Operation) -> bool:
    return operation.name in {"write", "unmap"}


@both_kinds
def test_it_is_answered_once_when_both_legs_have_it(operate: Operate, name: str) -> None:
    formed = Formed()
    formed.legs[1].hold = is_change
    answers = operate(formed, 16, 100)
    formed.world.scheduler.run_until_idle()
    assert answers == []
    assert [leg.operations() for leg in formed.legs] == [[f"{name} 16+100"]] * 2
    formed.legs[1].release()
    assert answers == [None]
    assert formed.legs[0].data == formed.legs[1].data
    assert formed.world.read(formed.primary, 15, 2) == b"\xaa" * BLOCK + (SAME if name == "write" else bytes(BLOCK))


@both_kinds
def test_no_leg_sees_it_before_all_its_extents_are_open_on_stable_storage(operate: Operate, name: str) -> None:
    formed = Formed()
    formed.world.workers.held = True
    answers = operate(formed, EXTENT - 4, 8)
    formed.world.scheduler.run_until_idle()
    assert [leg.operations() for leg in formed.legs] == [[], []]
    formed.world.workers.run_held()
    formed.world.scheduler.run_until_idle()
    assert answers == [None]
    assert set(formed.pair.log.open) == {0, 1}


@both_kinds
def test_it_and_writes_that_overlap_it_reach_both_legs_in_one_order(operate: Operate, name: str) -> None:
    formed = Formed()
    formed.world.written(formed.primary, 0, pattern(0))
    for leg in formed.legs:
        leg.journal.clear()
        leg.hold = is_change
    first = formed.world.write(formed.primary, 16, pattern(1))
    second = operate(formed, 20, 2000)
    third = formed.world.write(formed.primary, 1000, pattern(2))
    elsewhere = formed.world.write(formed.primary, 3000, pattern(3))
    assert [leg.operations() for leg in formed.legs] == [["write 16+8", "write 3000+8"]] * 2
    for leg in formed.legs:
        leg.release()
    assert (first, second, third, elsewhere) == ([None], [], [], [])
    assert [leg.operations()[2:] for leg in formed.legs] == [[f"{name} 20+2000"]] * 2
    for leg in formed.legs:
        leg.release_all()
    assert second == third == elsewhere == [None]
    assert formed.legs[0].data == formed.legs[1].data
    assert formed.world.read(formed.primary, 1000, 8) == pattern(2)


@both_kinds
def test_a_secondary_refuses_it(operate: Operate, name: str) -> None:
    formed = Formed()
    answers = operate(formed, 16, 8, formed.secondary)
    (error,) = answers
    assert error is not None
    assert error.fault is Fault.WRITE_PROTECTED
    assert formed.legs[1].operations() == []


@both_kinds
@pytest.mark.parametrize(
    ("level", "fault"),
    [(FenceLevel.DATA, Fault.NOT_MIRRORED), (FenceLevel.STATUS, None), (FenceLevel.NEVER, None)],
)
def test_a_leg_that_fails_it_is_lost_and_the_host_answered_by_the_fence_level(
    operate: Operate, name: str, level: FenceLevel, fault: Fault | None
) -> None:
    formed = Formed(level)
    formed.legs[1].fail("write", Fault.WRITE_ERROR, times=1)
    error = formed.world.ended(operate(formed, 16, 100))
    assert (error and error.fault) is fault
    assert formed.pair.state is PairState.PSUE
    assert formed.pair.mirror.dirty.any(16, 100)
    if level is not FenceLevel.DATA:
        formed.world.command(formed.pair, ArrayOut.PAIR_RESYNC)
        formed.world.wait_state(formed.pair, PairState.PAIR)
        assert formed.legs[0].data == formed.legs[1].data


@both_kinds
def test_while_the_pair_is_split_it_goes_to_one_leg_and_its_blocks_are_marked_first(
    operate: Operate, name: str
) -> None:
    formed = Formed()
    assert formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT) is None
    marked: list[bool] = []

    def look(operation: Operation) -> bool:
        marked.append(formed.pair.mirror.dirty.any(operation.lba, operation.blocks))
        return False

    formed.legs[0].hold = look
    assert formed.world.ended(operate(formed, 16, 100)) is None
    assert marked == [True]
    assert formed.legs[1].operations() == []
    formed.world.command(formed.pair, ArrayOut.PAIR_RESYNC)
    formed.world.wait_state(formed.pair, PairState.PAIR)
    assert formed.legs[0].data == formed.legs[1].data


@both_kinds
def test_a_link_that_is_lost_under_it_has_it_sent_again_when_the_fence_is_verified(operate: Operate, name: str) -> None:
    formed = Formed()
    formed.legs[1].hold = is_change
    answers = operate(formed, 16, 100)
    formed.world.scheduler.run_until_idle()
    formed.world.fences.lapse(formed.secondary.virtual_device.units[0])
    formed.legs[1].release(error=LINK_LOST)
    assert answers == []
    formed.legs[1].hold = False
    formed.world.fences.retake(formed.secondary.virtual_device.units[0])
    formed.world.scheduler.run_until_idle()
    assert answers == [None]
    assert formed.legs[1].operations().count(f"{name} 16+100") == 2
    assert formed.legs[0].data == formed.legs[1].data


@both_kinds
def test_it_waits_for_a_copy_of_its_blocks_and_the_copy_for_it(operate: Operate, name: str) -> None:
    world = PairWorld()
    primary = world.add_unit(1)
    secondary = world.add_unit(2, external="array")
    legs = (primary.virtual_device, secondary.virtual_device)
    legs[0].data[:] = b"\xaa" * len(legs[0].data)
    legs[1].hold = is_change  # the copy's first writes
    world.begin_create(primary, secondary)
    world.scheduler.run_until_idle()
    copied = len(legs[1].held)
    assert copied
    answers: list[VolumeError | None] = []
    volume = primary.logical_unit.volume
    if operate is unmap:
        volume.unmap(100, 3000, answers.append)
    else:
        volume.write_same(100, SAME, 3000, answers.append)
    world.scheduler.run_until_idle()
    assert f"{name} 100+3000" not in legs[0].operations()
    legs[1].release_all()
    assert world.ended(answers) is None
    pair = world.book.pair_of(primary.logical_unit.naa)
    assert pair is not None
    world.wait_state(pair, PairState.PAIR)
    assert legs[0].data == legs[1].data


def test_the_pair_is_thin_when_either_leg_is_and_what_has_storage_is_asked_of_the_leg_that_is_read() -> None:
    formed = Formed()
    volume = formed.primary.logical_unit.volume
    found = [volume.deallocation]
    for leg, granularity in ((1, 16), (0, 8)):
        formed.legs[leg].deallocation = Deallocation(granularity)
        found.append(volume.deallocation)
    assert found == [None, Deallocation(16), Deallocation(16)]
    assert formed.world.ended(unmap(formed, 16, 16)) is None
    answers: list[list[Allocation] | VolumeError] = []
    volume.allocation(8, 30, answers.append)
    assert answers == [[Allocation(8, True), Allocation(16, False), Allocation(6, True)]]


def test_a_pair_that_is_deleted_leaves_it_to_the_leg() -> None:
    formed = Formed()
    volume = formed.primary.logical_unit.volume
    assert formed.world.command(formed.pair, ArrayOut.PAIR_DELETE) is None
    answers: list[VolumeError | None] = []
    volume.unmap(16, 8, answers.append)
    volume.write_same(32, SAME, 8, answers.append)
    assert answers == [None, None]
    assert formed.legs[0].operations()[-2:] == ["unmap 16+8", "write 32+8"]
    assert formed.legs[1].operations() == []


# --- WRITE AND VERIFY -------------------------------------------------------------------------------------------------


def write_and_read(formed: Formed, *, write_cache: bool = True) -> list[Buffer | VolumeError]:
    answers: list[Buffer | VolumeError] = []
    volume = formed.primary.logical_unit.volume
    (volume if write_cache else WriteThrough(volume)).write_and_read(16, pattern(3), answers.append)
    formed.world.scheduler.run_until_idle()
    return answers


def is_read(operation: Operation) -> bool:
    return operation.name == "read"


def damage(leg: Any) -> None:
    """Let a leg give other data than it was written."""
    leg.data[16 * BLOCK + 100] ^= 1


@pytest.mark.parametrize("write_cache", [True, False])
@pytest.mark.parametrize("last", [0, 1])
def test_write_and_verify_is_answered_when_each_leg_has_given_what_it_was_written(
    last: int, *, write_cache: bool
) -> None:
    formed = Formed()
    formed.legs[last].hold = is_read
    answers = write_and_read(formed, write_cache=write_cache)
    assert answers == []
    assert [leg.operations() for leg in formed.legs] == [["write 16+8 fua", "read 16+8"]] * 2
    formed.legs[last].release()
    assert answers == [pattern(3)]


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize(
    ("level", "fault"),
    [(FenceLevel.DATA, Fault.NOT_MIRRORED), (FenceLevel.STATUS, None), (FenceLevel.NEVER, None)],
)
def test_a_leg_that_does_not_give_what_it_was_written_is_lost(bad: int, level: FenceLevel, fault: Fault | None) -> None:
    formed = Formed(level)
    formed.legs[bad].hold = is_read
    answers = write_and_read(formed)
    damage(formed.legs[bad])
    formed.legs[bad].release_all()
    answer = formed.world.ended(answers)
    assert (answer.fault if isinstance(answer, VolumeError) else None) is fault
    if fault is None:
        assert answer == pattern(3)
    assert formed.pair.state is PairState.PSUE
    assert formed.pair.mirror.current == 1 - bad
    assert formed.pair.mirror.dirty.any(16, 8)
    assert formed.world.read(formed.primary, 16, 8) == pattern(3)
    if level is not FenceLevel.DATA:
        formed.world.command(formed.pair, ArrayOut.PAIR_RESYNC)
        formed.world.wait_state(formed.pair, PairState.PAIR)
        assert formed.legs[0].data == formed.legs[1].data


def test_a_leg_that_can_not_read_what_it_was_written_is_lost() -> None:
    formed = Formed()
    formed.legs[1].fail("read", Fault.READ_ERROR)
    assert formed.world.ended(write_and_read(formed)) == pattern(3)
    assert formed.pair.state is PairState.PSUE
    assert formed.pair.mirror.current == 0


def test_when_no_leg_gives_what_it_was_written_the_host_is_told() -> None:
    formed = Formed()
    for leg in formed.legs:
        leg.hold = is_read
    answers = write_and_read(formed)
    for leg in formed.legs:
        damage(leg)
        leg.release_all()
    answer = formed.world.ended(answers)
    assert isinstance(answer, VolumeError)
    assert answer.fault is Fault.WRITE_ERROR


def test_while_the_pair_is_split_write_and_verify_tells_what_the_one_leg_gives() -> None:
    formed = Formed()
    assert formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT) is None
    formed.legs[0].hold = is_read
    answers = write_and_read(formed)
    assert formed.pair.mirror.dirty.any(16, 8)
    damage(formed.legs[0])
    formed.legs[0].release_all()
    (answer,) = answers
    assert answer == bytes(formed.legs[0].data[16 * BLOCK : 24 * BLOCK]) != pattern(3)
    assert formed.pair.state is PairState.PSUS


def test_a_link_that_is_lost_before_a_leg_has_given_what_it_was_written_has_both_done_again() -> None:
    formed = Formed()
    formed.legs[1].hold = is_read
    answers = write_and_read(formed)
    formed.world.fences.lapse(formed.secondary.virtual_device.units[0])
    formed.legs[1].release(error=LINK_LOST)
    formed.legs[1].hold = False
    assert answers == []
    formed.world.fences.retake(formed.secondary.virtual_device.units[0])
    assert formed.world.ended(answers) == pattern(3)
    assert formed.legs[1].operations()[:4] == ["write 16+8 fua", "read 16+8"] * 2
    assert formed.pair.state is PairState.PAIR


def test_a_pair_that_is_deleted_leaves_write_and_verify_to_the_leg() -> None:
    formed = Formed()
    volume = formed.primary.logical_unit.volume
    assert formed.world.command(formed.pair, ArrayOut.PAIR_DELETE) is None
    answers: list[Buffer | VolumeError] = []
    volume.write_and_read(16, pattern(3), answers.append)
    assert answers == [pattern(3)]
    assert formed.legs[1].operations() == []
