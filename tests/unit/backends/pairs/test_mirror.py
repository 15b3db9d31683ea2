from __future__ import annotations

from typing import Any

import pytest

from backends.pairs.mirror_faults import WaitLimits
from backends.pairs.pair import Pair, PairOptions
from scsi.array_commands import ArrayOut, FenceLevel, PairState
from scsi.volume import Fault, VolumeError
from tests.support.memory_volume import Operation
from tests.support.pair_world import BLOCK, FakePresentedUnit, PairWorld, naa_of, pattern

EXTENT = 8192  # blocks of 512 bytes


class Formed:
    """A pair in PAIR, of a local primary and an external secondary."""

    def __init__(self, level: int = FenceLevel.STATUS, **options: Any) -> None:
        self.world = PairWorld()
        self.primary = self.world.add_unit(1, **options)
        self.secondary = self.world.add_unit(2, external="array", **options)
        self.pair = self.world.create(self.primary, self.secondary, level=level, nocopy=True)
        self.legs = (self.primary.virtual_device, self.secondary.virtual_device)
        for leg in self.legs:
            leg.journal.clear()


def is_write(operation: Operation) -> bool:
    return operation.name == "write"


def test_a_write_is_answered_once_when_both_legs_have_it() -> None:
    formed = Formed()
    formed.legs[1].hold = is_write
    answers = formed.world.write(formed.primary, 16, pattern(1))
    formed.world.scheduler.run_until_idle()
    assert answers == []
    assert formed.legs[0].operations() == ["write 16+8"]
    formed.legs[1].release()
    assert answers == [None]
    assert formed.legs[0].data == formed.legs[1].data


def test_the_same_buffer_goes_to_both_legs() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 0, pattern(0))
    seen: list[int] = []
    for leg in formed.legs:
        original = leg.write

        def write(lba: int, data: object, fua: bool, done: object, original: object = original) -> None:
            seen.append(id(data))
            original(lba, data, fua, done)  # type: ignore[operator]  # it is the leg's own

        leg.write = write  # type: ignore[method-assign]  # to see what it is given
    data = memoryview(bytearray(pattern(1)))
    formed.world.written(formed.primary, 16, data)
    assert seen == [id(data), id(data)]


def test_fua_reaches_both_legs() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 16, pattern(1), fua=True)
    assert [leg.operations() for leg in formed.legs] == [["write 16+8 fua"]] * 2


def test_no_leg_sees_a_write_before_its_extent_is_open_on_stable_storage() -> None:
    formed = Formed()
    formed.world.workers.held = True
    answers = formed.world.write(formed.primary, 16, pattern(1))
    formed.world.scheduler.run_until_idle()
    assert [leg.operations() for leg in formed.legs] == [[], []]
    formed.world.workers.run_held()
    formed.world.scheduler.run_until_idle()
    assert answers == [None]


def test_writes_in_an_open_extent_need_no_step_of_the_log() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 16, pattern(1))
    steps = formed.world.directory.steps
    for lba in range(0, EXTENT - 8, 1000):
        assert formed.world.write(formed.primary, lba, pattern(lba)) == [None]
    assert formed.world.directory.steps == steps


def test_a_write_over_the_edge_of_two_extents_opens_both() -> None:
    formed = Formed()
    assert formed.world.written(formed.primary, EXTENT - 4, pattern(1)) is None
    assert set(formed.pair.log.open) == {0, 1}
    assert formed.legs[0].data == formed.legs[1].data


def test_overlapping_writes_reach_both_legs_in_one_order() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 0, pattern(0))
    for leg in formed.legs:
        leg.hold = is_write
    first = formed.world.write(formed.primary, 16, pattern(1))
    second = formed.world.write(formed.primary, 20, pattern(2))
    elsewhere = formed.world.write(formed.primary, 100, pattern(3))
    assert [leg.operations()[1:] for leg in formed.legs] == [["write 16+8", "write 100+8"]] * 2
    formed.legs[0].release()
    formed.legs[1].release(1)
    assert (first, second, elsewhere) == ([], [], [])
    formed.legs[1].release(0)
    assert first == [None]
    for leg in formed.legs:
        leg.release_all()
    assert (second, elsewhere) == ([None], [None])
    assert formed.legs[0].data == formed.legs[1].data


def test_the_secondary_can_be_read_and_not_written() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 16, pattern(1))
    assert formed.world.read(formed.secondary, 16, 8) == pattern(1)
    error = formed.world.written(formed.secondary, 16, pattern(2))
    assert isinstance(error, VolumeError)
    assert error.fault is Fault.WRITE_PROTECTED
    assert formed.secondary.logical_unit.volume.read_only
    assert not formed.primary.logical_unit.volume.read_only


def test_the_primary_reads_the_current_leg() -> None:
    formed = Formed()
    formed.world.read(formed.primary, 0, 8)
    assert [leg.operations() for leg in formed.legs] == [["read 0+8"], []]


def test_a_read_error_is_served_by_the_other_leg_and_repaired() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 16, pattern(1))
    formed.legs[0].data[16 * BLOCK : 24 * BLOCK] = bytes(8 * BLOCK)
    formed.legs[0].fail("read", Fault.READ_ERROR, 16, 8, times=1)
    assert formed.world.read(formed.primary, 16, 8) == pattern(1)
    formed.world.scheduler.run_until_idle()
    assert formed.legs[0].data == formed.legs[1].data
    assert formed.pair.state is PairState.PAIR


def test_a_repair_writes_whole_pages() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 16, pattern(1))
    formed.legs[0].fail("read", Fault.READ_ERROR, 19, 1, times=1)
    assert formed.world.read(formed.primary, 19, 2) == pattern(1)[3 * BLOCK : 5 * BLOCK]
    formed.world.scheduler.run_until_idle()
    assert formed.legs[0].operations()[-1] == "write 16+8"
    assert formed.legs[0].data == formed.legs[1].data


def test_a_bad_block_beside_it_on_the_other_leg_fails_no_read() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 16, pattern(1))
    formed.legs[0].fail("read", Fault.READ_ERROR, 19, 1, times=1)
    formed.legs[1].fail("read", Fault.READ_ERROR, 23, 1)
    assert formed.world.read(formed.primary, 19, 1) == pattern(1)[3 * BLOCK : 4 * BLOCK]
    formed.legs[0].fail("read", Fault.READ_ERROR, 19, 1)
    formed.legs[1].fail("read", Fault.READ_ERROR, 19, 1)
    assert isinstance(formed.world.read(formed.primary, 19, 1), VolumeError)


def test_a_leg_that_can_not_be_repaired_is_lost() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 16, pattern(1))
    formed.legs[0].fail("any", Fault.READ_ERROR, 16, 8)
    assert formed.world.read(formed.primary, 16, 8) == pattern(1)
    formed.world.scheduler.run_until_idle()
    assert (formed.pair.state, formed.pair.record.current) == (PairState.PSUE, 1)


def test_dirty_blocks_are_never_read_from_the_other_leg() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 16, pattern(1))
    formed.pair.mirror.dirty.set(16, 8)
    formed.legs[0].fail("read", Fault.READ_ERROR, 16, 8)
    result = formed.world.read(formed.primary, 16, 8)
    assert isinstance(result, VolumeError)
    assert not [name for name in formed.legs[1].operations() if name.startswith("read")]


def test_a_fallback_read_waits_for_a_write_under_way() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 16, pattern(1))
    formed.legs[1].hold = is_write
    formed.world.write(formed.primary, 16, pattern(2))  # leg 0 has it, leg 1 not yet
    formed.legs[0].fail("read", Fault.READ_ERROR, 16, 8, times=1)
    results: list[object] = []
    formed.primary.logical_unit.volume.read(16, 8, results.append)
    formed.world.scheduler.run_until_idle()
    assert results == []
    formed.legs[1].release()
    assert results == [pattern(2)]


def test_after_the_current_leg_was_lost_reads_wait_for_writes_that_may_have_been_seen() -> None:
    formed = Formed(level=FenceLevel.NEVER)
    world = formed.world
    world.written(formed.primary, 16, pattern(1))
    formed.legs[1].hold = is_write
    world.write(formed.primary, 16, pattern(2))
    assert world.read(formed.primary, 16, 8) == pattern(2)
    formed.pair.leg_lost(0, VolumeError(Fault.HARDWARE, "planned"))
    results: list[object] = []
    formed.primary.logical_unit.volume.read(16, 8, results.append)
    assert results == []
    formed.legs[1].release_all()
    world.scheduler.run_until_idle()
    assert results == [pattern(2)]


def test_a_read_that_a_leg_answers_when_it_is_current_no_more_is_made_anew() -> None:
    formed = Formed(level=FenceLevel.NEVER)
    formed.world.written(formed.primary, 16, pattern(1))
    formed.legs[0].hold = lambda operation: operation.name == "read"
    results: list[object] = []
    formed.primary.logical_unit.volume.read(16, 8, results.append)
    formed.pair.leg_lost(0, VolumeError(Fault.HARDWARE, "planned"))
    formed.legs[0].data[16 * BLOCK : 24 * BLOCK] = bytes(8 * BLOCK)  # it came back without its cache
    formed.legs[0].release()
    formed.world.scheduler.run_until_idle()
    assert results == [pattern(1)]


def test_what_the_legs_answered_while_the_daemon_stood_still_is_acknowledged_once_the_fence_is_verified() -> None:
    formed = Formed()
    fences = formed.world.fences
    (unit,) = formed.secondary.virtual_device.units

    def stood_still() -> bool:
        formed.pair.mirror.steady = None
        fences.lapse(unit)
        return False

    formed.pair.mirror.steady = stood_still
    answers = formed.world.write(formed.primary, 16, pattern(1))
    formed.world.scheduler.run_until_idle()
    assert answers == []
    fences.retake(unit)
    assert answers == [None]


def test_a_split_pair_writes_the_primary_alone_and_marks_first() -> None:
    formed = Formed()
    assert formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT) is None
    formed.legs[0].hold = is_write
    formed.world.write(formed.primary, 16, pattern(1))
    formed.world.scheduler.run_until_idle()
    assert formed.pair.mirror.dirty.any(16, 8)
    formed.legs[0].release()
    assert not [name for name in formed.legs[1].operations() if name.startswith("write")]
    assert formed.pair.row().out_of_sync_blocks == 8


def test_a_dissolved_pair_lets_held_writes_go_to_their_own_legs() -> None:
    formed = Formed()
    formed.pair.mirror.hold("test")
    answers = formed.world.write(formed.primary, 16, pattern(1))
    formed.pair.mirror.dissolve()
    assert answers == [None]
    assert formed.legs[0].operations() == ["write 16+8"]
    assert formed.legs[1].operations() == []


def test_sizes_are_the_records_whatever_a_leg_says_now() -> None:
    formed = Formed()
    volume = formed.primary.logical_unit.volume
    formed.legs[0].blocks = 5
    assert (volume.blocks, volume.block_bytes) == (20480, 512)


def test_a_leg_with_another_size_than_it_was_paired_with_is_not_used() -> None:
    formed = Formed()
    formed.legs[1].blocks += 1
    formed.legs[1].set_unready(None)
    error = formed.world.written(formed.primary, 16, pattern(1))
    assert error is None
    assert formed.pair.state is PairState.PSUE
    assert formed.legs[1].operations() == []


@pytest.mark.parametrize("caches", [(False, False), (True, False), (False, True)])
def test_a_write_cache_on_either_leg_is_reported(caches: tuple[bool, bool]) -> None:
    world = PairWorld()
    primary = world.add_unit(1, write_cache=caches[0])
    secondary = world.add_unit(2, write_cache=caches[1])
    world.create(primary, secondary)
    assert primary.logical_unit.volume.write_cache == any(caches)


def test_the_smaller_transfer_limit_holds() -> None:
    formed = Formed()
    formed.legs[0].max_transfer_blocks = 100
    assert formed.primary.logical_unit.volume.max_transfer_blocks == 100
    formed.legs[1].max_transfer_blocks = 50
    assert formed.primary.logical_unit.volume.max_transfer_blocks == 50


# --- Waits are bounded ---


def wait(world: PairWorld, answers: list[VolumeError | None]) -> tuple[float, VolumeError | None]:
    began = world.scheduler.now()
    answer = world.ended(answers, 30)
    return world.scheduler.now() - began, answer


def test_a_leg_that_does_not_answer_is_lost_within_15_seconds() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 0, pattern(0))
    formed.legs[1].hold = is_write
    took, answer = wait(formed.world, formed.world.write(formed.primary, 16, pattern(1)))
    assert answer is None
    assert took < 15
    assert formed.pair.state is PairState.PSUE
    assert formed.pair.faults.stragglers == [0, 1]
    formed.legs[1].release()
    assert formed.pair.faults.stragglers == [0, 0]


@pytest.mark.parametrize("command", [ArrayOut.PAIR_RESYNC, ArrayOut.PAIR_DELETE])
def test_neither_resync_nor_delete_while_the_lost_leg_may_still_write_old_data(command: ArrayOut) -> None:
    formed = Formed()
    formed.world.written(formed.primary, 0, pattern(0))
    formed.legs[1].hold = is_write
    wait(formed.world, formed.world.write(formed.primary, 16, pattern(1)))
    refusal = formed.world.command(formed.pair, command)
    assert refusal is not None
    assert (refusal.key, refusal.asc, refusal.ascq) == (2, 0x80, 6)
    assert formed.world.written(formed.primary, 32, pattern(2)) is None
    formed.legs[1].release_all()
    assert formed.world.command(formed.pair, command) is None


def test_when_no_leg_answers_the_host_gets_an_error_and_the_pair_stays() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 0, pattern(0))
    for leg in formed.legs:
        leg.hold = is_write
    took, answer = wait(formed.world, formed.world.write(formed.primary, 16, pattern(1)))
    assert answer is not None
    assert answer.fault is Fault.TIMED_OUT
    assert took < 15
    for leg in formed.legs:
        leg.release_all()
    assert formed.pair.state is PairState.PAIR


def test_a_mark_that_can_not_be_made_stable_in_time_refuses_the_write() -> None:
    formed = Formed()
    formed.world.workers.held = True
    took, answer = wait(formed.world, formed.world.write(formed.primary, 16, pattern(1)))
    assert answer is not None
    assert answer.fault is Fault.NOT_MIRRORED
    assert took < 15
    formed.world.workers.run_held()
    formed.world.scheduler.run_until_idle()
    assert formed.legs[0].operations() == [], "a write that was answered is not begun later"


def test_a_mark_that_can_not_be_written_refuses_the_write_at_every_level() -> None:
    for level in FenceLevel:
        formed = Formed(level=level)
        formed.world.directory.error = OSError(5, "Input/output error")
        answer = formed.world.written(formed.primary, 16, pattern(1))
        assert answer is not None
        assert answer.fault is Fault.NOT_MIRRORED
        assert formed.legs[0].operations() == []


def test_time_stands_still_while_nothing_is_under_way() -> None:
    formed = Formed()
    formed.world.written(formed.primary, 16, pattern(1))
    formed.world.scheduler.advance(60)
    assert formed.pair.log.open == {}
    assert formed.world.scheduler.next_deadline() is None


def unit_of(world: PairWorld, number: int) -> FakePresentedUnit:
    return world.units.by_naa[naa_of(number)]


def test_limits_can_be_set() -> None:
    world = PairWorld(options=PairOptions(limits=WaitLimits(hold_s=1, write_s=2)))
    primary, secondary = world.add_unit(1), world.add_unit(2, external="array")
    pair: Pair = world.create(primary, secondary, nocopy=True)
    world.written(primary, 0, pattern(0))
    secondary.virtual_device.hold = is_write
    took, answer = wait(world, world.write(primary, 16, pattern(1)))
    assert (answer, pair.state) == (None, PairState.PSUE)
    assert took <= 3.5
