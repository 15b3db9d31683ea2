from __future__ import annotations

import pytest

from backends.pairs.pair import Pair
from scsi.array_commands import ArrayOut, FenceLevel, PairState
from scsi.volume import Fault, VolumeError
from tests.support.memory_volume import Operation
from tests.support.pair_world import PairWorld, pattern


class Formed:
    """A pair in PAIR on legs that cache writes, with one write acknowledged and not flushed."""

    def __init__(self, level: FenceLevel = FenceLevel.STATUS) -> None:
        self.world = PairWorld()
        self.primary = self.world.add_unit(1, write_cache=True)
        self.secondary = self.world.add_unit(2, external="array", write_cache=True)
        self.pair: Pair = self.world.create(self.primary, self.secondary, level=level, nocopy=True)
        self.legs = (self.primary.virtual_device, self.secondary.virtual_device)
        assert self.world.written(self.primary, 16, pattern(1)) is None


def is_flush(operation: Operation) -> bool:
    return operation.name == "flush"


def test_good_comes_only_when_both_legs_have_flushed() -> None:
    formed = Formed()
    for leg in formed.legs:
        leg.hold = is_flush
    answers: list[VolumeError | None] = []
    formed.primary.logical_unit.volume.flush(answers.append)
    assert [len(leg.held) for leg in formed.legs] == [1, 1], "both are flushed at the same time"
    formed.legs[1].release()
    assert answers == []
    formed.legs[0].release()
    assert answers == [None]


@pytest.mark.parametrize("lost", [0, 1])
def test_a_leg_that_fails_a_flush_is_lost_and_the_other_one_answers(lost: int) -> None:
    formed = Formed()
    formed.legs[lost].fail("flush", Fault.WRITE_ERROR, times=1)
    assert formed.world.flushed(formed.primary) is None
    assert (formed.pair.state, formed.pair.record.current) == (PairState.PSUE, 1 - lost)
    assert formed.pair.mirror.dirty.any(16, 8), "what the failed flush may have lost is copied again"


def test_at_level_data_a_flush_that_one_leg_fails_is_no_good() -> None:
    formed = Formed(FenceLevel.DATA)
    formed.legs[1].fail("flush", Fault.WRITE_ERROR, times=1)
    error = formed.world.flushed(formed.primary)
    assert error is not None
    assert error.fault is Fault.NOT_MIRRORED


def test_good_for_a_flush_waits_until_the_lost_leg_is_on_record() -> None:
    formed = Formed()
    formed.legs[1].fail("flush", Fault.WRITE_ERROR, times=1)
    formed.world.workers.held = True
    answers: list[VolumeError | None] = []
    formed.primary.logical_unit.volume.flush(answers.append)
    formed.world.scheduler.run_until_idle()
    formed.primary.logical_unit.volume.flush(answers.append)  # finds the pair degraded, and not on record yet
    formed.world.scheduler.run_until_idle()
    assert answers == []
    formed.world.workers.run_held()
    formed.world.scheduler.run_until_idle()
    assert answers == [None, None]


def test_i8_a_flush_behind_one_that_has_failed_on_one_leg_is_answered_by_the_other_leg_alone() -> None:
    formed = Formed()
    formed.legs[0].hold = is_flush
    formed.legs[1].fail("flush", Fault.WRITE_ERROR, times=1)
    first: list[VolumeError | None] = []
    formed.primary.logical_unit.volume.flush(first.append)
    assert formed.pair.state is PairState.PSUE, "before leg 0 has answered"
    second: list[VolumeError | None] = []
    formed.primary.logical_unit.volume.flush(second.append)  # leg 1 has forgotten by now what it could not write
    formed.world.scheduler.run_until_idle()
    assert second == []
    formed.legs[0].hold = False
    formed.legs[0].release_all()
    assert [formed.world.ended(answers) for answers in (first, second)] == [None, None]


@pytest.mark.parametrize(("level", "expected"), [(FenceLevel.STATUS, None), (FenceLevel.DATA, Fault.NOT_MIRRORED)])
def test_i8_a_flush_beside_one_that_fails_on_one_leg_does_not_stand_on_that_leg(
    level: FenceLevel, expected: Fault | None
) -> None:
    formed = Formed(level)
    for leg in formed.legs:
        leg.hold = is_flush
    begun: list[list[VolumeError | None]] = [[], []]
    for answers in begun:
        formed.primary.logical_unit.volume.flush(answers.append)
    formed.legs[1].held[0].finish(VolumeError(Fault.WRITE_ERROR, "planned"))
    formed.legs[1].held[1].finish(None)
    for leg in formed.legs:
        leg.hold = False
    formed.legs[0].journal.clear()
    formed.legs[0].release_all()
    for answers in begun:
        error = formed.world.ended(answers)
        assert (error.fault if error else None) is expected
    assert formed.pair.record.failed_flushes == 0b10
    assert formed.legs[0].operations().count("flush") == (2 if expected is None else 0), "once PSUE is stable"


def test_a_failed_flush_of_both_legs_is_not_forgotten_by_one_that_works() -> None:
    formed = Formed()
    for leg in formed.legs:
        leg.fail("flush", Fault.WRITE_ERROR, times=1)
    assert formed.world.flushed(formed.primary) is not None
    assert formed.world.flushed(formed.primary) is not None
    formed.world.restart()
    primary = next(iter(formed.world.units.units()))
    assert formed.world.flushed(primary) is not None, "a restart does not make it good either"


def test_a_resync_writes_again_what_a_failed_flush_lost_on_the_source_too() -> None:
    formed = Formed()
    for leg in formed.legs:
        leg.fail("flush", Fault.WRITE_ERROR, times=1)
    formed.world.flushed(formed.primary)
    for leg in formed.legs:
        leg._unflushed.clear()  # as a kernel does: the failed write-back is forgotten
    formed.legs[0].journal.clear()
    formed.legs[1].hold = lambda operation: operation.name == "write"
    assert formed.world.command(formed.pair, ArrayOut.PAIR_RESYNC) is None
    assert formed.world.flushed(formed.primary) is not None, "not yet written again"
    formed.legs[1].release_all()
    formed.world.wait_state(formed.pair, PairState.PAIR)
    assert any(name.startswith("write") for name in formed.legs[0].operations())
    assert [leg.flush_failures_forgotten for leg in formed.legs] == [1, 1]
    assert formed.world.flushed(formed.primary) is None
    for leg in formed.legs:
        leg.power_cut()
        assert leg.data[16 * 512 : 24 * 512] == pattern(1)


def test_a_failed_flush_of_a_split_primary_is_not_forgotten() -> None:
    formed = Formed()
    formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT)
    formed.legs[0].fail("flush", Fault.WRITE_ERROR, times=1)
    assert formed.world.flushed(formed.primary) is not None
    assert formed.world.flushed(formed.primary) is not None


def test_a_flush_waits_while_a_fence_is_lapsed_and_is_then_made_again() -> None:
    formed = Formed()
    formed.world.fences.lapse(formed.legs[1].units[0])
    answers: list[VolumeError | None] = []
    formed.primary.logical_unit.volume.flush(answers.append)
    formed.world.scheduler.advance(2)
    assert answers == []
    formed.world.fences.retake(formed.legs[1].units[0])
    assert formed.world.ended(answers) is None


def test_the_secondary_flushes_its_own_leg() -> None:
    formed = Formed()
    formed.legs[0].journal.clear()
    formed.legs[1].journal.clear()
    assert formed.world.flushed(formed.secondary) is None
    assert [leg.operations() for leg in formed.legs] == [[], ["flush"]]


def test_a_write_under_way_during_a_flush_keeps_its_extent_among_the_unflushed() -> None:
    formed = Formed()
    formed.legs[1].hold = lambda operation: operation.name == "write"
    formed.world.write(formed.primary, 100, pattern(2))
    assert formed.world.flushed(formed.primary) is None
    formed.legs[1].release_all()
    assert formed.pair.log.open[0] > formed.pair.mirror.flushed
    assert formed.world.flushed(formed.primary) is None
    assert formed.pair.log.open[0] <= formed.pair.mirror.flushed


@pytest.mark.parametrize("split", [True, False])
def test_a_flush_under_way_while_another_one_fails_is_no_good_either(*, split: bool) -> None:
    formed = Formed()
    if split:
        formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT)
    for leg in formed.legs:
        leg.hold = is_flush
    first: list[VolumeError | None] = []
    second: list[VolumeError | None] = []
    formed.primary.logical_unit.volume.flush(first.append)
    formed.primary.logical_unit.volume.flush(second.append)
    for leg in formed.legs:
        if leg.held:
            leg.release(error=VolumeError(Fault.WRITE_ERROR, "planned"))
    for leg in formed.legs:
        leg.release_all()
    formed.world.scheduler.run_until_idle()
    assert len(first) == len(second) == 1
    assert first[0] is not None
    assert second[0] is not None
