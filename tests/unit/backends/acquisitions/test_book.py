"""Acquisitions: their life, their limits, and that no way out of one leaves a fence behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import crc32c
import pytest

from backends.acquisitions.acquisition import Acquisition, Subject
from backends.acquisitions.book import AcquisitionOptions, Acquisitions
from backends.acquisitions.snapshot_read import SnapshotReadOptions
from scsi.array_commands import AcquisitionState
from scsi.errors import (
    AcquiredByAnotherHost,
    AcquiredDataNotReady,
    AcquisitionFenceRefused,
    AcquisitionIdInUse,
    AcquisitionLimitReached,
    Busy,
    InvalidFieldInCdb,
    NoSuchAcquisition,
    ScsiError,
    UnrecoveredReadError,
)
from scsi.volume import Fault, VolumeError
from tests.support.clock import VirtualScheduler
from tests.support.fence_keeper import FakeFenceKeeper, FakeUnit
from tests.support.gated_volume import GatedMemoryVolume

BLOCK = 512
NAA = bytes.fromhex("60" + "00" * 14 + "01")
ALICE, BOB = "iqn.2026-11.org.example:alice", "iqn.2026-11.org.example:bob"
OPTIONS = AcquisitionOptions(
    most_blocks=64,
    most_per_host=3,
    most_bytes_per_host=100 * BLOCK,
    most_bytes=150 * BLOCK,
    default_lifetime_s=60,
    most_transfer_bytes=8 * BLOCK,
    reading=SnapshotReadOptions(chunk_bytes=4 * BLOCK, chunks_in_flight=2),
)


class Array:
    """Acquisitions over one device of 256 blocks with random content, on one external LU."""

    def __init__(self) -> None:
        self.scheduler = VirtualScheduler()
        self.keeper = FakeFenceKeeper()
        self.volume = GatedMemoryVolume(256)
        self.volume.data[:] = random.Random(7).randbytes(256 * BLOCK)
        self.unit = FakeUnit("lu1")
        self.acquisitions = Acquisitions(self.scheduler, self.keeper, OPTIONS)  # type: ignore[arg-type]  # a fake
        self.answers: list[ScsiError | None] = []

    def begin(self, identifier: int = 1, host: str = ALICE, **changes: Any) -> None:
        subject: dict[str, Any] = {
            "host": host,
            "identifier": identifier,
            "vdev_naa": NAA,
            "device": self.volume,
            "lba": 16,
            "blocks": 20,
            "external_units": (self.unit,),
            "lifetime_s": 60,
            "immediate": True,
        } | changes
        self.acquisitions.begin(Subject(**subject), self.answers.append)

    def make(self, **changes: Any) -> Acquisition:
        """Begin one and let it become ready."""
        self.begin(**changes)
        self.scheduler.run_until_idle()
        return self.acquisitions.find(changes.get("host", ALICE), changes.get("identifier", 1), lambda _naa: True)

    def hold_reads(self) -> None:
        self.volume.hold = lambda operation: operation.name == "read"

    def content(self, lba: int, blocks: int) -> bytes:
        return bytes(self.volume.data[lba * BLOCK : (lba + blocks) * BLOCK])

    def transfer(self, acquisition: Acquisition, first: int = 0, blocks: int = 8) -> bytes:
        """Hand blocks over, with status GOOD."""
        transferred = self.acquisitions.transfer(acquisition, first, blocks * BLOCK)
        data = bytes(transferred.data)
        transferred.status_was_good(len(data))
        return data


@pytest.fixture
def array() -> Array:
    return Array()


def states(array: Array, host: str = ALICE) -> list[AcquisitionState]:
    return [row.state for row in array.acquisitions.rows(host)]


# --- A life without trouble -------------------------------------------------------------------------------------------


def test_an_immediate_acquisition_is_answered_once_it_is_fenced_and_then_becomes_ready(array: Array) -> None:
    array.keeper.hold_answers = True
    array.begin()
    assert array.answers == []
    assert array.volume.journal == []  # nothing is read before the fence is held
    array.keeper.answer_all()
    assert array.answers == [None]
    assert states(array) == [AcquisitionState.ACQUIRING]
    array.scheduler.run_until_idle()
    assert states(array) == [AcquisitionState.READY]
    assert array.answers == [None]


def test_an_acquisition_that_is_not_immediate_is_answered_when_ready(array: Array) -> None:
    array.hold_reads()
    array.begin(immediate=False)
    assert array.answers == []
    array.volume.release_all()
    array.scheduler.run_until_idle()
    assert array.answers == [None]
    assert states(array) == [AcquisitionState.READY]


def test_its_row_says_what_it_is(array: Array) -> None:
    array.make(identifier=9)
    array.scheduler.advance(10.5)
    (row,) = array.acquisitions.rows(ALICE)
    assert row == (
        9,
        AcquisitionState.READY,
        0,
        0,
        0,
        16,
        20,
        BLOCK,
        crc32c.crc32c(array.content(16, 20)),
        50,
        NAA,
        0,
    )


def test_the_checksum_is_told_only_when_ready(array: Array) -> None:
    array.hold_reads()
    array.begin()
    array.volume.release()
    array.volume.release()
    array.scheduler.run_until_idle()
    assert array.acquisitions.rows(ALICE)[0].crc32c == 0


def test_what_is_handed_over_is_what_was_there(array: Array) -> None:
    acquisition = array.make()
    before = array.content(16, 20)
    array.volume.write(16, bytes(20 * BLOCK), False, lambda _error: None)
    data = b"".join(array.transfer(acquisition, first) for first in (0, 8, 16))
    assert data == before


def test_a_transfer_gives_whole_blocks_up_to_the_end(array: Array) -> None:
    acquisition = array.make()
    assert bytes(array.acquisitions.transfer(acquisition, 18, 5 * BLOCK).data) == array.content(34, 2)
    assert bytes(array.acquisitions.transfer(acquisition, 0, 2 * BLOCK + 511).data) == array.content(16, 2)


def test_a_transfer_gives_no_more_than_its_limit(array: Array) -> None:
    acquisition = array.make()
    assert len(array.acquisitions.transfer(acquisition, 0, 20 * BLOCK).data) == OPTIONS.most_transfer_bytes


def test_room_below_one_block_gives_nothing_and_counts_nothing(array: Array) -> None:
    acquisition = array.make()
    transferred = array.acquisitions.transfer(acquisition, 0, BLOCK - 1)
    transferred.status_was_good(0)
    assert bytes(transferred.data) == b""
    assert array.acquisitions.rows(ALICE)[0].handed_over_blocks == 0


def test_an_offset_at_or_past_the_end_is_a_bad_field(array: Array) -> None:
    acquisition = array.make()
    for first in (20, 21, 2**32 - 1):
        with pytest.raises(InvalidFieldInCdb) as caught:
            array.acquisitions.transfer(acquisition, first, 0)
        assert caught.value.field
        assert caught.value.field.offset == 6


def test_a_block_is_counted_once_and_only_with_good_status(array: Array) -> None:
    acquisition = array.make()
    array.acquisitions.transfer(acquisition, 0, 8 * BLOCK)  # no status was sent
    assert acquisition.handed_over_blocks == 0
    array.transfer(acquisition, 0)
    array.transfer(acquisition, 4)
    assert acquisition.handed_over_blocks == 12


def test_a_block_that_the_host_had_no_room_for_is_not_counted(array: Array) -> None:
    acquisition = array.make()
    array.acquisitions.transfer(acquisition, 0, 8 * BLOCK).status_was_good(3 * BLOCK + 100)
    assert acquisition.handed_over_blocks == 3


# --- The fence --------------------------------------------------------------------------------------------------------


def test_the_fence_is_held_until_the_status_of_the_last_block(array: Array) -> None:
    acquisition = array.make()
    array.transfer(acquisition, 0)
    array.transfer(acquisition, 12)
    last = array.acquisitions.transfer(acquisition, 8, 4 * BLOCK)
    assert not array.keeper.is_free()
    last.status_was_good(4 * BLOCK)
    assert array.keeper.is_free()
    assert array.acquisitions.rows(ALICE) == []


def fail_a_read(array: Array) -> None:
    array.volume.release(error=VolumeError(Fault.READ_ERROR, "bad block"))


def hand_everything_over(array: Array) -> None:
    array.volume.release_all()
    array.scheduler.run_until_idle()
    acquisition = array.acquisitions.find(ALICE, 1, lambda _naa: True)
    for first in (0, 8, 16):
        array.transfer(acquisition, first)


def end_it(array: Array) -> None:
    array.acquisitions.find(ALICE, 1, lambda _naa: True).end()


WAYS_OUT: dict[str, Callable[[Array], None]] = {
    "everything handed over": hand_everything_over,
    "END": end_it,
    "lifetime over": lambda array: array.scheduler.advance(61),
    "the host's last session gone": lambda array: array.acquisitions.host_gone(ALICE),
    "a read error": fail_a_read,
    "the fence lapsed": lambda array: array.keeper.lapse(array.unit),
    "the daemon stops": lambda array: array.acquisitions.close(lambda: None),
}


@pytest.mark.parametrize("immediate", [True, False])
@pytest.mark.parametrize("way", WAYS_OUT)
def test_every_way_out_drops_the_fence_and_lets_writes_go(array: Array, way: str, immediate: bool) -> None:
    array.hold_reads()
    array.begin(immediate=immediate)
    written: list[VolumeError | None] = []
    array.volume.write(30, bytes(BLOCK), False, written.append)
    assert not array.keeper.is_free()
    assert written == []
    WAYS_OUT[way](array)
    assert array.keeper.is_free()
    assert written == [None]
    assert array.volume.gates == []
    assert len(array.answers) == 1
    assert array.acquisitions.held_bytes() == 0


@pytest.mark.parametrize("way", ["END", "the host's last session gone", "the daemon stops"])
def test_a_way_out_while_the_fence_is_being_taken_leaves_none(array: Array, way: str) -> None:
    array.keeper.hold_answers = True
    array.begin()
    WAYS_OUT[way](array)
    array.keeper.answer_all()
    assert array.keeper.is_free()
    assert array.volume.journal == []
    assert len(array.answers) == 1
    assert isinstance(array.answers[0], ScsiError)


def test_a_way_out_while_the_fence_is_being_taken_does_not_begin_to_read_under_anothers(array: Array) -> None:
    array.make(host=BOB)
    read = len(array.volume.journal)
    array.keeper.hold_answers = True
    array.begin()
    end_it(array)
    array.keeper.answer_all()
    array.scheduler.run_until_idle()
    assert len(array.volume.journal) == read
    assert len(array.keeper.holders[array.unit]) == 1


def test_a_range_on_local_regions_takes_no_fence(array: Array) -> None:
    array.make(external_units=())
    assert array.keeper.journal == []


def test_every_external_unit_of_the_range_is_fenced(array: Array) -> None:
    other = FakeUnit("lu2")
    acquisition = array.make(external_units=(array.unit, other))
    assert array.keeper.held(array.unit)
    assert array.keeper.held(other)
    acquisition.end()
    assert array.keeper.is_free()


@pytest.mark.parametrize("immediate", [True, False])
def test_a_fence_that_the_array_refuses_refuses_the_acquisition(array: Array, immediate: bool) -> None:
    array.keeper.refusals[array.unit] = VolumeError(Fault.RESERVATION_CONFLICT, "another has it")
    array.begin(immediate=immediate)
    assert [type(answer) for answer in array.answers] == [AcquisitionFenceRefused]
    assert array.acquisitions.rows(ALICE) == []
    assert array.volume.journal == []


def test_a_fence_that_lapses_while_another_is_taken_refuses_the_acquisition(array: Array) -> None:
    other = FakeUnit("lu2")
    array.keeper.hold_answers = True
    array.begin(external_units=(array.unit, other))
    array.keeper.pending.pop(0)()
    array.keeper.lapse(array.unit)
    array.keeper.answer_all()
    assert [type(answer) for answer in array.answers] == [AcquisitionFenceRefused]
    assert array.keeper.is_free()


def test_a_fence_that_lapses_while_reading_fails_an_accepted_acquisition(array: Array) -> None:
    array.hold_reads()
    array.begin()
    array.keeper.lapse(array.unit)
    (row,) = array.acquisitions.rows(ALICE)
    assert row[1:5] == (AcquisitionState.FAILED, 0x0B, 0x81, 0x06)
    assert array.keeper.is_free()


def test_a_fence_that_lapses_once_all_is_read_spoils_nothing(array: Array) -> None:
    acquisition = array.make()
    array.keeper.lapse(array.unit)
    assert states(array) == [AcquisitionState.READY]
    assert array.transfer(acquisition, 0) == array.content(16, 8)
    assert not array.keeper.is_free()  # it goes on being wanted, and the keeper takes it again


def test_end_waits_for_the_array_to_answer_the_release(array: Array) -> None:
    acquisition = array.make()
    array.keeper.hold_answers = True
    ended: list[bool] = []
    acquisition.end(lambda: ended.append(True))
    assert ended == []
    assert array.acquisitions.rows(ALICE) == []
    array.keeper.answer_all()
    assert ended == [True]


def test_end_of_one_that_failed_waits_for_the_same_release(array: Array) -> None:
    array.hold_reads()
    array.begin()
    array.keeper.hold_answers = True
    fail_a_read(array)
    ended: list[bool] = []
    array.acquisitions.find(ALICE, 1, lambda _naa: True).end(lambda: ended.append(True))
    assert ended == []
    array.keeper.answer_all()
    assert ended == [True]
    assert array.keeper.journal == ["take lu1", "drop lu1"]


def test_the_daemons_stop_waits_for_every_release(array: Array) -> None:
    array.make(identifier=1)
    array.make(identifier=2, host=BOB)
    array.keeper.hold_answers = True
    array.acquisitions.find(BOB, 2, lambda _naa: True).end()
    closed: list[bool] = []
    array.acquisitions.close(lambda: closed.append(True))
    array.keeper.pending.pop(0)()
    assert closed == []
    array.keeper.answer_all()
    assert closed == [True]
    assert array.keeper.is_free()


def test_none_begins_any_more_once_the_daemon_stops(array: Array) -> None:
    array.acquisitions.close(lambda: None)
    with pytest.raises(Busy):
        array.begin()
    assert array.keeper.journal == []


def test_the_daemons_stop_without_acquisitions_is_at_once(array: Array) -> None:
    closed: list[bool] = []
    array.acquisitions.close(lambda: closed.append(True))
    assert closed == [True]


# --- Failure ----------------------------------------------------------------------------------------------------------


def test_a_read_error_after_good_is_kept_and_told_by_transfer(array: Array) -> None:
    array.volume.fail("read", Fault.READ_ERROR, 20, 1)
    array.begin()
    array.scheduler.run_until_idle()
    assert array.answers == [None]
    (row,) = array.acquisitions.rows(ALICE)
    assert row[1:5] == (AcquisitionState.FAILED, 0x03, 0x11, 0x00)
    acquisition = array.acquisitions.find(ALICE, 1, lambda _naa: True)
    for _ in range(2):
        with pytest.raises(ScsiError) as caught:
            array.acquisitions.transfer(acquisition, 0, BLOCK)
        assert (caught.value.key, caught.value.asc, caught.value.ascq) == (0x03, 0x11, 0x00)


def test_a_read_error_before_good_leaves_nothing(array: Array) -> None:
    array.volume.fail("read", Fault.READ_ERROR, 20, 1)
    array.begin(immediate=False)
    array.scheduler.run_until_idle()
    assert [type(answer) for answer in array.answers] == [UnrecoveredReadError]
    assert array.acquisitions.rows(ALICE) == []


def test_a_conflict_seen_by_a_read_is_a_refused_fence(array: Array) -> None:
    array.volume.fail("read", Fault.RESERVATION_CONFLICT)
    array.begin()
    array.scheduler.run_until_idle()
    assert array.acquisitions.rows(ALICE)[0][1:5] == (AcquisitionState.FAILED, 0x0B, 0x81, 0x06)


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_of_a_read_has_a_sense_that_a_row_can_show(array: Array, fault: Fault) -> None:
    array.volume.fail("read", fault)
    array.begin()
    array.scheduler.run_until_idle()
    row = array.acquisitions.rows(ALICE)[0]
    assert row.state is AcquisitionState.FAILED
    assert row.sense_key != 0


def test_one_that_failed_goes_with_its_lifetime(array: Array) -> None:
    array.volume.fail("read", Fault.READ_ERROR)
    array.begin()
    array.scheduler.advance(61)
    assert array.acquisitions.rows(ALICE) == []


def test_data_is_not_there_while_it_is_read(array: Array) -> None:
    array.hold_reads()
    array.begin()
    with pytest.raises(AcquiredDataNotReady):
        array.acquisitions.transfer(array.acquisitions.find(ALICE, 1, lambda _naa: True), 0, BLOCK)


def test_the_lifetime_counts_from_acceptance(array: Array) -> None:
    array.keeper.hold_answers = True
    array.begin(lifetime_s=10)
    array.scheduler.advance(9)
    array.keeper.answer_all()
    assert array.acquisitions.rows(ALICE)[0].left_s == 10
    array.scheduler.advance(9)
    assert states(array) == [AcquisitionState.READY]
    array.scheduler.advance(1)
    assert states(array) == []


def test_a_lifetime_that_is_over_does_not_end_the_next_one_by_the_same_id(array: Array) -> None:
    array.make(lifetime_s=10).end()
    assert array.scheduler.next_deadline() is None
    array.make(lifetime_s=100)
    array.scheduler.advance(50)
    assert states(array) == [AcquisitionState.READY]


# --- Whose it is ------------------------------------------------------------------------------------------------------


def test_only_the_requester_finds_it(array: Array) -> None:
    array.make(identifier=5)
    with pytest.raises(AcquiredByAnotherHost):
        array.acquisitions.find(BOB, 5, lambda naa: naa == NAA)
    assert array.acquisitions.rows(BOB) == []


def test_a_host_that_does_not_see_the_device_is_not_told_that_there_is_one(array: Array) -> None:
    array.make(identifier=5)
    with pytest.raises(NoSuchAcquisition):
        array.acquisitions.find(BOB, 5, lambda _naa: False)


def test_an_id_that_nobody_has_is_not_there(array: Array) -> None:
    array.make(identifier=5)
    with pytest.raises(NoSuchAcquisition):
        array.acquisitions.find(ALICE, 6, lambda _naa: True)


def test_two_hosts_may_use_the_same_id(array: Array) -> None:
    array.make(identifier=5, lba=0)
    array.make(identifier=5, lba=100, host=BOB)
    assert array.acquisitions.rows(ALICE)[0].lba == 0
    assert array.acquisitions.rows(BOB)[0].lba == 100
    array.acquisitions.host_gone(ALICE)
    assert len(array.acquisitions.rows(BOB)) == 1
    assert not array.keeper.is_free()  # the other one's


def test_an_id_in_use_is_refused_and_free_again_after_its_end(array: Array) -> None:
    acquisition = array.make(identifier=5)
    with pytest.raises(AcquisitionIdInUse):
        array.begin(identifier=5)
    acquisition.end()
    array.make(identifier=5)


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_no_acquisition_has_more_blocks_than_the_limit(array: Array) -> None:
    array.make(blocks=64).end()
    with pytest.raises(AcquisitionLimitReached):
        array.begin(blocks=65)


def test_no_host_has_more_acquisitions_than_the_limit(array: Array) -> None:
    for identifier in (1, 2, 3):
        array.make(identifier=identifier)
    with pytest.raises(AcquisitionLimitReached):
        array.begin(identifier=4)
    array.make(identifier=1, host=BOB)


def test_no_host_holds_more_bytes_than_the_limit(array: Array) -> None:
    array.make(identifier=1, blocks=60)
    with pytest.raises(AcquisitionLimitReached):
        array.begin(identifier=2, blocks=41)
    array.make(identifier=2, blocks=40)


def test_all_hosts_together_hold_no_more_bytes_than_the_limit(array: Array) -> None:
    array.make(identifier=1, blocks=60)
    array.make(identifier=1, blocks=60, host=BOB)
    with pytest.raises(AcquisitionLimitReached):
        array.begin(identifier=1, blocks=31, host="iqn.2026-11.org.example:carol")


def test_what_failed_holds_no_bytes(array: Array) -> None:
    array.volume.fail("read", Fault.READ_ERROR, times=1)
    array.begin(identifier=1, blocks=60)
    array.scheduler.run_until_idle()
    assert states(array) == [AcquisitionState.FAILED]
    array.make(identifier=2, blocks=60)


def test_a_refused_beginning_allocates_and_fences_nothing(array: Array) -> None:
    with pytest.raises(AcquisitionLimitReached):
        array.begin(blocks=65)
    assert array.keeper.journal == []
    assert array.acquisitions.held_bytes() == 0
    assert array.acquisitions.all() == []
