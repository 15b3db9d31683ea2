import struct

import pytest

from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume
from tests.support.saved import FakeSaved

ANY, TEXT, TYPES = 0, 2, 0x7F


class World:
    def __init__(self) -> None:
        self.saved = FakeSaved()
        self.restart()

    def restart(self) -> None:
        self.unit = LogicalUnit(MemoryVolume(), c.NAA, saved=self.saved)
        self.port = TargetPort()
        self.host = c.Host(self.port, self.unit)


@pytest.fixture
def world() -> World:
    return World()


def report(kind: int = ANY, allocation: int = 1024) -> bytes:
    return struct.pack(">BB4xIBx", 0xA3, 0x05, allocation, kind << 1)


def set_information(length: int, kind: int = ANY) -> bytes:
    return struct.pack(">BB4xIBx", 0xA4, 0x06, length, kind << 1)


def information(world: World, kind: int = ANY) -> bytes:
    data = world.host.send(report(kind)).data
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data[4:]


def test_what_is_set_is_reported_also_after_a_restart(world: World) -> None:
    other = c.Host(world.port, world.unit, "iqn.2026-11.org.example:other")
    assert information(world) == information(world, TEXT) == b""
    assert world.host.send(set_information(4), b"rack").outcome == "GOOD"
    assert other.send(c.TEST_UNIT_READY).outcome == "06/3F/05"
    assert world.host.send(c.TEST_UNIT_READY).outcome == "GOOD"
    assert world.host.send(set_information(6, TEXT), "Plätz".encode()).outcome == "GOOD"
    world.restart()
    assert information(world) == b"rack"
    assert information(world, TEXT).decode() == "Plätz"
    assert world.host.send(set_information(0)).outcome == "GOOD"
    assert world.host.send(set_information(0, TEXT)).outcome == "GOOD"
    assert world.saved.get("identifying_information") is None


def test_what_can_be_set_is_told(world: World) -> None:
    assert information(world, TYPES).hex() == "00000200" + "04000100"
    assert world.host.send(set_information(512), bytes(512)).outcome == "GOOD"
    for length, kind, field in ((513, ANY, (6, None, True)), (257, TEXT, (6, None, True)), (4, 1, (10, 7, True))):
        assert world.host.send(set_information(length, kind), bytes(600)).sense.field == field
    assert world.host.send(report(1)).sense.field == (10, 7, True)
    assert world.host.send(set_information(8), b"short").outcome == "05/0E/03"


def test_what_can_not_be_saved_is_not_set(world: World) -> None:
    world.saved.problem = "the disk is full"
    assert world.host.send(set_information(4), b"rack").outcome == "04/44/00"
    assert information(world) == b""


def test_a_host_that_may_only_read_sets_nothing(world: World) -> None:
    reader = c.Host(world.port, world.unit, read_only=True)
    assert reader.send(set_information(4), b"rack").outcome == "07/27/00"


def test_a_unit_that_keeps_nothing_does_not_have_the_commands() -> None:
    host = c.Host(TargetPort(), LogicalUnit(MemoryVolume(), c.NAA))
    assert host.send(report()).outcome == "05/24/00", "another service action of the opcode is there"
    assert host.send(c.report_opcodes(3, 0xA3, 0x05)).data[1] & 0x07 == 1


@pytest.mark.parametrize("document", [{"0": 5}, {"0": "no"}, {"7": "00"}])
def test_what_was_saved_by_nobody_is_an_error(document: dict[str, object]) -> None:
    saved = FakeSaved()
    saved.save("identifying_information", document, lambda _problem: None)
    with pytest.raises(ValueError, match=r"identifying_information|hexadecimal"):
        LogicalUnit(MemoryVolume(), c.NAA, saved=saved)
