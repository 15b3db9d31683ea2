import struct

import pytest

from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from scsi.task_management import Function
from scsi.volume import Fault, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

SHORT, EXTENDED, ABORT, SHORT_WAITING, EXTENDED_WAITING = 1, 2, 4, 5, 6
PASSED, ABORTED, RESET, FAILED, READ_FAILED, RUNNING = 0, 1, 2, 4, 7, 15
NOWHERE = 2**64 - 1


@pytest.fixture
def volume() -> MemoryVolume:
    return MemoryVolume(4096)


@pytest.fixture
def unit(volume: MemoryVolume) -> LogicalUnit:
    return LogicalUnit(volume, c.NAA)


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


def send_diagnostic(code: int = 0, *, flags: int = 0, length: int = 0) -> bytes:
    return struct.pack(">BBxHx", 0x1D, code << 5 | flags, length)


def results(host: c.Host) -> list[tuple[int, int, int, tuple[int, int, int]]]:
    """Code, outcome, LBA and sense of each self-test that there was."""
    data = host.send(bytes.fromhex("4d0050000000000fff00")).data
    assert len(data) == 4 + 20 * 20
    found = []
    for number in range(20):
        code, control, length, what, _, _, lba, *sense = struct.unpack_from(">HBBBBHQBBBx", data, 4 + 20 * number)
        assert (code, control, length) == (number + 1, 3, 16)
        if any(data[8 + 20 * number : 24 + 20 * number]):
            found.append((what >> 5, what & 0x0F, lba, tuple(sense)))
    return found


# --- Self-tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "places"), [(SHORT, 8), (SHORT_WAITING, 8), (EXTENDED, 1024), (EXTENDED_WAITING, 1024)]
)
def test_a_self_test_reads_all_over_the_unit(host: c.Host, volume: MemoryVolume, code: int, places: int) -> None:
    assert host.send(send_diagnostic(code)).outcome == "GOOD"
    read = [operation.lba for operation in volume.journal]
    assert len(read) == places
    assert read == sorted(read)
    assert (read[0], read[-1]) == (0, 4095)
    assert results(host) == [(code, PASSED, NOWHERE, (0, 0, 0))]


def test_a_test_in_the_background_runs_on_after_its_status(host: c.Host, volume: MemoryVolume) -> None:
    volume.hold = True
    assert host.send(send_diagnostic(SHORT)).outcome == "GOOD"
    assert results(host) == [(SHORT, RUNNING, NOWHERE, (0, 0, 0))]
    assert host.send(send_diagnostic(SHORT)).outcome == "02/04/09"
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"
    volume.release_all()
    assert results(host) == [(SHORT, PASSED, NOWHERE, (0, 0, 0))]


def test_a_test_in_the_foreground_is_waited_for(host: c.Host, volume: MemoryVolume) -> None:
    volume.hold = True
    command = host.send(send_diagnostic(SHORT_WAITING))
    assert command.outcome == "running"
    volume.release_all()
    assert command.outcome == "GOOD"


def test_a_block_that_can_not_be_read_is_named(host: c.Host, volume: MemoryVolume) -> None:
    volume.fail("read", Fault.READ_ERROR, 4095)
    assert host.send(send_diagnostic(SHORT_WAITING)).outcome == "04/3E/03"
    assert host.send(send_diagnostic(SHORT)).outcome == "GOOD"
    assert results(host) == [(code, READ_FAILED, 4095, (3, 0x11, 0)) for code in (SHORT, SHORT_WAITING)]


def test_a_unit_that_is_not_ready_fails_its_test(host: c.Host, volume: MemoryVolume) -> None:
    volume.unready = VolumeError(Fault.BLOCKED)
    assert host.send(send_diagnostic(EXTENDED_WAITING)).outcome == "04/3E/03"
    assert host.send(send_diagnostic(flags=0x04)).outcome == "02/04/03"
    assert results(host) == [(EXTENDED_WAITING, FAILED, NOWHERE, (2, 0x04, 0x03))]
    volume.unready = VolumeError(Fault.BUSY)
    assert host.send(send_diagnostic(SHORT_WAITING)).outcome == "04/3E/03"


def test_a_test_is_ended_by_the_host_or_by_a_reset(host: c.Host, volume: MemoryVolume) -> None:
    volume.hold = True
    waiting = host.send(send_diagnostic(EXTENDED_WAITING))
    assert host.send(send_diagnostic(ABORT)).outcome == "GOOD"
    assert waiting.outcome == "04/3E/03"
    assert host.send(send_diagnostic(ABORT)).outcome == "05/24/00", "there is none"
    host.send(send_diagnostic(SHORT))
    host.manage(Function.LOGICAL_UNIT_RESET)
    assert host.send(c.TEST_UNIT_READY).outcome == "06/29/03"
    volume.release_all()
    assert [result[:2] for result in results(host)] == [(SHORT, RESET), (EXTENDED_WAITING, ABORTED)]
    assert host.send(send_diagnostic(SHORT_WAITING)).outcome == "GOOD"


def test_the_default_test_is_whether_the_unit_is_ready(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(send_diagnostic(flags=0x04)).outcome == "GOOD"
    assert host.send(send_diagnostic(flags=0x07)).outcome == "GOOD", "may take unit and device off line, and does not"
    assert not volume.journal


def test_twenty_results_are_kept_newest_first(host: c.Host) -> None:
    for code in [EXTENDED, *[SHORT] * 19, SHORT_WAITING]:
        host.send(send_diagnostic(code))
    assert [result[0] for result in results(host)] == [SHORT_WAITING, *[SHORT] * 19]


# --- Pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cdb", "field"),
    [
        (send_diagnostic(3), (1, 7, True)),
        (send_diagnostic(7), (1, 7, True)),
        (send_diagnostic(SHORT, flags=0x04), (1, 7, True)),
        (send_diagnostic(SHORT, length=4), (3, None, True)),
        (send_diagnostic(flags=0x14, length=4), (3, None, True)),
        (send_diagnostic(length=4), (1, 4, True)),
        (bytes.fromhex("1c0140ffff00"), (2, None, True)),
    ],
)
def test_what_is_not_there_is_an_invalid_field(host: c.Host, cdb: bytes, field: tuple[int, int | None, bool]) -> None:
    answer = host.send(cdb, bytes(4))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == field


def test_the_list_of_pages_can_be_asked_for_and_is_told(host: c.Host) -> None:
    assert host.send(send_diagnostic(flags=0x10, length=4), bytes(4)).outcome == "GOOD"
    assert host.send(send_diagnostic(flags=0x10)).outcome == "GOOD"
    for cdb in ("1c0000ffff00", "1c0100ffff00"):
        assert host.send(bytes.fromhex(cdb)).data.hex() == "0000000100"


def test_a_wrong_list_is_refused(host: c.Host) -> None:
    def outcome(data: str, length: int) -> tuple[str, object]:
        answer = host.send(send_diagnostic(flags=0x10, length=length), bytes.fromhex(data))
        return answer.outcome, answer.sense.field

    assert outcome("40000000", 4) == ("05/26/00", (0, None, False))
    assert outcome("00000001", 4) == ("05/26/00", (2, None, False))
    assert outcome("000000", 3) == ("05/1A/00", None)
    assert outcome("000000", 4) == ("05/1A/00", None)
    assert outcome("00000000" * 2, 8) == ("05/1A/00", None)


def test_the_medium_can_be_prevented_from_being_removed_which_it_can_not_be_anyway(host: c.Host) -> None:
    for prevent in (1, 0):
        assert host.send(bytes((0x1E, 0, 0, 0, prevent, 0))).outcome == "GOOD"
    for prevent in (2, 3):
        assert host.send(bytes((0x1E, 0, 0, 0, prevent, 0))).sense.field == (4, 1, True)
