from __future__ import annotations

import pytest

from backends.pairs.pair import Pair
from scsi.array_commands import ArrayOut, FenceLevel, PairFlag, PairState
from scsi.volume import Fault, VolumeError
from tests.support.memory_volume import Operation
from tests.support.pair_world import LINK_LOST, FakeUnit, PairWorld, pattern

NEVER, STATUS, DATA = FenceLevel.NEVER, FenceLevel.STATUS, FenceLevel.DATA
FAR = 20000  # behind what a comparison begins with
AWAY = VolumeError(Fault.BECOMING_READY, "planned")


class Formed:
    """A pair in PAIR with one extent open; leg 0 is local, leg 1 external unless `external_leg` says otherwise."""

    def __init__(self, level: FenceLevel, *, external_leg: int = 1) -> None:
        self.world = PairWorld()
        names = ["array" if leg == external_leg else None for leg in (0, 1)]
        self.primary = self.world.add_unit(1, external=names[0])
        self.secondary = self.world.add_unit(2, external=names[1])
        self.pair: Pair = self.world.create(self.primary, self.secondary, level=level, nocopy=True)
        self.legs = (self.primary.virtual_device, self.secondary.virtual_device)
        self.external = self.legs[external_leg]
        assert self.world.written(self.primary, 0, pattern(0)) is None

    def lose_link(self) -> None:
        self.external.set_unready(AWAY)
        self.world.fences.lapse(self.unit)
        held, self.external.held = self.external.held, []
        for operation in held:
            operation.finish(LINK_LOST)

    def link_back(self) -> None:
        self.external.hold = False
        self.world.fences.retake(self.unit)
        self.external.set_unready(None)

    @property
    def unit(self) -> FakeUnit:
        return self.external.units[0]


def is_write(operation: Operation) -> bool:
    return operation.name == "write"


def fault(answer: VolumeError | None) -> Fault | None:
    return None if answer is None else answer.fault


@pytest.mark.parametrize(
    ("level", "lost", "expected", "current"),
    [
        (NEVER, 1, None, 0),
        (STATUS, 1, None, 0),
        (DATA, 1, Fault.NOT_MIRRORED, 0),
        (NEVER, 0, None, 1),
        (STATUS, 0, None, 1),
        (DATA, 0, Fault.NOT_MIRRORED, 1),
    ],
)
def test_a_write_that_one_leg_fails_is_answered_by_the_fence_level(
    level: FenceLevel, lost: int, expected: Fault | None, current: int
) -> None:
    formed = Formed(level)
    formed.legs[lost].fail("write", Fault.WRITE_ERROR, 16, 8)
    assert fault(formed.world.written(formed.primary, 16, pattern(1))) is expected
    assert (formed.pair.state, formed.pair.record.current) == (PairState.PSUE, current)
    assert formed.pair.mirror.dirty.any(16, 8)
    assert formed.primary.logical_unit.attentions[-1] == (0x80, 0x80, None)
    assert formed.secondary.logical_unit.attentions[-1] == (0x80, 0x80, None)


@pytest.mark.parametrize(("level", "lost", "at_once"), [(NEVER, 1, True), (STATUS, 1, False), (NEVER, 0, False)])
def test_good_waits_for_the_state_where_a_restart_must_know_it(level: FenceLevel, lost: int, *, at_once: bool) -> None:
    formed = Formed(level)
    formed.world.workers.held = True
    formed.legs[lost].fail("write", Fault.WRITE_ERROR, 16, 8)
    answers = formed.world.write(formed.primary, 16, pattern(1))
    later = formed.world.write(formed.primary, 100, pattern(2))
    formed.world.scheduler.run_until_idle()
    assert (answers, later) == (([None], [None]) if at_once else ([], []))
    formed.world.workers.run_held()
    formed.world.scheduler.run_until_idle()
    assert (answers, later) == ([None], [None])


def test_a_state_that_can_not_be_made_stable_is_no_good_at_level_status() -> None:
    formed = Formed(STATUS)
    formed.world.directory.error = OSError(5, "Input/output error")
    formed.legs[1].fail("write", Fault.WRITE_ERROR, 16, 8)
    assert fault(formed.world.written(formed.primary, 16, pattern(1))) is Fault.NOT_MIRRORED
    formed.world.directory.error = None
    assert formed.world.written(formed.primary, 100, pattern(2)) is None, "it is tried again, and works"


def test_at_level_data_the_primary_is_read_only_afterwards_and_still_read() -> None:
    formed = Formed(DATA)
    formed.legs[1].fail("write", Fault.WRITE_ERROR, 16, 8)
    formed.world.written(formed.primary, 16, pattern(1))
    assert fault(formed.world.written(formed.primary, 100, pattern(2))) is Fault.WRITE_PROTECTED
    assert formed.world.read(formed.primary, 0, 8) == pattern(0)


def test_when_both_legs_fail_the_host_gets_the_error_and_the_legs_are_made_equal() -> None:
    formed = Formed(STATUS)
    formed.legs[0].fail("write", Fault.WRITE_ERROR, 16, 8, times=1)
    formed.legs[1].fail("write", Fault.NO_SPACE, 16, 8, times=1)
    formed.legs[0].data[16 * 512 : 20 * 512] = pattern(9, 4)
    assert fault(formed.world.written(formed.primary, 16, pattern(1))) is Fault.WRITE_ERROR
    formed.world.wait_state(formed.pair, PairState.PAIR)
    assert formed.legs[0].data == formed.legs[1].data


def test_a_degraded_write_goes_to_the_good_leg_alone_even_through_a_crash() -> None:
    formed = Formed(NEVER)
    formed.legs[1].fail("write", Fault.WRITE_ERROR)
    formed.world.written(formed.primary, 16, pattern(1))
    formed.world.written(formed.primary, 12000, pattern(2))
    formed.legs[1].heal()
    formed.world.restart()
    pair = formed.world.book.pairs()[0]
    assert pair.state is PairState.PSUE
    assert pair.mirror.dirty.any(16, 8)
    assert pair.mirror.dirty.any(12000, 8)


def test_after_the_primarys_leg_was_lost_a_restart_reads_the_secondarys() -> None:
    formed = Formed(NEVER)
    formed.legs[0].fail("write", Fault.WRITE_ERROR, 16, 8)
    assert formed.world.written(formed.primary, 16, pattern(1)) is None
    formed.legs[0].heal()
    formed.world.restart()
    primary = next(iter(formed.world.units.units()))
    assert formed.world.read(primary, 16, 8) == pattern(1)


# --- Lapses ---


def test_nothing_is_acknowledged_while_the_fence_is_not_verified() -> None:
    formed = Formed(STATUS)
    formed.legs[1].hold = is_write
    under_way = formed.world.write(formed.primary, 16, pattern(1))
    formed.world.fences.lapse(formed.unit)
    formed.legs[1].release_all()
    new = formed.world.write(formed.primary, 100, pattern(2))
    formed.world.scheduler.advance(3)
    assert (under_way, new) == ([], [])
    formed.world.fences.retake(formed.unit)
    formed.world.scheduler.run_until_idle()
    assert (under_way, new) == ([None], [None])
    assert [operation.name for operation in formed.legs[1].journal].count("read") >= 10, "the legs were compared"


@pytest.mark.parametrize("stood_still", [False, True])
def test_i6_what_the_external_leg_alone_has_is_not_acknowledged_before_its_fence_is_verified(
    *, stood_still: bool
) -> None:
    formed = Formed(STATUS)
    formed.world.workers.held = True
    formed.legs[0].fail("write", Fault.WRITE_ERROR, 16, 8)
    answers = formed.world.write(formed.primary, 16, pattern(1))
    formed.world.scheduler.run_until_idle()
    if stood_still:  # and nobody has noticed yet

        def notice() -> bool:
            formed.pair.mirror.steady = None
            formed.world.fences.lapse(formed.unit)
            return False

        formed.pair.mirror.steady = notice
    else:
        formed.world.fences.lapse(formed.unit)
    formed.world.workers.run_held()
    formed.world.scheduler.run_until_idle()
    assert formed.pair.record.current == 1
    assert answers == []
    formed.world.fences.retake(formed.unit)
    assert formed.world.ended(answers) is None


@pytest.mark.parametrize("slow", [False, True])
def test_i1_what_a_source_confirmed_before_its_array_lost_power_is_sent_again_before_it_is_acknowledged(
    *, slow: bool
) -> None:
    world = PairWorld()
    primary, secondary = world.add_unit(1, external="array"), world.add_unit(2)
    source, target = primary.virtual_device, secondary.virtual_device
    target.hold = is_write  # so that the initial copy goes on
    assert world.ended(world.begin_create(primary, secondary)) is None
    answers = world.write(primary, FAR, pattern(1))
    world.scheduler.run_until_idle()
    place = slice(FAR * 512, (FAR + 8) * 512)
    assert source.data[place] == pattern(1)
    source.set_unready(AWAY)
    world.fences.lapse(source.units[0])
    source.data[place] = bytes(8 * 512)  # it was in the array's cache
    if not slow:
        target.release_all()
    assert answers == []
    world.fences.retake(source.units[0])
    source.set_unready(None)
    if slow:
        target.release_all()
    assert world.ended(answers) is None
    (pair,) = world.book.pairs()
    world.wait_state(pair, PairState.PAIR)
    assert source.data[place] == target.data[place] == pattern(1)


def test_a_write_under_way_when_the_link_is_lost_is_sent_again_before_any_newer_one() -> None:
    formed = Formed(STATUS)
    formed.legs[1].hold = is_write
    old = formed.world.write(formed.primary, 16, pattern(1))
    formed.lose_link()
    newer = formed.world.write(formed.primary, 16, pattern(2))
    formed.world.scheduler.advance(2)
    formed.legs[1].journal.clear()
    formed.link_back()
    formed.world.wait_state(formed.pair, PairState.PAIR)
    assert (old, newer) == ([None], [None])
    writes = [operation.data for operation in formed.legs[1].journal if operation.name == "write"]
    assert writes.index(pattern(1)) < writes.index(pattern(2))
    assert formed.legs[0].data == formed.legs[1].data


def test_after_a_lapse_the_legs_are_compared_and_what_differs_is_copied() -> None:
    formed = Formed(STATUS)
    formed.lose_link()
    formed.legs[1].data[15000 * 512 : 15008 * 512] = pattern(66)  # somebody else writes past annex
    formed.link_back()
    assert formed.pair.row().flags & PairFlag.UNVERIFIED
    formed.world.wait_state(formed.pair, PairState.PAIR)
    formed.world.scheduler.advance(10)
    assert formed.legs[0].data == formed.legs[1].data
    assert not formed.pair.row().flags & PairFlag.UNVERIFIED
    assert formed.pair.state is PairState.PAIR


def test_only_the_current_leg_is_read_until_the_comparison_is_over() -> None:
    formed = Formed(STATUS)
    formed.lose_link()
    formed.legs[1].data[15000 * 512 : 15008 * 512] = pattern(66)
    formed.legs[0].hold = lambda operation: operation.name == "read" and operation.blocks > 8
    formed.link_back()
    assert formed.world.read(formed.secondary, 15000, 8) == bytes(8 * 512)
    formed.legs[0].release_all()
    formed.world.scheduler.advance(10)
    assert formed.world.read(formed.secondary, 15000, 8) == bytes(8 * 512)


def test_what_was_not_flushed_before_a_lapse_is_copied_again() -> None:
    formed = Formed(STATUS)
    formed.world.written(formed.primary, 16, pattern(1))
    formed.lose_link()
    formed.legs[1].data[16 * 512 : 24 * 512] = bytes(8 * 512)  # the array lost its cache
    formed.legs[0].hold = lambda operation: operation.name == "read"
    formed.link_back()
    assert formed.pair.state is PairState.COPY
    assert formed.pair.mirror.dirty.any(16, 8)
    formed.legs[0].release_all()
    formed.world.wait_state(formed.pair, PairState.PAIR)
    assert formed.legs[0].data == formed.legs[1].data


def test_what_was_flushed_before_a_lapse_is_not_copied_again() -> None:
    formed = Formed(STATUS)
    formed.world.written(formed.primary, 16, pattern(1))
    assert formed.world.flushed(formed.primary) is None
    formed.lose_link()
    formed.legs[0].hold = lambda operation: operation.name == "read"
    formed.link_back()
    assert formed.pair.state is PairState.PAIR


def test_a_fence_that_does_not_come_back_in_time_costs_the_leg_by_the_fence_level() -> None:
    for level, expected in ((NEVER, None), (STATUS, None), (DATA, Fault.NOT_MIRRORED)):
        formed = Formed(level)
        formed.legs[1].hold = is_write
        answers = formed.world.write(formed.primary, 16, pattern(1))
        formed.lose_link()
        began = formed.world.scheduler.now()
        assert fault(formed.world.ended(answers)) is expected
        assert formed.world.scheduler.now() - began < 15
        assert formed.pair.state is PairState.PSUE


def test_without_a_write_a_pair_waits_for_its_array_as_long_as_it_takes() -> None:
    formed = Formed(STATUS)
    formed.lose_link()
    formed.world.scheduler.advance(3600)
    assert formed.pair.state is PairState.PAIR
    formed.link_back()
    assert formed.world.written(formed.primary, 16, pattern(1)) is None


@pytest.mark.slow
def test_a_link_that_flaps_loses_no_mark() -> None:
    formed = Formed(STATUS)
    for number in range(20):
        formed.world.write(formed.primary, 16 + 8 * number, pattern(number))
        formed.lose_link()
        formed.world.scheduler.advance(0.6)
        formed.link_back()
        formed.world.scheduler.advance(0.6)
    formed.world.scheduler.advance(20)
    assert formed.pair.in_sync()
    assert formed.legs[0].data == formed.legs[1].data


def test_a_reservation_conflict_is_waited_out_like_a_lost_link() -> None:
    formed = Formed(STATUS)
    formed.legs[1].fail("write", Fault.RESERVATION_CONFLICT, 16, 8, times=1)
    answers = formed.world.write(formed.primary, 16, pattern(1))
    formed.world.fences.lapse(formed.unit)
    formed.world.scheduler.advance(1)
    assert answers == []
    formed.world.fences.retake(formed.unit)
    assert formed.world.ended(answers) is None
    assert formed.pair.state is not PairState.PSUE


def test_a_write_that_a_leg_with_its_path_was_not_ready_for_is_sent_again() -> None:
    formed = Formed(STATUS)
    formed.legs[1].fail("write", Fault.BECOMING_READY, times=2)
    answers = formed.world.write(formed.primary, 64, pattern(1))
    formed.world.scheduler.advance(4)
    assert answers == [None]
    assert formed.pair.state is PairState.PAIR
    assert formed.legs[0].data == formed.legs[1].data


def test_a_write_that_both_legs_fail_differently_blocks_nothing_afterwards() -> None:
    formed = Formed(STATUS)
    formed.legs[0].fail("write", Fault.WRITE_ERROR)
    formed.legs[0].fail("flush", Fault.WRITE_ERROR)
    formed.legs[1].fail("write", Fault.BECOMING_READY)
    answers = formed.world.write(formed.primary, 64, pattern(1))
    flushed: list[VolumeError | None] = []
    formed.primary.logical_unit.volume.flush(flushed.append)
    formed.world.scheduler.advance(16)
    assert len(answers) == len(flushed) == 1
    for leg in formed.legs:
        leg.heal()
    formed.world.scheduler.advance(4)
    assert not formed.pair.mirror.order


def test_a_local_leg_whose_path_fault_can_not_heal_is_lost_at_once() -> None:
    formed = Formed(STATUS)
    formed.legs[0].fail("write", Fault.BUSY, 16, 8)
    assert formed.world.written(formed.primary, 16, pattern(1)) is None
    assert (formed.pair.state, formed.pair.record.current) == (PairState.PSUE, 1)


def test_a_current_leg_that_lapsed_gives_way_to_the_one_that_did_not() -> None:
    formed = Formed(STATUS, external_leg=0)
    formed.world.written(formed.primary, 16, pattern(1))
    formed.lose_link()
    formed.legs[0].data[16 * 512 : 24 * 512] = bytes(8 * 512)  # its cache is gone
    formed.link_back()
    assert formed.world.read(formed.primary, 16, 8) == pattern(1)
    formed.world.scheduler.advance(20)
    assert formed.pair.in_sync()
    assert formed.pair.record.current == 0, "verified, the primary is read from its own leg again"
    assert formed.legs[0].data == formed.legs[1].data


def test_a_lapse_of_a_split_pair_holds_no_write_of_the_local_primary() -> None:
    formed = Formed(STATUS)
    assert formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT) is None
    formed.lose_link()
    assert formed.world.written(formed.primary, 16, pattern(1)) is None
    formed.link_back()
    assert formed.world.command(formed.pair, ArrayOut.PAIR_RESYNC) is None
    formed.world.wait_state(formed.pair, PairState.PAIR)
    formed.world.scheduler.advance(20)
    assert formed.pair.in_sync()


def test_a_primary_that_fails_while_the_fence_of_the_other_is_lapsed_stays_current() -> None:
    formed = Formed(STATUS)
    formed.world.fences.lapse(formed.unit)
    formed.pair.leg_lost(0, VolumeError(Fault.HARDWARE, "planned"))
    assert (formed.pair.state, formed.pair.record.current) == (PairState.PSUE, 0)


def test_a_source_that_fails_a_write_during_a_copy_gives_the_host_its_error() -> None:
    formed = Formed(NEVER)
    formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT)
    formed.world.written(formed.primary, 100, pattern(1))
    formed.legs[0].hold = lambda operation: operation.name == "read"
    formed.world.command(formed.pair, ArrayOut.PAIR_RESYNC)
    formed.legs[0].fail("write", Fault.WRITE_ERROR, 16, 8, times=1)
    assert fault(formed.world.written(formed.primary, 16, pattern(2))) is Fault.WRITE_ERROR
    assert (formed.pair.state, formed.pair.record.current) == (PairState.PSUE, 0)


def copying_with_writes_held(level: FenceLevel) -> Formed:
    """A pair in COPY from leg 0, which answers no read or write until it is released."""
    formed = Formed(level)
    formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT)
    formed.world.written(formed.primary, 100, pattern(1))
    formed.legs[0].hold = True
    formed.world.command(formed.pair, ArrayOut.PAIR_RESYNC)
    return formed


@pytest.mark.parametrize("level", FenceLevel)
def test_what_was_on_its_way_to_a_source_that_failed_lands_before_any_newer_write(level: FenceLevel) -> None:
    formed = copying_with_writes_held(level)
    older = formed.world.write(formed.primary, 16, pattern(2))
    failing = formed.world.write(formed.primary, 64, pattern(3))
    newer = formed.world.write(formed.primary, 16, pattern(4))
    formed.world.scheduler.run_until_idle()
    at = [str(operation) for operation in formed.legs[0].held].index("write 64+8")
    formed.legs[0].release(at, VolumeError(Fault.WRITE_ERROR, "planned"))
    formed.world.scheduler.run_until_idle()
    assert (formed.pair.state, formed.pair.record.current) == (PairState.PSUE, 0)
    assert [fault(answer) for answer in failing] == [Fault.WRITE_ERROR]
    assert (older, newer) == ([], []), "the source is in use still, and has not answered"
    formed.legs[0].release_all()
    formed.world.scheduler.run_until_idle()
    assert older == [None]
    if level is not DATA:  # at which the primary is read-only by now
        assert newer == [None]
        assert formed.world.read(formed.primary, 16, 8) == pattern(4)


def test_a_source_that_answers_no_more_costs_no_write_more_than_15_seconds() -> None:
    formed = copying_with_writes_held(STATUS)
    answers = formed.world.write(formed.primary, 16, pattern(2))
    formed.world.scheduler.advance(14.9)
    assert [fault(answer) for answer in answers] == [Fault.TIMED_OUT]
    formed.legs[0].release_all()
    formed.world.scheduler.run_until_idle()
    assert len(answers) == 1
    assert formed.world.written(formed.primary, 16, pattern(3)) is None
    assert formed.world.read(formed.primary, 16, 8) == pattern(3)


def test_a_read_error_of_the_current_leg_is_not_served_by_a_leg_that_is_not_verified() -> None:
    formed = Formed(STATUS)
    formed.legs[0].hold = lambda operation: operation.name == "read" and operation.blocks > 8
    formed.world.fences.lapse(formed.unit)
    formed.world.fences.retake(formed.unit)
    formed.legs[0].fail("read", Fault.READ_ERROR, 15000, 8)
    assert isinstance(formed.world.read(formed.primary, 15000, 8), VolumeError)


def test_a_copy_to_the_leg_that_was_current_waits_until_that_is_stable() -> None:
    formed = Formed(STATUS, external_leg=0)
    formed.world.written(formed.primary, 16, pattern(1))
    formed.lose_link()
    formed.world.workers.held = True
    formed.legs[0].journal.clear()
    formed.link_back()
    formed.world.scheduler.advance(3)
    assert formed.pair.record.current == 1
    assert formed.legs[0].operations() == []
    formed.world.workers.run_held()
    formed.world.scheduler.advance(20)
    assert formed.pair.in_sync()
