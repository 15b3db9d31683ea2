"""COMPARE AND WRITE, ORWRITE and WRITE AND VERIFY: what they do and refuse, and that nothing comes in between."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from scsi.task_management import Function
from scsi.volume import ClaimDone, Fault, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

BLOCK = 512
BLOCKS = 2048
READ_ONLY = "07/27/00"


def pattern(blocks: int, seed: int = 1) -> bytes:
    return bytes((seed + block) % 251 for block in range(blocks) for _ in range(BLOCK))


def compare_and_write(lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBQ3xBxx", 0x89, flags, lba, blocks)


def write_and_verify_32(_opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return c.blocks_32(0x000C, lba, blocks, flags)


WRITE_AND_VERIFIES: dict[str, tuple[Callable[..., bytes], int]] = {
    "10": (c.blocks_10, 0x2E),
    "12": (c.blocks_12, 0xAE),
    "16": (c.blocks_16, 0x8E),
    "32": (write_and_verify_32, 0x7F),
}


@pytest.fixture
def volume() -> MemoryVolume:
    volume = MemoryVolume(BLOCKS, BLOCK, write_cache=True)
    volume.data[:] = pattern(BLOCKS)
    return volume


@pytest.fixture
def unit(volume: MemoryVolume) -> LogicalUnit:
    return LogicalUnit(volume, c.NAA)


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


def blocks_of(volume: MemoryVolume, lba: int, blocks: int) -> bytes:
    return bytes(volume.data[lba * BLOCK : (lba + blocks) * BLOCK])


# --- COMPARE AND WRITE ------------------------------------------------------------------------------------------------


def test_compare_and_write_writes_when_all_is_as_expected(host: c.Host, volume: MemoryVolume) -> None:
    old, new = blocks_of(volume, 5, 3), b"n" * 3 * BLOCK
    answer = host.send(compare_and_write(5, 3), old + new)
    assert answer.outcome == "GOOD"
    assert blocks_of(volume, 5, 3) == new
    assert volume.operations() == ["read 5+3", "write 5+3"]


def test_compare_and_write_with_fua_writes_with_fua(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(compare_and_write(5, 1, c.FUA | c.DPO), blocks_of(volume, 5, 1) + bytes(BLOCK)).outcome == "GOOD"
    assert volume.operations()[-1] == "write 5+1 fua"


@pytest.mark.parametrize("offset", [0, 1, 511, 512, 1023])
def test_v31_a_miscompare_tells_the_offset_of_the_first_byte_that_differs_and_writes_nothing(
    host: c.Host, volume: MemoryVolume, offset: int
) -> None:
    expected = bytearray(blocks_of(volume, 5, 2))
    expected[offset] ^= 0x80
    expected[1023] ^= 0x01
    answer = host.send(compare_and_write(5, 2), bytes(expected) + bytes(2 * BLOCK))
    assert answer.outcome == "0E/1D/00"
    assert answer.sense.information == offset
    assert volume.operations() == ["read 5+2"]
    assert host.send(c.write_10(5, 2), bytes(2 * BLOCK)).outcome == "GOOD", "the blocks are free again"


def test_v31_compare_and_write_of_no_blocks_does_nothing(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(compare_and_write(0, 0)).outcome == "GOOD"
    assert host.send(compare_and_write(BLOCKS, 0)).outcome == "GOOD"
    assert host.send(compare_and_write(BLOCKS + 1, 0)).outcome == "05/21/00"
    assert volume.operations() == []


def test_v31_compare_and_write_reaches_the_last_block_and_not_beyond(host: c.Host, volume: MemoryVolume) -> None:
    old = blocks_of(volume, BLOCKS - 1, 1)
    assert host.send(compare_and_write(BLOCKS - 1, 1), old + bytes(BLOCK)).outcome == "GOOD"
    for lba, blocks in ((BLOCKS, 1), (BLOCKS - 1, 2), (2**64 - 1, 1)):
        answer = host.send(compare_and_write(lba, blocks), bytes(2 * blocks * BLOCK))
        assert answer.outcome == "05/21/00"


def test_more_blocks_than_vpd_b0_says_are_refused(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(c.inquiry(0xB0)).data[5] == 255
    volume.max_transfer_blocks = 4
    assert host.send(c.inquiry(0xB0)).data[5] == 4
    answer = host.send(compare_and_write(0, 5), bytes(10 * BLOCK))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (13, None, True)


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK - 1])
def test_less_data_than_twice_the_blocks_is_refused(host: c.Host, volume: MemoryVolume, size: int) -> None:
    answer = host.send(compare_and_write(0, 1), bytes(size))
    assert answer.outcome == "05/0E/03"
    assert answer.ended.data_out_used == 2 * BLOCK
    assert volume.operations() == []


@pytest.mark.parametrize(("blocks", "size"), [(1, 2 * BLOCK + 1), (1, 4 * BLOCK), (0, 512 * BLOCK)])
def test_more_data_than_twice_the_blocks_is_refused(host: c.Host, volume: MemoryVolume, blocks: int, size: int) -> None:
    answer = host.send(compare_and_write(0, blocks), bytes(size))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (13, None, True)
    assert volume.operations() == []


# --- WRITE AND VERIFY -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", WRITE_AND_VERIFIES)
@pytest.mark.parametrize("byte_check", [0, 1])
def test_write_and_verify_writes_through_the_cache_and_reads(
    host: c.Host, volume: MemoryVolume, size: str, byte_check: int
) -> None:
    encode, opcode = WRITE_AND_VERIFIES[size]
    data = pattern(3, 77)
    assert host.send(encode(opcode, 9, 3, byte_check << 1), data).outcome == "GOOD"
    assert bytes(volume.stable[9 * BLOCK : 12 * BLOCK]) == data
    assert volume.operations() == ["write 9+3 fua", "read 9+3"]


@pytest.mark.parametrize("size", WRITE_AND_VERIFIES)
def test_write_and_verify_tells_where_the_medium_gives_other_data(
    host: c.Host, volume: MemoryVolume, size: str
) -> None:
    encode, opcode = WRITE_AND_VERIFIES[size]
    volume.hold = lambda operation: operation.name == "read"
    answer = host.send(encode(opcode, 9, 1, 0x02), bytes(BLOCK))
    volume.data[9 * BLOCK + 100] = 1
    volume.release()
    assert answer.outcome == "0E/1D/00"
    assert answer.sense.information == 100


@pytest.mark.parametrize("size", WRITE_AND_VERIFIES)
def test_write_and_verify_refuses_the_reserved_values_of_bytchk(host: c.Host, size: str) -> None:
    encode, opcode = WRITE_AND_VERIFIES[size]
    for byte_check in (2, 3):
        answer = host.send(encode(opcode, 0, 1, byte_check << 1), bytes(BLOCK))
        assert answer.outcome == "05/24/00"
        assert answer.sense.field == (10 if size == "32" else 1, 2, True)


def test_write_and_verify_counts_blocks_that_can_not_be_read(
    host: c.Host, unit: LogicalUnit, volume: MemoryVolume
) -> None:
    volume.fail("read", Fault.READ_ERROR)
    assert host.send(c.blocks_10(0x2E, 0, 1), bytes(BLOCK)).outcome == "03/11/00"
    assert unit.counters.verify_errors == 1


# --- What all of them refuse ------------------------------------------------------------------------------------------

ALL: dict[str, tuple[bytes, bytes]] = {
    "COMPARE AND WRITE": (compare_and_write(0, 1), pattern(1) + bytes(BLOCK)),
    "ORWRITE (16)": (c.blocks_16(0x8B, 0, 1), bytes(BLOCK)),
    "ORWRITE (32)": (c.blocks_32(0x000E, 0, 1), bytes(BLOCK)),
    **{
        f"WRITE AND VERIFY ({size})": (encode(opcode, 0, 1), bytes(BLOCK))
        for size, (encode, opcode) in WRITE_AND_VERIFIES.items()
    },
}


@pytest.mark.parametrize("name", ALL)
def test_nobody_writes_where_writing_is_not_allowed(volume: MemoryVolume, unit: LogicalUnit, name: str) -> None:
    cdb, data = ALL[name]
    assert c.Host(TargetPort(), unit, read_only=True).send(cdb, data).outcome == READ_ONLY
    host = c.Host(TargetPort(), unit)
    volume.read_only = True
    assert host.send(cdb, data).outcome == READ_ONLY
    volume.read_only = False
    host.send(c.RESERVE_6)
    other = c.Host(TargetPort(), unit, "iqn.2026-11.org.example:other")
    assert other.send(cdb, data).outcome == "RESERVATION CONFLICT"
    assert host.send(cdb, data).outcome == "GOOD"


@pytest.mark.parametrize("name", ALL)
def test_protection_information_is_refused(host: c.Host, name: str) -> None:
    cdb, data = ALL[name]
    at = 10 if cdb[0] == 0x7F else 1
    wrong = bytearray(cdb)
    wrong[at] |= 0x20
    answer = host.send(bytes(wrong), data)
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (at, 5, True)


@pytest.mark.parametrize("name", ALL)
def test_faults_of_the_volume_are_told_and_the_blocks_are_free_again(
    host: c.Host, unit: LogicalUnit, volume: MemoryVolume, name: str
) -> None:
    cdb, data = ALL[name]
    for operation, fault, outcome in (("read", Fault.READ_ERROR, "03/11/00"), ("write", Fault.NO_SPACE, "07/27/07")):
        volume.fail(operation, fault)
        assert host.send(cdb, data).outcome == outcome
        volume.heal()
        volume.data[:BLOCK] = pattern(1)
        assert unit.queue == 0
        assert host.send(cdb, data).outcome == "GOOD"
        volume.data[:BLOCK] = pattern(1)


# --- Nothing comes in between -----------------------------------------------------------------------------------------


def test_a_write_that_overlaps_waits_for_a_compare_and_write_and_others_do_not(
    host: c.Host, volume: MemoryVolume
) -> None:
    volume.hold = True
    compare = host.send(compare_and_write(5, 2), blocks_of(volume, 5, 2) + b"c" * 2 * BLOCK)
    over = host.send(c.write_10(6, 2), b"o" * 2 * BLOCK)
    beside = host.send(c.write_10(8, 1), b"b" * BLOCK)
    assert volume.operations() == ["read 5+2", "write 8+1"]
    volume.release()
    assert volume.operations()[2:] == ["write 5+2"]
    assert compare.outcome == over.outcome == "running"
    volume.release_all()
    assert {compare.outcome, over.outcome, beside.outcome} == {"GOOD"}
    assert blocks_of(volume, 5, 2) == b"c" * BLOCK + b"o" * BLOCK


def test_a_compare_and_write_waits_for_writes_in_flight(host: c.Host, volume: MemoryVolume) -> None:
    volume.hold = True
    write = host.send(c.write_10(5, 1), b"w" * BLOCK)
    compare = host.send(compare_and_write(5, 1), b"w" * BLOCK + b"c" * BLOCK)
    assert volume.operations() == ["write 5+1"]
    volume.release_all()
    assert (write.outcome, compare.outcome) == ("GOOD", "GOOD")
    assert blocks_of(volume, 5, 1) == b"c" * BLOCK


def test_an_aborted_compare_and_write_that_has_only_read_writes_nothing(host: c.Host, volume: MemoryVolume) -> None:
    volume.hold = True
    compare = host.send(compare_and_write(5, 1), blocks_of(volume, 5, 1) + b"c" * BLOCK)
    later = host.send(c.write_10(5, 1), b"l" * BLOCK)
    host.manage(Function.ABORT_TASK, compare)
    assert later.outcome == "running", "what was aborted still has its blocks"
    volume.release_all()
    assert (compare.outcome, later.outcome) == ("TASK ABORTED", "GOOD")
    assert volume.operations() == ["read 5+1", "write 5+1"]
    assert blocks_of(volume, 5, 1) == b"l" * BLOCK


def test_a_held_compare_and_write_that_is_aborted_holds_nobody_up(host: c.Host, volume: MemoryVolume) -> None:
    volume.hold = True
    host.send(c.write_10(5, 1), b"w" * BLOCK)
    compare = host.send(compare_and_write(5, 1), bytes(2 * BLOCK))
    host.send(c.read_10(5, 1))
    assert volume.operations() == ["write 5+1"]
    host.manage(Function.ABORT_TASK, compare)
    assert compare.outcome == "TASK ABORTED"
    assert volume.operations() == ["write 5+1", "read 5+1"]


def test_a_plain_write_goes_the_short_way_again_afterwards(host: c.Host, unit: LogicalUnit) -> None:
    assert not unit._careful
    host.send(compare_and_write(0, 1), bytes(2 * BLOCK))
    assert not unit._careful
    assert not unit._admission.tasks.exclusive


class _Claim:
    def __init__(self, volume: ClaimedVolume) -> None:
        self.volume = volume

    def lost(self) -> bool:
        return self.volume.lost

    def give_up(self, done: Callable[[], None]) -> None:
        self.volume.claims -= 1
        done()


class ClaimedVolume(MemoryVolume):
    """One that others can write to."""

    def __init__(self) -> None:
        super().__init__(BLOCKS)
        self.claims = 0
        self.lost = False
        self.refusal: VolumeError | None = None

    def claim(self, lba: int, blocks: int, done: ClaimDone) -> None:
        if self.refusal is None:
            self.claims += 1
            done(_Claim(self))
        else:
            done(self.refusal)


@pytest.mark.parametrize("name", ["COMPARE AND WRITE", "ORWRITE (16)", "ORWRITE (32)"])
def test_what_is_read_and_written_is_claimed_meanwhile(name: str) -> None:
    volume = ClaimedVolume()
    volume.data[:BLOCK] = pattern(1)
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    cdb, data = ALL[name]
    volume.hold = True
    answer = host.send(cdb, data)
    assert volume.claims == 1
    volume.release_all()
    assert answer.outcome == "GOOD"
    assert volume.claims == 0

    volume.data[:BLOCK] = pattern(1)
    volume.refusal = VolumeError(Fault.RESERVATION_CONFLICT)
    assert host.send(cdb, data).outcome == "RESERVATION CONFLICT"
    volume.refusal = None

    volume.journal.clear()
    volume.hold = True
    answer = host.send(cdb, data)
    volume.lost = True
    volume.release()
    assert answer.outcome == "BUSY", "the host tries it again"
    assert volume.operations() == ["read 0+1"]
    assert volume.claims == 0
    volume.lost = False

    answer = host.send(cdb, data)
    volume.release()
    volume.lost = True
    volume.release()
    assert answer.outcome == "0B/08/00", "it may be that another wrote in between"
    assert volume.claims == 0


def test_a_unit_that_can_not_be_claimed_does_not_have_them(host: c.Host, volume: MemoryVolume) -> None:
    volume.claimable = False
    for name in ("COMPARE AND WRITE", "ORWRITE (16)", "ORWRITE (32)"):
        cdb, data = ALL[name]
        action = 0x000E if cdb[0] == 0x7F else 0
        assert host.send(c.report_opcodes(3, cdb[0], action)).data[1] == 0x01, "not supported"
        assert host.send(cdb, data).outcome == ("05/24/00" if action else "05/20/00")
    assert not {0x89, 0x8B} & set(host.send(c.report_opcodes()).data[4::8])
    assert host.send(c.inquiry(0xB0, 0xFF)).data[5] == 0, "MAXIMUM COMPARE AND WRITE LENGTH"
    for size in WRITE_AND_VERIFIES:
        cdb, data = ALL[f"WRITE AND VERIFY ({size})"]
        assert host.send(cdb, data).outcome == "GOOD"
    assert {str(operation)[:4] for operation in volume.journal} == {"writ", "read"}
    volume.claimable = True
    assert host.send(c.inquiry(0xB0, 0xFF)).data[5] == 0xFF


@given(st.data())
def test_compare_and_write_among_other_commands_is_linear(data: st.DataObject) -> None:
    """Counters in blocks: each of many hosts adds one by COMPARE AND WRITE, as others write other blocks of theirs."""
    volume = MemoryVolume(8, BLOCK)
    volume.hold = True
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    known = [0] * 4  # what a host believes to be in each block
    added = [0] * 4
    compares: list[tuple[int, int, c.FakeCommand]] = []
    writes: dict[int, list[c.FakeCommand]] = {}

    def block(value: int) -> bytes:
        return value.to_bytes(4, "big") * (BLOCK // 4)

    for _ in range(data.draw(st.integers(1, 40))):
        match data.draw(st.sampled_from(["compare", "or", "write", "read", "release", "release", "abort"])):
            case "compare":
                lba = data.draw(st.integers(0, 3))
                was = known[lba]
                compares.append((lba, was, host.send(compare_and_write(lba, 1), block(was) + block(was + 1))))
            case "or":
                or_data = block(1 << data.draw(st.integers(0, 7)))
                writes.setdefault(5, []).append(host.send(c.blocks_16(0x8B, 5, 1), or_data))
            case "write":
                lba = data.draw(st.integers(4, 6))
                writes.setdefault(lba, []).append(host.send(c.write_10(lba, 1), block(0)))
            case "read":
                host.send(c.read_10(0, 8))
            case "release" if volume.held:
                volume.release(data.draw(st.integers(0, len(volume.held) - 1)))
            case "abort" if compares:
                host.manage(Function.ABORT_TASK, compares[-1][2])
        for entry in [entry for entry in compares if entry[2].answer is not None]:
            compares.remove(entry)
            lba, was, command = entry
            if command.outcome == "GOOD":
                added[lba] += 1
                known[lba] = was + 1
            else:
                assert command.outcome in {"0E/1D/00", "TASK ABORTED"}
                known[lba] = int.from_bytes(volume.data[lba * BLOCK : lba * BLOCK + 4], "big")
    volume.release_all()
    for lba, _, command in compares:
        added[lba] += command.outcome == "GOOD"
    for lba in range(4):
        content = bytes(volume.data[lba * BLOCK : (lba + 1) * BLOCK])
        aborted_writes = int.from_bytes(content[:4], "big") - added[lba]
        assert content == block(added[lba] + aborted_writes)
        assert aborted_writes >= 0, "no addition that was acknowledged is lost"
    assert all(command.outcome == "GOOD" for commands in writes.values() for command in commands)
