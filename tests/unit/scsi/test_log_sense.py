import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsi.log_pages import PAGES
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from scsi.volume import Allocation, AllocationDone, Deallocation, Fault
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

BLOCK = b"\x5a" * 512
DEFAULT, THRESHOLD = 3, 0


class SlowVolume(MemoryVolume):
    """Answers what it has storage for later, and one run at a time."""

    def __init__(self) -> None:
        super().__init__(8192)
        self.deallocation = Deallocation(8)
        self.asked: list[AllocationDone] = []

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        del lba, blocks
        self.asked.append(done)


@pytest.fixture
def volume() -> MemoryVolume:
    return MemoryVolume(8192)


@pytest.fixture
def unit(volume: MemoryVolume) -> LogicalUnit:
    return LogicalUnit(volume, c.NAA)


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


def log_sense(page: int, subpage: int = 0, *, control: int = 1, pointer: int = 0, allocation: int = 0xFFFF) -> bytes:
    return struct.pack(">BxBBxHHx", 0x4D, control << 6 | page, subpage, pointer, allocation)


def log_select(page: int = 0, subpage: int = 0, *, reset: bool = True, length: int = 0) -> bytes:
    return struct.pack(">BBBB3xHx", 0x4C, reset << 1, page, subpage, length)


def parameters(data: bytes) -> dict[int, bytes]:
    """Parameters of a page by code, the header checked."""
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    found = {}
    at = 4
    while at < len(data):
        code, _, length = struct.unpack_from(">HBB", data, at)
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + length
    assert at == len(data)
    return found


def counters(host: c.Host, page: int, control: int = 1) -> dict[int, int]:
    found = parameters(host.send(log_sense(page, control=control)).data)
    return {code: int.from_bytes(value, "big") for code, value in found.items()}


def statistics(host: c.Host) -> tuple[int, ...]:
    return struct.unpack(">8Q", parameters(host.send(log_sense(0x19)).data)[1])


def test_the_list_of_pages_is_complete_and_sorted(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(log_sense(0)).data.hex() == "00000008" + "00020305" + "0610192f"
    assert host.send(log_sense(0, 0xFF)).data.hex() == "40ff0012" + "000000ff0200030005000600" + "100019002f00"
    volume.deallocation = Deallocation(8)
    codes = host.send(log_sense(0)).data[4:]
    assert list(codes) == [0, *PAGES] == sorted(codes)
    for code in codes:
        assert host.send(log_sense(code)).data[0] & 0x3F == code


def test_error_counters_are_what_was_read_written_and_verified(host: c.Host, volume: MemoryVolume) -> None:
    host.send(c.write_10(0, 3), BLOCK * 3)
    host.send(c.read_10(0, 2))
    host.send(c.blocks_10(0x2F, 0, 7))
    volume.fail("read", Fault.READ_ERROR)
    volume.fail("write", Fault.WRITE_ERROR)
    host.send(c.read_10(0, 1))
    for _ in range(2):
        host.send(c.blocks_10(0x2F, 0, 7))
    for _ in range(3):
        host.send(c.write_10(0, 1), BLOCK)
    assert counters(host, 0x02) == dict.fromkeys(range(5), 0) | {5: 6 * 512, 6: 3}
    assert counters(host, 0x03) == dict.fromkeys(range(5), 0) | {5: 3 * 512, 6: 1}
    assert counters(host, 0x05) == dict.fromkeys(range(5), 0) | {5: 21 * 512, 6: 2}
    assert counters(host, 0x06) == {0: 0}
    volume.heal()
    volume.fail("read", Fault.LINK_LOST)
    host.send(c.read_10(0, 1))
    assert counters(host, 0x06) == {0: 1}


def test_statistics_are_numbers_and_times_of_reads_and_writes(host: c.Host, unit: LogicalUnit) -> None:
    host.send(c.write_10(0, 3), BLOCK * 3)
    host.send(c.read_10(0, 2))
    host.send(c.read_10(0, 2))
    unit.counters.read_latencies.add(0.25, 2)
    unit.counters.write_latencies.add(0.001, 1)
    assert statistics(host) == (2, 1, 3, 4, 500_000, 1000, 0, 0)
    assert parameters(host.send(log_sense(0x19)).data)[3] == struct.pack(">II", 6, 1), "in microseconds"


def test_there_are_no_informational_exceptions(host: c.Host) -> None:
    assert parameters(host.send(log_sense(0x2F)).data) == {0: bytes.fromhex("0000ff00")}


def test_defaults_are_zero(host: c.Host) -> None:
    host.send(c.read_10(0, 2))
    assert counters(host, 0x03, DEFAULT) == dict.fromkeys(range(7), 0)


def test_only_parameters_from_the_pointer_on_are_told(host: c.Host) -> None:
    assert list(parameters(host.send(log_sense(0x03, pointer=5)).data)) == [5, 6]
    answer = host.send(log_sense(0x03, pointer=7))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (5, None, True)


@pytest.mark.parametrize(
    ("cdb", "field"),
    [
        (log_sense(0x0D), (2, 5, True)),
        (log_sense(0x0C), (2, 5, True)),  # not of a unit that is not thin
        (log_sense(0x02, 0x01), (3, None, True)),
        (log_sense(0x02, control=THRESHOLD), (2, 7, True)),
        (bytes.fromhex("4d014200000000ffff00"), (1, 0, True)),
        (log_select(0x0D), (2, 5, True)),
        (log_select(length=4), (7, None, True)),
    ],
)
def test_what_is_not_there_is_an_invalid_field(host: c.Host, cdb: bytes, field: tuple[int, int | None, bool]) -> None:
    answer = host.send(cdb)
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == field


# --- Provisioning -----------------------------------------------------------------------------------------------------


def test_used_resources_are_the_blocks_that_have_storage(host: c.Host, volume: MemoryVolume) -> None:
    volume.deallocation = Deallocation(8)
    host.send(
        bytes.fromhex("42000000000000001800"),
        bytes.fromhex("0016001000000000" + "0000000000000800" + "0000100000000000"),
    )
    used = parameters(host.send(log_sense(0x0C)).data)
    assert used == {2: struct.pack(">IB3x", 2, 1)}, "4096 of 8192 blocks, in sets of 2048"
    assert host.send(c.inquiry(0xB2)).data[4] == 11, "2048, as a power of two"


def test_used_resources_are_asked_for_piece_by_piece() -> None:
    volume = SlowVolume()
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    command = host.send(log_sense(0x0C))
    for mapped in (True, False, True, True):
        assert command.outcome == "running"
        volume.asked.pop()([Allocation(2048, mapped)])
    assert parameters(command.data) == {2: struct.pack(">IB3x", 3, 1)}


def test_a_unit_in_too_many_pieces_gives_no_number() -> None:
    volume = SlowVolume()
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    command = host.send(log_sense(0x0C))
    for _ in range(1024):
        assert command.outcome == "running"
        volume.asked.pop()([Allocation(1, True)])
    assert parameters(command.data) == {}


def test_used_resources_of_a_volume_that_fails_are_an_error(volume: MemoryVolume) -> None:
    slow = SlowVolume()
    host = c.Host(TargetPort(), LogicalUnit(slow, c.NAA))
    command = host.send(log_sense(0x0C))
    volume.fail("any", Fault.LINK_LOST)
    volume.read(0, 1, slow.asked.pop())  # type: ignore[arg-type]  # an error, as planned
    assert command.outcome == "0B/08/00"


# --- LOG SELECT -------------------------------------------------------------------------------------------------------


def test_log_select_sets_counters_to_zero_and_others_are_told(host: c.Host, unit: LogicalUnit) -> None:
    other = c.Host(host.port, unit, "iqn.2026-11.org.example:other")
    host.send(c.read_10(0, 2))
    assert host.send(log_select(0x19)).outcome == "GOOD"
    assert other.send(c.TEST_UNIT_READY).outcome == "06/2A/02"
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"
    assert statistics(host) == (0,) * 8
    assert counters(host, 0x03)[5] == 1024, "another page"
    assert host.send(log_select()).outcome == "GOOD"
    host.send(c.read_10(0, 1))
    assert counters(host, 0x03)[5] == 512
    assert unit.counters.reads == 2, "what the daemon tells goes up only"


def test_log_select_without_reset_changes_nothing(host: c.Host) -> None:
    host.send(c.read_10(0, 2))
    assert host.send(log_select(reset=False)).outcome == "GOOD"
    assert counters(host, 0x03)[5] == 1024


def test_a_host_that_may_only_read_can_not_reset_counters(host: c.Host, unit: LogicalUnit) -> None:
    reader = c.Host(host.port, unit, read_only=True)
    assert reader.send(log_select()).outcome == "07/27/00"


@given(st.binary(min_size=9, max_size=9))
def test_any_log_sense_is_answered(rest: bytes) -> None:
    host = c.Host(TargetPort(), LogicalUnit(MemoryVolume(8), c.NAA))
    assert host.send(b"\x4d" + rest).outcome in {"GOOD", "05/24/00"}
