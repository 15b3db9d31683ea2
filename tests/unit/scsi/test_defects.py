import struct

import pytest

from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume


@pytest.fixture
def host() -> c.Host:
    return c.Host(TargetPort(), LogicalUnit(MemoryVolume(), c.NAA))


def read_10(wanted: int, allocation: int = 0xFFFF) -> bytes:
    return struct.pack(">BxB4xHx", 0x37, wanted, allocation)


def read_12(wanted: int, allocation: int = 0xFFFF, index: int = 0) -> bytes:
    return struct.pack(">BBIIxx", 0xB7, wanted, index, allocation)


@pytest.mark.parametrize("lists", [0x00, 0x08, 0x10, 0x18])
@pytest.mark.parametrize("form", range(6))
def test_the_lists_asked_for_are_empty_in_the_format_asked_for(host: c.Host, lists: int, form: int) -> None:
    assert host.send(read_10(lists | form)).data == bytes((0, lists | form, 0, 0))
    assert host.send(read_12(lists | form)).data == bytes((0, lists | form, 0, 0, 0, 0, 0, 0))
    assert host.send(read_12(lists | form, index=5)).data == bytes((0, lists | form, 0, 0, 0, 0, 0, 0))


def test_formats_that_there_are_not_are_refused(host: c.Host) -> None:
    for form in (6, 7):
        assert host.send(read_10(0x18 | form)).sense.field == (2, 2, True)
        assert host.send(read_12(0x18 | form)).sense.field == (1, 2, True)


def test_other_bits_are_reserved(host: c.Host) -> None:
    assert host.send(read_10(0x20)).sense.field == (2, 5, True)
    assert host.send(read_12(0x20)).sense.field == (1, 5, True)
