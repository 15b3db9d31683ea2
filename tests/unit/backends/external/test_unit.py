import pytest

from backends.devices.state import DeviceState
from backends.external.unit import MAX_COMMAND_BYTES, ExternalLogicalUnit
from scsi.iscsi.initiator_task import Undelivered
from scsi.status import Status
from scsi.volume import Fault
from tests.support.fake_array import FakeAnswer, FakeUnit, Results, Rig, check, lost, lun_bytes, state_of

READ_10, WRITE_10, READ_16, WRITE_16, SYNCHRONIZE_10 = 0x28, 0x2A, 0x88, 0x8A, 0x35
BLOCK = bytes(range(256)) * 2


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def unit_ready(self, unit: ExternalLogicalUnit) -> None:
        self.heard.append("ready")

    def unit_lost(self, unit: ExternalLogicalUnit) -> None:
        self.heard.append("lost")

    def unit_lapsed(self, unit: ExternalLogicalUnit, why: str) -> None:
        self.heard.append("lapsed")


def read(rig: Rig, lba: int = 0, blocks: int = 1) -> Results:
    results = Results()
    rig.unit.read(lba, blocks, results)
    rig.clock.run_until_idle()
    return results


def write(rig: Rig, lba: int = 0, data: bytes = BLOCK, fua: bool = False) -> Results:
    results = Results()
    rig.unit.write(lba, data, fua, results)
    rig.clock.run_until_idle()
    return results


def flush(rig: Rig) -> Results:
    results = Results()
    rig.unit.flush(results)
    rig.clock.run_until_idle()
    return results


def test_what_was_written_is_read_back() -> None:
    rig = Rig()
    assert write(rig, 5, BLOCK * 3) == [None]
    assert read(rig, 4, 5) == [bytes(512) + BLOCK * 3 + bytes(512)]
    assert rig.lu.data[5 * 512 : 8 * 512] == BLOCK * 3


def test_completions_inside_of_the_call_are_completions() -> None:
    rig = Rig()
    rig.path.inline = True
    assert write(rig, 5, BLOCK * 3) == [None]
    assert read(rig, 5, 3) == [BLOCK * 3]


def test_unit_is_a_name_made_of_array_and_lun() -> None:
    assert Rig().unit.name == "old/1"
    flat_lun = bytes.fromhex("4101000000000000")
    assert Rig().external.expect(flat_lun, b"id").lun_number == 257


def test_long_transfers_are_cut_to_the_limit_that_the_array_gave() -> None:
    rig = Rig(FakeUnit(max_transfer_blocks=16))
    data = b"".join(bytes([number]) * 512 for number in range(100))
    assert rig.unit.max_transfer_blocks == 16
    assert write(rig, 3, data) == [None]
    assert read(rig, 3, 100) == [data]
    assert rig.array.operations(WRITE_10) == [WRITE_10] * 7
    assert rig.array.operations(READ_10) == [READ_10] * 7


def test_long_transfers_are_cut_where_the_array_gave_no_limit() -> None:
    blocks = 2 * MAX_COMMAND_BYTES // 512 + 1
    rig = Rig(FakeUnit(blocks=blocks))
    assert write(rig, 0, bytes(blocks * 512)) == [None]
    assert rig.array.operations(WRITE_10) == [WRITE_10] * 3


def test_one_piece_that_fails_fails_the_whole_transfer_once() -> None:
    rig = Rig(FakeUnit(max_transfer_blocks=16))
    rig.lu.replies = [None, check(3, 0x0C, 0, information=20)]
    results = write(rig, 0, bytes(512 * 400))
    assert results.faults == [Fault.WRITE_ERROR]
    assert results[0].lba == 20
    assert len(rig.array.operations(WRITE_10)) < 25  # the rest is not begun


def test_lus_beyond_2_tib_get_16_byte_commands() -> None:
    rig = Rig(FakeUnit(blocks=(1 << 32) + 8, data=bytearray(64 * 512)))
    assert write(rig, 1) == [None]
    assert read(rig, 1) == [BLOCK]
    assert flush(rig) == [None]
    assert rig.array.operations(WRITE_10, READ_10, SYNCHRONIZE_10) == []
    assert rig.array.operations(WRITE_16, READ_16, 0x91) == [WRITE_16, READ_16, 0x91]


def test_fua_goes_out_as_the_bit_where_the_array_knows_it() -> None:
    rig = Rig()
    seen = rig.array.spy()
    assert write(rig, fua=True) == [None]
    assert [cdb[:2] for cdb in seen] == [bytes([WRITE_10, 0x08])]


def test_fua_is_a_write_and_a_flush_where_the_array_does_not_know_it() -> None:
    rig = Rig(FakeUnit(force_unit_access=False))
    assert write(rig, fua=True) == [None]
    assert rig.array.operations(WRITE_10, SYNCHRONIZE_10) == [WRITE_10, SYNCHRONIZE_10]


def test_fua_whose_flush_fails_is_an_error() -> None:
    rig = Rig(FakeUnit(force_unit_access=False))
    rig.lu.always[SYNCHRONIZE_10] = check(3, 0x0C, 0)
    assert write(rig, fua=True).faults == [Fault.WRITE_ERROR]


def test_fua_needs_nothing_where_there_is_no_cache() -> None:
    rig = Rig(FakeUnit(force_unit_access=False, write_cache=False))
    assert not rig.unit.write_cache
    assert write(rig, fua=True) == [None]
    assert rig.array.operations(SYNCHRONIZE_10) == []


def test_an_array_that_says_nothing_of_a_cache_counts_as_having_one() -> None:
    rig = Rig(FakeUnit(write_cache=None))
    assert rig.unit.write_cache
    assert not rig.unit.force_unit_access
    rig.lu.always[SYNCHRONIZE_10] = check(5, 0x20, 0)
    assert flush(rig) == [None]


def test_a_cache_that_can_not_be_flushed_is_an_error_where_the_array_says_that_it_has_one() -> None:
    rig = Rig()
    rig.lu.always[SYNCHRONIZE_10] = check(5, 0x20, 0)
    assert flush(rig).faults == [Fault.HARDWARE]


@pytest.mark.parametrize(
    ("answer", "read_fault", "write_fault"),
    [
        (check(3, 0x11, 0), Fault.READ_ERROR, Fault.WRITE_ERROR),
        (check(4, 0x44, 0), Fault.HARDWARE, Fault.HARDWARE),
        (check(5, 0x24, 0), Fault.HARDWARE, Fault.HARDWARE),
        (check(7, 0x27, 0), Fault.WRITE_PROTECTED, Fault.WRITE_PROTECTED),
        (check(7, 0x27, 7), Fault.NO_SPACE, Fault.NO_SPACE),
        (check(2, 0x04, 1), Fault.BECOMING_READY, Fault.BECOMING_READY),
        (FakeAnswer(Status.RESERVATION_CONFLICT), Fault.RESERVATION_CONFLICT, Fault.RESERVATION_CONFLICT),
        (FakeAnswer(Status.ACA_ACTIVE), Fault.HARDWARE, Fault.HARDWARE),
        (FakeAnswer(0x55), Fault.HARDWARE, Fault.HARDWARE),
        (FakeAnswer(Status.CHECK_CONDITION, sense=b"\xff\x00"), Fault.HARDWARE, Fault.HARDWARE),
        (lost(Undelivered.TIMED_OUT), Fault.TIMED_OUT, Fault.TIMED_OUT),
        (lost(Undelivered.MALFORMED), Fault.HARDWARE, Fault.HARDWARE),
    ],
)
def test_each_answer_of_the_array_has_its_fault(answer: FakeAnswer, read_fault: Fault, write_fault: Fault) -> None:
    rig = Rig()
    rig.lu.always = {READ_10: answer, WRITE_10: answer}
    assert read(rig).faults == [read_fault]
    assert write(rig).faults == [write_fault]


def test_recovered_errors_are_no_errors() -> None:
    rig = Rig()
    answer = check(1, 0x17, 1)
    answer.data_in = BLOCK
    rig.lu.replies = [answer]
    assert read(rig) == [BLOCK]


def test_a_read_that_brings_too_little_is_an_error() -> None:
    rig = Rig()
    rig.lu.replies = [FakeAnswer(data_in=BLOCK[:-1], residual=1)]
    assert read(rig).faults == [Fault.READ_ERROR]


def test_a_write_that_was_not_taken_whole_is_an_error() -> None:
    rig = Rig()
    rig.lu.replies = [FakeAnswer(residual=512)]
    assert write(rig).faults == [Fault.WRITE_ERROR]


@pytest.mark.parametrize("status", [Status.BUSY, Status.TASK_SET_FULL])
def test_busy_is_tried_again_until_the_time_is_over(status: Status) -> None:
    rig = Rig()
    rig.lu.replies = [FakeAnswer(status)] * 5
    results = write(rig)
    assert results == []
    rig.clock.advance(2)
    assert results == [None]

    rig.lu.always[WRITE_10] = FakeAnswer(status)
    results = write(rig)
    rig.clock.advance(9)
    assert results == []
    rig.clock.advance(2)
    assert results.faults == [Fault.BUSY]


def test_a_write_that_was_busy_when_the_link_died_fails() -> None:
    rig = Rig()
    rig.lu.replies = [FakeAnswer(Status.BUSY)]
    results = write(rig)
    rig.path.cut()
    rig.clock.advance(1)
    assert results.faults == [Fault.BECOMING_READY]


def test_aborted_commands_are_repeated_but_not_for_ever() -> None:
    rig = Rig()
    rig.lu.replies = [check(0xB, 0x47, 0), FakeAnswer(Status.TASK_ABORTED), lost(Undelivered.ABORTED)]
    assert write(rig) == [None]
    rig.lu.always[WRITE_10] = check(0xB, 0x47, 0)
    assert write(rig).faults == [Fault.HARDWARE]


def test_unit_attentions_are_consumed() -> None:
    rig = Rig()
    rig.array.attention(rig.lu, 0x29, 0)
    rig.array.attention(rig.lu, 0x3F, 1)
    assert read(rig) == [bytes(512)]


@pytest.mark.parametrize(("asc", "ascq"), [(0x29, 0), (0x29, 3), (0x2A, 3), (0x2A, 4), (0x2A, 5)])
def test_attentions_that_end_reservations_are_told_while_there_is_one(asc: int, ascq: int) -> None:
    rig = Rig()
    listener = Listener()
    rig.unit.listen(listener)
    rig.array.attention(rig.lu, asc, ascq)
    read(rig)
    assert listener.heard == []
    reserved = Results()
    rig.unit.reserve(reserved)
    rig.clock.run_until_idle()
    assert reserved == [None]
    rig.array.attention(rig.lu, asc, ascq)
    read(rig)
    assert listener.heard == ["lapsed"]


def test_a_conflict_on_any_command_is_told_while_there_should_be_none() -> None:
    rig = Rig()
    listener = Listener()
    rig.unit.listen(listener)
    rig.unit.reserve(Results())
    rig.clock.run_until_idle()
    rig.lu.reserved_by = 99
    assert write(rig).faults == [Fault.RESERVATION_CONFLICT]
    assert listener.heard == ["lapsed"]


def test_reserve_release_and_reset_reach_the_array() -> None:
    rig = Rig()
    results = Results()
    rig.unit.reserve(results)
    rig.clock.run_until_idle()
    assert rig.reserved_by() == rig.path.nexus
    rig.unit.release(results)
    rig.clock.run_until_idle()
    assert rig.reserved_by() is None
    rig.lu.reserved_by = 99
    rig.unit.reserve(results)
    rig.unit.release(results)
    rig.clock.run_until_idle()
    assert rig.reserved_by() == 99
    rig.unit.reset(results)
    rig.clock.run_until_idle()
    assert rig.reserved_by() is None
    assert results[:2] + results[3:] == [None, None, None, None]
    assert results.faults == [Fault.RESERVATION_CONFLICT]


def test_while_the_array_is_away_everything_fails_at_once() -> None:
    rig = Rig()
    rig.path.cut()
    results = Results()
    rig.unit.read(0, 1, results)
    rig.unit.write(0, BLOCK, False, results)
    rig.unit.flush(results)
    rig.unit.reserve(results)
    rig.unit.release(results)
    rig.unit.reset(results)
    assert results.faults == [Fault.BECOMING_READY] * 6


def test_an_array_that_refuses_annex_blocks_its_units() -> None:
    rig = Rig()
    rig.path.cut("login refused", refused=True)
    assert state_of(rig.unit) is DeviceState.BLOCKED
    assert read(rig).faults == [Fault.BLOCKED]


def test_listeners_learn_of_coming_and_going() -> None:
    rig = Rig()
    listener = Listener()
    rig.unit.listen(listener)
    rig.path.cut()
    rig.reconnect()
    assert listener.heard == ["lost", "ready"]
    rig.unit.unlisten(listener)
    rig.path.cut()
    assert listener.heard == ["lost", "ready"]


def test_a_write_in_flight_when_the_link_dies_fails_at_once() -> None:
    rig = Rig()
    rig.array.stalled = True
    results = write(rig)
    rig.path.cut()
    assert results.faults == [Fault.LINK_LOST]


def test_an_old_write_can_not_land_after_a_newer_one() -> None:
    rig = Rig()
    rig.array.sessions_end = False
    rig.array.stalled = True
    write(rig, 7, b"o" * 512)
    rig.path.cut()
    rig.reconnect()
    rig.array.stalled = False
    rig.clock.advance(10)
    assert rig.array.resets == 1
    assert write(rig, 7, b"n" * 512) == [None]
    rig.array.run_queued()
    assert rig.lu.data[7 * 512 : 8 * 512] == b"n" * 512


def test_without_writes_in_flight_the_lu_is_not_reset() -> None:
    rig = Rig()
    write(rig)
    rig.path.cut()
    rig.reconnect()
    assert state_of(rig.unit) is DeviceState.READY
    assert rig.array.resets == 0


def test_a_read_in_flight_is_repeated_when_the_link_is_back_in_time() -> None:
    rig = Rig()
    write(rig, 3)
    rig.array.stalled = True
    results = read(rig, 3)
    rig.path.cut()
    rig.array.stalled = False
    rig.clock.advance(9)
    assert not results
    rig.reconnect()
    assert results == [BLOCK]


def test_a_read_waits_for_the_link_for_a_bounded_time_however_often_it_flaps() -> None:
    rig = Rig()
    rig.lu.silent.add(READ_10)
    results = read(rig)
    for _ in range(9):
        rig.path.cut()
        rig.clock.advance(1)
        assert not results
        rig.reconnect()
        assert state_of(rig.unit) is DeviceState.READY
    rig.path.cut()
    rig.clock.advance(2)
    assert results.faults == [Fault.LINK_LOST]


def test_a_read_that_waits_fails_when_the_unit_is_blocked() -> None:
    rig = Rig()
    rig.array.stalled = True
    results = read(rig)
    rig.path.cut()
    rig.array.stalled = False
    rig.lu.naa = b"other"
    rig.reconnect()
    assert results.faults == [Fault.BLOCKED]


def test_a_flush_in_flight_when_the_link_dies_is_not_repeated() -> None:
    rig = Rig()
    rig.array.stalled = True
    results = flush(rig)
    rig.path.cut()
    rig.array.stalled = False
    rig.reconnect()
    assert results.faults == [Fault.LINK_LOST]


def test_what_is_sent_from_a_completion_at_the_loss_does_not_wait() -> None:
    rig = Rig()
    rig.array.stalled = True
    again = Results()
    rig.unit.write(0, BLOCK, False, lambda _error: rig.unit.write(0, BLOCK, False, again))
    rig.clock.run_until_idle()
    rig.path.cut()
    assert again.faults == [Fault.BECOMING_READY]


def test_a_lu_that_is_gone_is_looked_for_again() -> None:
    rig = Rig()
    moved = rig.array.units.pop(1)
    moved.number = 4
    rig.array.units[4] = moved
    assert write(rig).faults == [Fault.BECOMING_READY]
    rig.clock.advance(1)
    assert rig.unit.lun == lun_bytes(4)
    assert write(rig) == [None]
