"""WRITE SAME, UNMAP, and what INQUIRY and READ CAPACITY say of them."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scsi.logical_unit import LogicalUnit
from scsi.provisioning import MAX_UNMAP_BYTES, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME_BYTES
from scsi.target import TargetPort
from scsi.task_management import Function, Response
from scsi.volume import Deallocation, Fault, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

BLOCK = 512
BLOCKS = 2048
ANCHOR, UNMAP, NO_DATA_OUT = 0x10, 0x08, 0x01
SAMES = {"10": (c.blocks_10, 0x41, 7), "16": (c.blocks_16, 0x93, 10), "32": (c.blocks_32, 0x000D, 28)}
ZEROES = bytes(BLOCK)
X = b"x" * BLOCK
READ_CAPACITY_16 = bytes.fromhex("9e10000000000000000000000020") + bytes(2)


@pytest.fixture
def volume() -> MemoryVolume:
    volume = MemoryVolume(BLOCKS, BLOCK, write_cache=True)
    volume.data[:] = b"\xaa" * len(volume.data)
    volume.deallocation = Deallocation(8)
    return volume


@pytest.fixture
def host(volume: MemoryVolume) -> c.Host:
    return c.Host(TargetPort(), LogicalUnit(volume, c.NAA))


def vpd(host: c.Host, page: int) -> bytes:
    return host.send(c.inquiry(page, 0xFFFF)).data


def unmap_list(*extents: tuple[int, int]) -> bytes:
    body = b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in extents)
    return struct.pack(">HH4x", 6 + len(body), len(body)) + body


def unmap(length: int, flags: int = 0) -> bytes:
    return struct.pack(">BB5xHB", 0x42, flags, length, 0)


def send_unmap(host: c.Host, *extents: tuple[int, int]) -> c.FakeCommand:
    data = unmap_list(*extents)
    return host.send(unmap(len(data)), data)


def lba_status(lba: int, allocation_length: int = 1024) -> bytes:
    return struct.pack(">BBQIBB", 0x9E, 0x12, lba, allocation_length, 0, 0)


def statuses(data: bytes) -> list[tuple[int, int, int]]:
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return [struct.unpack_from(">QIB", data, at) for at in range(8, len(data), 16)]


def content(volume: MemoryVolume, lba: int, blocks: int = 1) -> bytes:
    return bytes(volume.data[lba * BLOCK : (lba + blocks) * BLOCK])


# --- WRITE SAME -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SAMES)
def test_write_same_writes_its_block_to_each(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode, _ = SAMES[size]
    assert host.send(encode(opcode, 5, 3), X).outcome == "GOOD"
    assert content(volume, 4, 5) == b"\xaa" * BLOCK + X * 3 + b"\xaa" * BLOCK


@pytest.mark.parametrize("size", SAMES)
@pytest.mark.parametrize(
    ("flags", "data", "operation"),
    [
        (0, X, "write 5+3"),
        (0, ZEROES, "write 5+3"),
        (UNMAP, ZEROES, "unmap 5+3"),
        (UNMAP, X, "write 5+3"),  # unmapped blocks would read as zeroes, so that they can not be
    ],
)
def test_write_same_unmaps_when_it_may_and_the_blocks_read_the_same_then(
    host: c.Host, volume: MemoryVolume, size: str, flags: int, data: bytes, operation: str
) -> None:
    encode, opcode, _ = SAMES[size]
    assert host.send(encode(opcode, 5, 3, flags), data).outcome == "GOOD"
    assert volume.operations() == [operation]
    assert content(volume, 5, 3) == data * 3


@pytest.mark.parametrize("size", ["16", "32"])
@pytest.mark.parametrize(("flags", "operation"), [(0, "write 5+3"), (UNMAP, "unmap 5+3")])
def test_v25_write_same_without_a_data_out_buffer_writes_zeroes(
    host: c.Host, volume: MemoryVolume, size: str, flags: int, operation: str
) -> None:
    encode, opcode, _ = SAMES[size]
    assert host.send(encode(opcode, 5, 3, flags | NO_DATA_OUT)).outcome == "GOOD"
    assert content(volume, 4, 5) == b"\xaa" * BLOCK + ZEROES * 3 + b"\xaa" * BLOCK
    assert volume.operations() == [operation]


def test_v25_data_that_comes_with_ndob_is_not_looked_at_and_told_as_residual(
    host: c.Host, volume: MemoryVolume
) -> None:
    answer = host.send(c.blocks_16(0x93, 5, 1, NO_DATA_OUT), X)
    assert answer.outcome == "GOOD"
    assert answer.ended.data_out_used == 0
    assert content(volume, 5) == ZEROES


def test_ndob_is_a_reserved_bit_of_write_same_10(host: c.Host) -> None:
    answer = host.send(c.blocks_10(0x41, 5, 1, NO_DATA_OUT))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (1, 0, True)


@pytest.mark.parametrize("size", SAMES)
@pytest.mark.parametrize("data", [b"", X[:-1], X[: BLOCK // 2], X * 2], ids=len)
def test_write_same_with_other_than_one_block_of_data_is_refused(
    host: c.Host, volume: MemoryVolume, size: str, data: bytes
) -> None:
    encode, opcode, _ = SAMES[size]
    answer = host.send(encode(opcode, 5, 3), data)
    assert answer.outcome == "05/0E/03"
    assert answer.ended.data_out_used == BLOCK
    assert volume.operations() == []


@pytest.mark.parametrize("size", SAMES)
def test_write_same_of_no_blocks_is_refused_as_wsnz_says(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode, offset = SAMES[size]
    answer = host.send(encode(opcode, 5, 0), X)
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (offset, None, True)
    assert vpd(host, 0xB0)[4] == 1
    assert volume.operations() == []


@pytest.mark.parametrize("size", SAMES)
def test_write_same_with_anchor_is_refused(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode, _ = SAMES[size]
    for flags in (ANCHOR, ANCHOR | UNMAP):
        answer = host.send(encode(opcode, 5, 1, flags), ZEROES)
        assert answer.outcome == "05/24/00"
        assert answer.sense.field == (10 if size == "32" else 1, 4, True)
    assert volume.operations() == []


@pytest.mark.parametrize("size", SAMES)
@pytest.mark.parametrize("bits", [0x20, 0x80, 0x04, 0x02])
def test_write_same_with_protection_or_obsolete_bits_is_refused(host: c.Host, size: str, bits: int) -> None:
    encode, opcode, _ = SAMES[size]
    assert host.send(encode(opcode, 5, 1, bits), X).outcome == "05/24/00"


@pytest.mark.parametrize("size", SAMES)
@pytest.mark.parametrize(("lba", "blocks", "bad"), [(BLOCKS, 1, BLOCKS), (BLOCKS - 1, 2, BLOCKS), (2**31, 9, 2**31)])
def test_write_same_past_the_end_is_out_of_range(
    host: c.Host, volume: MemoryVolume, size: str, lba: int, blocks: int, bad: int
) -> None:
    encode, opcode, _ = SAMES[size]
    answer = host.send(encode(opcode, lba, blocks), X)
    assert answer.outcome == "05/21/00"
    assert answer.sense.information == bad
    assert volume.operations() == []


class LargeVolume(MemoryVolume):
    """Larger than one command may be about; it only says what it was asked."""

    def __init__(self) -> None:
        super().__init__(8)
        self.blocks = 2 * MAX_UNMAP_BYTES // BLOCK
        self.deallocation = Deallocation(8, 3)
        self.asked: list[tuple[int, int]] = []

    def unmap(self, lba: int, blocks: int, done: object) -> None:
        assert callable(done)
        self.asked.append((lba, blocks))
        done(None)


def test_write_same_of_more_than_its_limit_is_refused_and_b0_says_the_limit() -> None:
    volume = LargeVolume()
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    (most,) = struct.unpack_from(">Q", vpd(host, 0xB0), 36)
    assert most == MAX_WRITE_SAME_BYTES // BLOCK
    assert host.send(c.blocks_16(0x93, 1, most, UNMAP), ZEROES).outcome == "GOOD"
    answer = host.send(c.blocks_16(0x93, 1, most + 1, UNMAP), ZEROES)
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (10, None, True)
    assert volume.asked == [(1, most)]


# --- UNMAP ------------------------------------------------------------------------------------------------------------


def test_unmapped_blocks_read_as_zeroes_and_have_no_storage(host: c.Host, volume: MemoryVolume) -> None:
    assert send_unmap(host, (8, 16), (100, 1)).outcome == "GOOD"
    assert volume.operations() == ["unmap 8+16", "unmap 100+1"]
    assert content(volume, 7, 18) == b"\xaa" * BLOCK + ZEROES * 16 + b"\xaa" * BLOCK
    assert statuses(host.send(lba_status(7)).data)[:3] == [(7, 1, 0), (8, 16, 1), (24, 76, 0)]


def test_descriptors_that_overlap_touch_or_are_empty_make_as_few_operations_as_there_are_ranges(
    host: c.Host, volume: MemoryVolume
) -> None:
    assert send_unmap(host, (20, 10), (0, 0), (8, 4), (10, 10), (25, 2), (BLOCKS, 0), (9, 1)).outcome == "GOOD"
    assert volume.operations() == ["unmap 8+22"]


@pytest.mark.parametrize(
    "data",
    [b"", unmap_list(), unmap_list((5, 0)), struct.pack(">HH4x", 21, 15) + bytes(15)],
    ids=["no list", "no descriptors", "no blocks", "a part of a descriptor"],
)
def test_an_unmap_of_nothing_is_good(host: c.Host, volume: MemoryVolume, data: bytes) -> None:
    assert host.send(unmap(len(data)), data).outcome == "GOOD"
    assert volume.operations() == []


@pytest.mark.parametrize("length", range(1, 8))
def test_a_parameter_list_too_short_for_its_header_is_an_error_of_its_length(host: c.Host, length: int) -> None:
    answer = host.send(unmap(length), bytes(length))
    assert answer.outcome == "05/1A/00"
    assert answer.ended.data_out_used == length


@pytest.mark.parametrize(
    "data",
    [
        unmap_list((5, 1))[:-1],
        struct.pack(">HH4x", 6, 16) + bytes(15),
        struct.pack(">HH4x", 0xFFFF, 0),
        struct.pack(">HH4x", 6, 0xFFFF),
    ],
)
def test_a_parameter_list_that_says_to_be_longer_than_it_is_is_an_error_of_its_length(
    host: c.Host, volume: MemoryVolume, data: bytes
) -> None:
    assert host.send(unmap(len(data)), data).outcome == "05/1A/00"
    assert volume.operations() == []


def test_a_host_that_sends_less_than_its_list_is_refused(host: c.Host, volume: MemoryVolume) -> None:
    data = unmap_list((5, 1))
    assert host.send(unmap(len(data)), data[:-4]).outcome == "05/0E/03"
    assert volume.operations() == []


def test_a_host_that_sends_more_than_its_list_gets_the_residual(host: c.Host, volume: MemoryVolume) -> None:
    data = unmap_list((5, 1))
    answer = host.send(unmap(len(data)), data + bytes(100))
    assert answer.outcome == "GOOD"
    assert answer.ended.data_out_used == len(data)
    assert volume.operations() == ["unmap 5+1"]


def test_one_descriptor_out_of_range_and_nothing_is_unmapped(host: c.Host, volume: MemoryVolume) -> None:
    for bad in ((BLOCKS, 1), (BLOCKS - 1, 2), (2**64 - 1, 2**32 - 1), (BLOCKS + 1, 0)):
        answer = send_unmap(host, (5, 1), bad)
        assert answer.outcome == "05/21/00"
        assert volume.operations() == []


def test_more_blocks_or_descriptors_than_b0_says_are_a_wrong_parameter_list() -> None:
    volume = LargeVolume()
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    most, descriptors, granularity, alignment = struct.unpack_from(">IIII", vpd(host, 0xB0), 20)
    assert (most, descriptors) == (MAX_UNMAP_BYTES // BLOCK, MAX_UNMAP_DESCRIPTORS)
    assert (granularity, alignment) == (8, 0x80000003)
    assert send_unmap(host, (0, most - 1), (most - 1, 1)).outcome == "GOOD"
    answer = send_unmap(host, (0, most - 1), (most, 2))
    assert answer.outcome == "05/26/00"
    assert answer.sense.field == (32, None, False)
    assert send_unmap(host, *((2 * at, 1) for at in range(descriptors))).outcome == "GOOD"
    answer = send_unmap(host, *((2 * at, 1) for at in range(descriptors + 1)))
    assert answer.outcome == "05/26/00"
    assert answer.sense.field == (2, None, False)


def test_unmap_with_anchor_is_refused(host: c.Host) -> None:
    data = unmap_list((5, 1))
    answer = host.send(unmap(len(data), 0x01), data)
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (1, 0, True)


def test_an_unmap_that_fails_says_why_and_no_more_ranges_are_begun(host: c.Host, volume: MemoryVolume) -> None:
    volume.fail("unmap", Fault.NO_SPACE, lba=40)
    answer = send_unmap(host, *((40 * at, 1) for at in range(40)))
    assert answer.outcome == "07/27/07"
    assert answer.sense.information == 40
    assert len(volume.operations()) == 1


def test_ranges_are_unmapped_side_by_side_but_not_all_at_once(host: c.Host, volume: MemoryVolume) -> None:
    volume.hold = True
    answer = send_unmap(host, *((40 * at, 1) for at in range(40)))
    assert len(volume.held) == 8
    volume.release(3)
    assert len(volume.held) == 8
    assert answer.outcome == "running"
    volume.release_all()
    assert answer.outcome == "GOOD"
    assert len(volume.operations()) == 40


# --- Both -------------------------------------------------------------------------------------------------------------


def each_kind(host: c.Host) -> list[c.FakeCommand]:
    return [
        host.send(c.blocks_10(0x41, 5, 1), X),
        host.send(c.blocks_16(0x93, 5, 1, UNMAP | NO_DATA_OUT)),
        send_unmap(host, (5, 1)),
    ]


def test_a_unit_that_is_read_only_refuses(volume: MemoryVolume) -> None:
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA), read_only=True)
    assert [answer.outcome for answer in each_kind(host)] == ["07/27/00"] * 3
    assert volume.operations() == []


def test_a_volume_that_is_read_only_refuses(host: c.Host, volume: MemoryVolume) -> None:
    volume.read_only = True
    assert [answer.outcome for answer in each_kind(host)] == ["07/27/00"] * 3
    assert volume.operations() == []


def test_a_unit_that_is_not_ready_says_so(host: c.Host, volume: MemoryVolume) -> None:
    volume.unready = VolumeError(Fault.BECOMING_READY)
    assert [answer.outcome for answer in each_kind(host)] == ["02/04/01"] * 3
    assert host.send(lba_status(0)).outcome == "02/04/01"
    assert host.send(unmap(0)).outcome == "02/04/01"


def test_a_unit_reserved_by_another_host_refuses(host: c.Host, volume: MemoryVolume) -> None:
    unit = host.nexus.lun_map[c.LUN_0].logical_unit
    other = c.Host(host.port, unit, "iqn.2026-11.org.example:other")
    assert other.send(bytes.fromhex("160000000000")).outcome == "GOOD"
    assert [answer.outcome for answer in each_kind(host)] == ["RESERVATION CONFLICT"] * 3
    assert volume.operations() == []


def test_an_aborted_unmap_holds_newer_commands_until_it_has_ended(host: c.Host, volume: MemoryVolume) -> None:
    volume.hold = lambda operation: operation.name == "unmap"
    old = send_unmap(host, (5, 1))
    assert host.manage(Function.ABORT_TASK, old) is Response.FUNCTION_COMPLETE
    newer = host.send(c.write_10(5, 1), X)
    assert newer.outcome == "running"
    volume.release_all()
    assert newer.outcome == "GOOD"
    assert content(volume, 5) == X


def test_a_unit_that_can_not_give_storage_back_is_fully_provisioned_and_has_no_unmap(
    host: c.Host, volume: MemoryVolume
) -> None:
    volume.deallocation = None
    assert [answer.outcome for answer in each_kind(host)] == ["GOOD", "05/24/00", "05/20/00"]
    assert host.send(c.blocks_10(0x41, 5, 1, UNMAP), ZEROES).sense.field == (1, 3, True)
    assert volume.operations() == ["write 5+1"]
    assert host.send(READ_CAPACITY_16).data[14:16] == bytes(2)
    assert vpd(host, 0xB2)[4:] == bytes(4)
    assert vpd(host, 0xB0)[20:36] == bytes(16)
    assert struct.unpack_from(">Q", vpd(host, 0xB0), 36) == (MAX_WRITE_SAME_BYTES // BLOCK,)


def test_a_unit_of_which_that_is_not_known_yet_says_so_and_not_that_it_has_no_unmap(
    host: c.Host, volume: MemoryVolume
) -> None:
    volume.deallocation = None
    volume.unready = VolumeError(Fault.BECOMING_READY)
    assert [answer.outcome for answer in each_kind(host)] == ["02/04/01"] * 3


def test_x1_x2_x3_a_thin_unit_says_so_wherever_linux_looks(host: c.Host) -> None:
    assert host.send(READ_CAPACITY_16).data[14] == 0xC0, "LBPME and LBPRZ"
    page = vpd(host, 0xB2)
    assert len(page) == 8
    assert page[5] == 0xE4, "LBPU, LBPWS, LBPWS10, LBPRZ 001b; no ANC_SUP, no DP"
    assert page[6] == 0x02, "thin"
    limits = vpd(host, 0xB0)
    assert len(limits) == 64
    assert struct.unpack_from(">IIII", limits, 20) == (MAX_UNMAP_BYTES // BLOCK, MAX_UNMAP_DESCRIPTORS, 8, 1 << 31)


def test_verify_compares_unmapped_blocks_as_vpd_b1_says(host: c.Host) -> None:
    assert vpd(host, 0xB1)[8] & 0x01, "VBULS"
    send_unmap(host, (8, 8))
    assert host.send(c.blocks_10(0x2F, 8, 2, 0x02), 2 * ZEROES).outcome == "GOOD"
    assert host.send(c.blocks_10(0x2F, 8, 8, 0x06), ZEROES).outcome == "GOOD"
    assert host.send(c.blocks_10(0x2F, 8, 8, 0x06), X).outcome == "0E/1D/00"


# --- A model ----------------------------------------------------------------------------------------------------------

SMALL = 24
ranges = st.tuples(st.integers(0, SMALL), st.integers(0, SMALL))
operations = st.one_of(
    st.tuples(st.just("write"), ranges, st.integers(1, 255)),
    st.tuples(st.just("same"), ranges, st.integers(0, 255)),
    st.tuples(st.just("same unmap"), ranges, st.integers(0, 3)),
    st.tuples(st.just("unmap"), st.lists(ranges, max_size=5), st.just(0)),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(operations, max_size=12))
def test_a_unit_holds_what_a_list_of_blocks_would_hold(steps: list[tuple[str, object, int]]) -> None:
    volume = MemoryVolume(SMALL, BLOCK)
    volume.deallocation = Deallocation(1)
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    model = [0] * SMALL
    mapped = [True] * SMALL
    for kind, where, byte in steps:
        extents = where if kind == "unmap" else [where]
        assert isinstance(extents, list)
        ok = all(lba + blocks <= SMALL for lba, blocks in extents)
        if kind == "unmap":
            answer = send_unmap(host, *extents)
        else:
            ((lba, blocks),) = extents
            block = bytes([byte]) * BLOCK
            if kind == "write":
                answer = host.send(c.write_10(lba, blocks), block * blocks)
            else:
                answer = host.send(c.blocks_10(0x41, lba, blocks, UNMAP if kind == "same unmap" else 0), block)
                ok = ok and blocks > 0
        assert (answer.outcome == "GOOD") is ok
        for lba, blocks in extents if ok else ():
            model[lba : lba + blocks] = [byte] * blocks
            gone = kind == "unmap" or (kind == "same unmap" and not byte)
            mapped[lba : lba + blocks] = [not gone] * blocks
    assert host.send(c.read_10(0, SMALL)).data == b"".join(bytes([byte]) * BLOCK for byte in model)
    found = statuses(host.send(lba_status(0)).data)
    assert [not status for _, blocks, status in found for _ in range(blocks)] == mapped


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=72), st.integers(0, 80))
def test_any_parameter_list_of_unmap_is_carried_out_or_refused(data: bytes, length: int) -> None:
    volume = MemoryVolume(SMALL, BLOCK)
    volume.deallocation = Deallocation(1)
    volume.data[:] = b"\xaa" * len(volume.data)
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    answer = host.send(unmap(length), data)
    assert answer.outcome in {"GOOD", "05/0E/03", "05/1A/00", "05/21/00", "05/26/00"}
    if answer.outcome != "GOOD":
        assert volume.operations() == []
    assert set(volume.data) <= {0x00, 0xAA}


@settings(deadline=None, max_examples=300)
@given(st.sampled_from((0x41, 0x42, 0x93, 0x9E)), st.binary(min_size=15, max_size=15), st.binary(max_size=BLOCK))
def test_any_cdb_is_carried_out_or_refused(opcode: int, rest: bytes, data: bytes) -> None:
    volume = MemoryVolume(SMALL, BLOCK)
    volume.deallocation = Deallocation(1)
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    answer = host.send(bytes([opcode]) + rest, data)
    assert answer.outcome == "GOOD" or answer.outcome[:3] == "05/"
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"
