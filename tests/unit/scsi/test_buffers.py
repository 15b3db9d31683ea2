import pytest

from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

DATA, DESCRIPTOR, ECHO, ECHO_DESCRIPTOR = 0x02, 0x03, 0x0A, 0x0B


@pytest.fixture
def unit() -> LogicalUnit:
    return LogicalUnit(MemoryVolume(), c.NAA)


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


def read_buffer(mode: int = ECHO, allocation: int = 0xFFFFFF) -> bytes:
    return bytes((0x3C, mode)).ljust(6, b"\0") + allocation.to_bytes(3, "big") + b"\0"


def write_buffer(length: int, mode: int = ECHO) -> bytes:
    return bytes((0x3B, mode)).ljust(6, b"\0") + length.to_bytes(3, "big") + b"\0"


def test_the_descriptor_says_how_much_can_be_written_and_that_each_host_has_its_own(host: c.Host) -> None:
    assert host.send(read_buffer(ECHO_DESCRIPTOR)).data.hex() == "01001000"


def test_v27_a_host_reads_of_a_buffer_what_it_wrote_there_itself(host: c.Host, unit: LogicalUnit) -> None:
    assert host.send(read_buffer()).outcome == "05/2C/00"
    assert host.send(write_buffer(4096), b"secret  " * 512).outcome == "GOOD"
    assert host.send(write_buffer(5), b"short, and more").outcome == "GOOD"
    assert host.send(read_buffer()).data == b"short"
    assert host.send(read_buffer(allocation=2)).data == b"sh"
    other = c.Host(host.port, unit, "iqn.2026-11.org.example:other")
    assert other.send(read_buffer()).outcome == "05/2C/00"
    host.leave()
    assert not unit.echo_buffers


def test_v27_blocks_that_were_never_written_are_zeroes(host: c.Host) -> None:
    assert host.send(c.read_10(0, 2048)).data == bytes(2048 * 512)
    assert host.send(c.REQUEST_SENSE).data[18:] == b""


def test_more_than_the_buffer_holds_or_less_than_is_announced_is_refused(host: c.Host) -> None:
    assert host.send(write_buffer(4097), bytes(4097)).sense.field == (6, None, True)
    assert host.send(write_buffer(8), bytes(7)).outcome == "05/0E/03"
    assert host.send(read_buffer()).outcome == "05/2C/00"


@pytest.mark.parametrize("mode", sorted(set(range(0x20)) - {ECHO, ECHO_DESCRIPTOR}))
def test_there_are_no_other_buffers(host: c.Host, mode: int) -> None:
    assert host.send(read_buffer(mode)).sense.field == (1, 4, True)
    assert host.send(write_buffer(0, mode)).sense.field == (1, 4, True)
