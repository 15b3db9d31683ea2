from __future__ import annotations

import logging
from pathlib import Path

import pytest

from backends.pairs.book import PairBook
from backends.pairs.slot_file import DamagedError
from backends.pairs.store import INDEX, log_name, record_name
from scsi.array_commands import ArrayOut, FenceLevel, PairFlag, PairState
from scsi.errors import PairStateForbids
from scsi.volume import Fault, VolumeError
from tests.support.clock import VirtualScheduler
from tests.support.pair_world import FakeFences, FakeUnits, PairWorld, naa_of, pattern
from tests.support.workers import VirtualWorkers


class Formed:
    """A pair in PAIR with a write in it, and what a restart makes of it."""

    def __init__(self, *, external: str | None = "array", level: FenceLevel = FenceLevel.STATUS) -> None:
        self.world = PairWorld()
        self.primary = self.world.add_unit(1)
        self.secondary = self.world.add_unit(2, external=external)
        self.pair = self.world.create(self.primary, self.secondary, nocopy=True, level=level, label="one")
        assert self.world.written(self.primary, 16, pattern(1)) is None

    def restart(self, *, array_away: bool = False) -> None:
        if array_away:
            self.world.fences.lapsed.add("array")
        self.world.restart()
        self.primary = self.world.units.by_naa.get(naa_of(1), self.primary)
        self.secondary = self.world.units.by_naa.get(naa_of(2), self.secondary)
        self.pair = self.world.book.pairs()[0]

    def legs_equal(self) -> bool:
        return self.primary.virtual_device.data == self.secondary.virtual_device.data


def test_a_pair_is_found_by_number_and_by_either_unit() -> None:
    formed = Formed()
    book = formed.world.book
    assert book.by_number(1) is book.pair_of(naa_of(1)) is book.pair_of(naa_of(2)) is formed.pair
    assert book.by_number(2) is None
    assert book.pair_of(naa_of(3)) is None


def test_the_row_of_a_pair_says_what_it_is() -> None:
    formed = Formed()
    row = formed.world.book.row(formed.pair)
    assert row.number == 1
    assert row.state is PairState.PAIR
    assert row.fence_level is FenceLevel.STATUS
    assert row.flags == PairFlag.FENCE_HELD
    assert (row.in_sync_percent, row.blocks, row.out_of_sync_blocks) == (100, 20480, 0)
    assert (row.primary_naa, row.secondary_naa, row.label) == (naa_of(1), naa_of(2), "one")


def test_one_block_out_of_sync_is_never_a_hundred_percent() -> None:
    formed = Formed()
    formed.pair.mirror.dirty.set(0, 8)
    assert formed.pair.row().in_sync_percent == 99


def test_after_a_restart_a_pair_resyncs_only_marked_regions_then_is_compared() -> None:
    formed = Formed()
    formed.world.scheduler.advance(0.5)
    formed.primary.virtual_device.journal.clear()
    formed.restart()
    assert formed.pair.record.unverified
    formed.world.wait_state(formed.pair, PairState.PAIR)
    copied = sum(operation.blocks for operation in formed.secondary.virtual_device.journal if operation.name == "write")
    assert copied <= 8 + 8192, "the write itself, and its extent again"
    formed.world.scheduler.advance(20)
    assert formed.pair.in_sync()


def test_a_local_pair_had_no_fence_to_lapse() -> None:
    formed = Formed(external=None)
    formed.restart()
    assert not formed.pair.record.unverified
    assert not formed.pair.row().flags & PairFlag.FENCE_HELD


def test_what_went_wrong_last_is_still_known_after_a_restart() -> None:
    formed = Formed()
    formed.secondary.virtual_device.fail("write", Fault.WRITE_ERROR)
    assert formed.world.written(formed.primary, 16, pattern(2)) is None
    assert formed.pair.state is PairState.PSUE
    known = formed.pair.last_error
    assert known.startswith("the leg of")
    formed.restart()
    assert formed.pair.last_error == known


def test_after_a_restart_no_write_is_acknowledged_before_the_fence_is_held() -> None:
    formed = Formed()
    formed.restart(array_away=True)
    answers = formed.world.write(formed.primary, 100, pattern(2))
    formed.world.scheduler.advance(3)
    assert answers == []
    formed.world.fences.retake(formed.secondary.virtual_device.units[0])
    assert formed.world.ended(answers) is None
    formed.world.scheduler.advance(20)
    assert formed.legs_equal()


def test_what_a_crash_left_different_is_equal_after_the_restart() -> None:
    formed = Formed()
    formed.secondary.virtual_device.hold = True
    formed.world.write(formed.primary, 16, pattern(2))  # one leg has it when the daemon is killed
    formed.restart()
    formed.world.wait_state(formed.pair, PairState.PAIR)
    formed.world.scheduler.advance(20)
    assert formed.legs_equal()


@pytest.mark.parametrize("state", [PairState.PSUS, PairState.PSUE, PairState.SSWS])
def test_other_states_are_kept(state: PairState) -> None:
    formed = Formed()
    if state is PairState.PSUE:
        formed.pair.leg_lost(1, VolumeError(Fault.HARDWARE, "planned"))
    else:
        formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT, flags=1)
    if state is PairState.SSWS:
        formed.world.command(formed.pair, ArrayOut.PAIR_TAKEOVER, at=formed.secondary)
    formed.world.scheduler.run_until_idle()
    formed.restart()
    formed.world.scheduler.advance(20)
    assert formed.pair.state is state
    writable = formed.world.written(formed.secondary, 16, pattern(2)) is None
    assert writable == (state is not PairState.PSUE)


def test_a_second_crash_while_the_first_is_mended_loses_nothing() -> None:
    formed = Formed()
    formed.secondary.virtual_device.hold = True
    formed.world.write(formed.primary, 16, pattern(2))
    formed.restart()
    formed.secondary.virtual_device.hold = True
    formed.world.scheduler.run_until_idle()
    formed.restart()
    formed.world.wait_state(formed.pair, PairState.PAIR)
    formed.world.scheduler.advance(20)
    assert formed.legs_equal()


def test_a_leg_put_back_from_an_old_copy_while_the_daemon_was_down_is_found_and_copied() -> None:
    formed = Formed()
    formed.world.scheduler.advance(30)  # all extents closed
    formed.secondary.virtual_device.data[16 * 512 : 24 * 512] = bytes(8 * 512)
    formed.restart()
    formed.world.scheduler.advance(30)
    assert formed.legs_equal()
    assert formed.pair.in_sync()


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "another's"])
def test_marks_that_are_damaged_mean_a_full_copy(damage: str) -> None:
    formed = Formed()
    formed.world.scheduler.advance(30)
    file = formed.world.directory.files[log_name(1)]
    if damage == "cut":
        del file.data[:]
    elif damage == "flipped":
        file.data[70] ^= 1
    elif damage == "gone":
        del formed.world.directory.files[log_name(1)]
    else:
        file.data[16:32] = bytes(16)
    formed.restart(array_away=True)
    assert formed.pair.row().out_of_sync_blocks == 20480
    formed.world.fences.retake(formed.secondary.virtual_device.units[0])
    formed.world.scheduler.advance(30)
    assert formed.pair.in_sync()


def test_a_damaged_newer_slot_of_the_record_changes_nothing() -> None:
    for slot in (0, 1):
        formed = Formed(level=FenceLevel.NEVER)
        formed.pair.leg_lost(0, VolumeError(Fault.HARDWARE, "planned"))
        formed.world.scheduler.run_until_idle()
        formed.world.directory.files[record_name(1)].data[slot * 4096 + 40] ^= 1
        formed.restart()
        assert (formed.pair.state, formed.pair.record.current) == (PairState.PSUE, 1)


def test_a_record_damaged_in_both_slots_serves_nothing_until_the_pair_is_deleted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    formed = Formed()
    formed.world.directory.files[record_name(1)].data[:] = bytes(8192)
    with caplog.at_level(logging.ERROR):
        formed.restart()
    assert "nothing of it is served until it is deleted" in caplog.text
    assert (formed.pair.state, formed.pair.row().in_sync_percent) == (PairState.PSUE, 0)
    for unit in (formed.primary, formed.secondary):
        volume = unit.logical_unit.volume
        fault = volume.fault()
        assert fault is not None
        assert fault.fault is Fault.BLOCKED
        assert isinstance(formed.world.read(unit, 0, 8), VolumeError)
        assert formed.world.written(unit, 0, pattern(1)) is not None
        assert formed.world.flushed(unit) is not None
    assert isinstance(formed.world.command(formed.pair, ArrayOut.PAIR_RESYNC), PairStateForbids)
    assert formed.world.fences.holders["array"], "the fence is held all the same"
    assert formed.world.command(formed.pair, ArrayOut.PAIR_DELETE) is None
    assert formed.world.read(formed.primary, 16, 8) == pattern(1)


def test_a_pair_whose_secondary_is_missing_is_kept_and_its_primary_served_by_the_fence_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    formed = Formed()
    del formed.world.units.by_naa[naa_of(2)]
    with caplog.at_level(logging.ERROR):
        formed.restart()
    assert f"there is no LU {naa_of(2).hex()}" in caplog.text
    assert formed.world.read(formed.primary, 16, 8) == pattern(1)
    assert formed.world.written(formed.primary, 100, pattern(2)) is None
    assert formed.pair.state is PairState.PSUE


def test_an_index_that_can_not_be_read_stops_the_start_with_its_name() -> None:
    formed = Formed()
    formed.world.directory.files[INDEX].data[:] = bytes(10)
    with pytest.raises(DamagedError, match=r"pairs\.index"):
        formed.world.restart()


def test_clean_stop_stores_everything_and_drops_the_fences() -> None:
    formed = Formed()
    closed: list[int] = []
    formed.world.book.close(lambda: closed.append(1))
    formed.world.scheduler.advance(2)
    assert closed == [1]
    assert formed.world.fences.released == ["array"]
    formed.restart(array_away=True)
    assert formed.pair.row().out_of_sync_blocks == 0


def test_an_empty_book_stops_at_once() -> None:
    closed: list[int] = []
    PairWorld().book.close(lambda: closed.append(1))
    assert closed == [1]


def test_many_pairs_live_side_by_side() -> None:
    world = PairWorld()
    units = [world.add_unit(number, blocks=64) for number in range(1, 129)]
    for first, second in zip(units[::2], units[1::2], strict=True):
        world.create(first, second, nocopy=True)
    assert [pair.number for pair in world.book.pairs()] == list(range(1, 65))
    for number, unit in enumerate(units[::2]):
        assert world.written(unit, 0, pattern(number)) is None
    world.restart()
    assert len(world.book.pairs()) == 64


def test_a_book_on_a_real_directory_brings_its_pairs_back(tmp_path: Path) -> None:
    scheduler = VirtualScheduler()
    book = PairBook(scheduler, VirtualWorkers(scheduler), tmp_path / "pairs", FakeFences(), FakeUnits())
    book.load()
    assert book.pairs() == []
    assert (tmp_path / "pairs" / INDEX).exists()
    again = PairBook(scheduler, VirtualWorkers(scheduler), tmp_path / "pairs", FakeFences(), FakeUnits())
    again.load()
    assert again.pairs() == []
