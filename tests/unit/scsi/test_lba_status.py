"""GET LBA STATUS (16) and (32): which blocks have storage, and why the list ends where it does."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from scsi.lba_status import MOST_DESCRIPTORS
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from scsi.volume import AllocationDone, Deallocation, Fault, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

BLOCK = 512
BLOCKS = 2048
NOT_SAID, ALLOCATION_LENGTH, SCAN_LENGTH, END = range(4)  # COMPLETION CONDITION


@pytest.fixture
def volume() -> MemoryVolume:
    volume = MemoryVolume(BLOCKS, BLOCK)
    volume.deallocation = Deallocation(8)
    return volume


@pytest.fixture
def host(volume: MemoryVolume) -> c.Host:
    return c.Host(TargetPort(), LogicalUnit(volume, c.NAA))


def status_16(lba: int, allocation_length: int = 1024, report_type: int = 0) -> bytes:
    return struct.pack(">BBQIBB", 0x9E, 0x12, lba, allocation_length, report_type, 0)


def status_32(
    lba: int, allocation_length: int = 1024, report_type: int = 0, *, scan: int = 0, element: int = 0
) -> bytes:
    return struct.pack(">B6xBHBxQIII", 0x7F, 0x18, 0x0012, report_type, lba, scan, element, allocation_length)


BOTH = pytest.mark.parametrize("encode", [status_16, status_32])
Encode = Callable[..., bytes]


def unmap(volume: MemoryVolume, *ranges: tuple[int, int]) -> None:
    for lba, blocks in ranges:
        volume.unmap(lba, blocks, lambda _error: None)


def statuses(data: bytes) -> list[tuple[int, int, int]]:
    """Give each descriptor as first block, number of blocks, and PROVISIONING STATUS."""
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return [struct.unpack_from(">QIB", data, at) for at in range(8, len(data), 16)]


def condition(data: bytes) -> int:
    assert not data[7] & 0x01, "RTP"
    return data[7] >> 1


@BOTH
def test_it_gives_the_runs_from_its_block_on(host: c.Host, volume: MemoryVolume, encode: Encode) -> None:
    unmap(volume, (8, 8), (24, BLOCKS - 24))
    assert statuses(host.send(encode(0)).data) == [(0, 8, 0), (8, 8, 1), (16, 8, 0), (24, BLOCKS - 24, 1)]
    assert statuses(host.send(encode(12)).data) == [(12, 4, 1), (16, 8, 0), (24, BLOCKS - 24, 1)]
    assert statuses(host.send(encode(BLOCKS - 1)).data) == [(BLOCKS - 1, 1, 1)]


@BOTH
def test_it_is_cut_at_the_allocation_length(host: c.Host, volume: MemoryVolume, encode: Encode) -> None:
    unmap(volume, (8, 8), (24, 8))
    whole = host.send(encode(0)).data
    assert (len(whole), condition(whole)) == (8 + 5 * 16, END)
    for length in range(len(whole)):
        data = host.send(encode(0, length)).data
        assert len(data) <= length
        assert data[8:] == whole[8 : len(data)]
        if length >= 8:
            assert condition(data) == ALLOCATION_LENGTH


@BOTH
def test_it_goes_on_where_a_volume_knows_the_first_blocks_only(
    host: c.Host, volume: MemoryVolume, monkeypatch: pytest.MonkeyPatch, encode: Encode
) -> None:
    unmap(volume, (0, 3), (10, 30))
    whole = volume.allocation
    asked = []

    def a_part(lba: int, blocks: int, done: AllocationDone) -> None:
        asked.append(lba)
        whole(lba, min(blocks, 7), done)

    monkeypatch.setattr(volume, "allocation", a_part)
    wanted = [(0, 3, 1), (3, 7, 0), (10, 30, 1), (40, BLOCKS - 40, 0)]
    assert statuses(host.send(encode(0)).data) == wanted
    assert asked[:3] == [0, 7, 14]
    asked.clear()
    assert statuses(host.send(encode(0, 24 + 16)).data) == wanted[:2]
    assert asked == [0, 7], "no more than there is room for"


@BOTH
def test_past_the_end_is_out_of_range(host: c.Host, encode: Encode) -> None:
    for lba in (BLOCKS, 2**31):
        answer = host.send(encode(lba))
        assert answer.outcome == "05/21/00"
        assert answer.sense.information == lba


@BOTH
def test_what_the_volume_can_not_answer_says_why(host: c.Host, volume: MemoryVolume, encode: Encode) -> None:
    assert statuses(host.send(encode(0)).data) == [(0, BLOCKS, 0)]
    volume.unready = VolumeError(Fault.BLOCKED)
    assert host.send(encode(0)).outcome == "02/04/03"


@BOTH
def test_a_list_that_is_longer_than_annex_makes_one_does_not_say_why_it_ends(
    host: c.Host, volume: MemoryVolume, encode: Encode
) -> None:
    unmap(volume, *((lba, 1) for lba in range(1, BLOCKS, 2)))
    data = host.send(encode(0, 1 << 16)).data
    assert (len(statuses(data)), condition(data)) == (MOST_DESCRIPTORS, NOT_SAID)


@BOTH
def test_the_report_type_is_not_processed_and_rtp_says_so(host: c.Host, volume: MemoryVolume, encode: Encode) -> None:
    unmap(volume, (8, 8))
    whole = host.send(encode(0)).data
    for report_type in (1, 2, 3, 4, 0x10, 0xFF):
        assert host.send(encode(0, 1024, report_type)).data == whole


def test_no_more_blocks_than_the_scan_length_are_looked_at(host: c.Host, volume: MemoryVolume) -> None:
    unmap(volume, (8, 8))
    for scan, wanted, why in (
        (1, [(4, 1, 0)], SCAN_LENGTH),
        (10, [(4, 4, 0), (8, 6, 1)], SCAN_LENGTH),
        (12, [(4, 4, 0), (8, 8, 1)], SCAN_LENGTH),
        (BLOCKS - 4, [(4, 4, 0), (8, 8, 1), (16, BLOCKS - 16, 0)], END),
        (2**32 - 1, [(4, 4, 0), (8, 8, 1), (16, BLOCKS - 16, 0)], END),
    ):
        data = host.send(status_32(4, scan=scan)).data
        assert (statuses(data), condition(data)) == (wanted, why)
    cut = host.send(status_32(4, 24, scan=12)).data
    assert (statuses(cut), condition(cut)) == ([(4, 4, 0)], ALLOCATION_LENGTH)


def test_an_element_is_refused_because_there_are_none(host: c.Host) -> None:
    assert host.send(status_32(0, element=1)).sense.field == (27, 0, True)


def test_rsoc_tells_of_the_long_one_when_it_is_asked(host: c.Host) -> None:
    one = host.send(c.report_opcodes(2, 0x7F, 0x0012)).data
    assert one == bytes.fromhex("00030020 7f 04 00000000 00 18 0012 00 00 ffffffffffffffff ffffffff 00000000 ffffffff")
