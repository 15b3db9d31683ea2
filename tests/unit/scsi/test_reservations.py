import pytest

from scsi import unit_attention
from scsi.command_set import COMMANDS
from scsi.commands import Allow
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from scsi.task_management import Function
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

CONFLICT = "RESERVATION CONFLICT"


@pytest.fixture
def unit() -> LogicalUnit:
    return LogicalUnit(MemoryVolume(), c.NAA)


@pytest.fixture
def holder(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


@pytest.fixture
def other(holder: c.Host, unit: LogicalUnit) -> c.Host:
    return c.Host(holder.port, unit, "iqn.2026-11.org.example:other")


@pytest.mark.parametrize(("reserve", "release"), [(c.RESERVE_6, c.RELEASE_6), (c.RESERVE_10, c.RELEASE_10)])
def test_a_reservation_keeps_others_out_until_it_is_released(
    holder: c.Host, other: c.Host, reserve: bytes, release: bytes
) -> None:
    assert holder.send(reserve).outcome == "GOOD"
    assert holder.send(reserve).outcome == "GOOD", "again is no error"
    assert other.send(reserve).outcome == CONFLICT
    assert other.send(c.TEST_UNIT_READY).outcome == CONFLICT
    assert holder.send(c.write_10(0, 1), bytes(512)).outcome == "GOOD"
    assert holder.send(release).outcome == "GOOD"
    assert other.send(c.TEST_UNIT_READY).outcome == "GOOD"
    assert other.send(reserve).outcome == "GOOD"
    assert holder.send(c.read_10(0, 1)).outcome == CONFLICT


def test_only_what_is_allowed_anywhere_runs_beside_a_reservation(holder: c.Host, other: c.Host) -> None:
    holder.send(c.RESERVE_6)
    allowed = set()
    for row in COMMANDS.rows:
        if row.available is None:
            outcome = other.send(bytes(c.empty_cdb(row))).outcome
            assert (outcome != CONFLICT) is (row.allow is Allow.ANYWHERE), row.name
            allowed |= {row.name} if outcome != CONFLICT else set()
    assert allowed == {
        "INQUIRY",
        "REPORT LUNS",
        "REQUEST SENSE",
        "REPORT SUPPORTED OPERATION CODES",
        "REPORT TARGET PORT GROUPS",
        "RELEASE (6)",
        "RELEASE (10)",
    }


def test_the_release_of_one_that_does_not_hold_it_is_good_and_changes_nothing(
    holder: c.Host, other: c.Host, unit: LogicalUnit
) -> None:
    holder.send(c.RESERVE_6)
    assert other.send(c.RELEASE_6).outcome == "GOOD"
    assert unit.reservations.holder is holder.nexus
    assert other.send(c.TEST_UNIT_READY).outcome == CONFLICT


def test_third_party_reservations_and_extents_are_refused(holder: c.Host) -> None:
    assert holder.send(bytes.fromhex("161000000000")).sense.field == (1, 4, True)
    assert holder.send(bytes.fromhex("160100000000")).sense.field == (1, 0, True)
    assert holder.send(bytes.fromhex("56020000000000000000")).sense.field == (1, 1, True)


def test_a_reservation_goes_with_its_nexus(holder: c.Host, other: c.Host, unit: LogicalUnit) -> None:
    holder.send(c.RESERVE_6)
    holder.leave()
    assert unit.reservations.holder is None
    assert other.send(c.TEST_UNIT_READY).outcome == "GOOD"


def test_the_loss_of_another_nexus_leaves_it(holder: c.Host, other: c.Host, unit: LogicalUnit) -> None:
    holder.send(c.RESERVE_6)
    other.leave()
    assert unit.reservations.holder is holder.nexus


def test_two_sessions_of_one_host_are_two_nexuses(holder: c.Host, unit: LogicalUnit) -> None:
    second_path = c.Host(holder.port, unit)
    holder.send(c.RESERVE_6)
    assert second_path.send(c.TEST_UNIT_READY).outcome == CONFLICT


@pytest.mark.parametrize(
    "function", [Function.LOGICAL_UNIT_RESET, Function.TARGET_WARM_RESET, Function.TARGET_COLD_RESET]
)
def test_every_reset_drops_it_whoever_asks(
    holder: c.Host, other: c.Host, unit: LogicalUnit, function: Function
) -> None:
    holder.send(c.RESERVE_6)
    other.manage(function)
    assert unit.reservations.holder is None
    assert other.send(c.TEST_UNIT_READY).outcome == "06/29/03", "not a RESERVATION CONFLICT"


def test_aborts_leave_it(holder: c.Host, other: c.Host, unit: LogicalUnit) -> None:
    holder.send(c.RESERVE_6)
    other.manage(Function.CLEAR_TASK_SET)
    holder.manage(Function.ABORT_TASK_SET)
    assert unit.reservations.holder is holder.nexus


def test_a_conflict_comes_after_a_reset_and_before_any_other_unit_attention(
    holder: c.Host, other: c.Host, unit: LogicalUnit
) -> None:
    holder.send(c.RESERVE_6)
    unit.establish_unit_attention(*unit_attention.CAPACITY_CHANGED)
    unit.establish_unit_attention(*unit_attention.POWER_ON_OR_RESET)
    assert other.send(c.TEST_UNIT_READY).outcome == "06/29/00"
    assert other.send(c.TEST_UNIT_READY).outcome == CONFLICT
    holder.send(c.TEST_UNIT_READY)
    assert holder.send(c.RELEASE_6).outcome == "06/2A/09"
    holder.send(c.RELEASE_6)
    assert other.send(c.TEST_UNIT_READY).outcome == "06/2A/09"


def test_a_conflict_comes_before_a_bad_field_of_a_known_command(holder: c.Host, other: c.Host) -> None:
    holder.send(c.RESERVE_6)
    assert other.send(c.read_10(0, 1, 0x20)).outcome == CONFLICT
    assert other.send(bytes((0xFE,)).ljust(16, b"\0")).outcome == "05/20/00"
