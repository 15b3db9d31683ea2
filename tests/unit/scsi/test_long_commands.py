"""CDBs of variable length: READ (32) and its like, and what is refused of the others."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scsi.command_set import COMMANDS
from scsi.commands import VARIABLE_LENGTH
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

BLOCK = 512
BLOCKS = 2048
READ, VERIFY, WRITE = 0x0009, 0x000A, 0x000B


@pytest.fixture
def volume() -> MemoryVolume:
    volume = MemoryVolume(BLOCKS, BLOCK, write_cache=True)
    volume.data[:] = bytes(at // BLOCK % 251 for at in range(BLOCKS * BLOCK))
    return volume


@pytest.fixture
def host(volume: MemoryVolume) -> c.Host:
    return c.Host(TargetPort(), LogicalUnit(volume, c.NAA))


def test_read_32_and_write_32_do_what_their_shorter_forms_do(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(c.blocks_32(READ, 5, 3)).data == bytes(volume.data[5 * BLOCK : 8 * BLOCK])
    assert host.send(c.blocks_32(WRITE, 7, 2, c.FUA), b"w" * 2 * BLOCK).outcome == "GOOD"
    assert host.send(c.blocks_32(READ, 7, 2)).data == b"w" * 2 * BLOCK
    assert volume.operations() == ["read 5+3", "write 7+2 fua", "read 7+2"]


def test_verify_32_compares(host: c.Host) -> None:
    assert host.send(c.blocks_32(VERIFY, 3, 2)).outcome == "GOOD"
    assert host.send(c.blocks_32(VERIFY, 3, 2, 0x02), bytes([3]) * BLOCK + bytes([4]) * BLOCK).outcome == "GOOD"
    answer = host.send(c.blocks_32(VERIFY, 3, 1, 0x02), bytes([3]) * 100 + bytes([9]) * 412)
    assert answer.outcome == "0E/1D/00"
    assert answer.sense.information == 100
    assert host.send(c.blocks_32(VERIFY, 0, 1, 0x04)).sense.field == (10, 2, True)


@pytest.mark.parametrize("action", [READ, WRITE, VERIFY])
def test_blocks_past_the_end_and_too_many_of_them_are_refused_at_their_field(host: c.Host, action: int) -> None:
    answer = host.send(c.blocks_32(action, BLOCKS - 1, 2))
    assert answer.outcome == "05/21/00"
    assert answer.sense.information == BLOCKS
    assert host.send(c.blocks_32(action, 2**64 - 1, 1)).outcome == "05/21/00"
    big = c.Host(TargetPort(), LogicalUnit(MemoryVolume(40000), c.NAA))
    assert big.send(c.blocks_32(action, 0, 40000)).sense.field == (28, None, True)


def test_protection_information_is_refused_and_its_tags_are_ignored(host: c.Host) -> None:
    assert host.send(c.blocks_32(READ, 0, 1, 0x20)).sense.field == (10, 5, True)
    tagged = bytearray(c.blocks_32(READ, 0, 1))
    tagged[20:28] = b"\xff" * 8
    assert host.send(bytes(tagged)).outcome == "GOOD"


def test_the_length_in_the_cdb_and_that_of_the_cdb_must_be_right(host: c.Host) -> None:
    cdb = c.blocks_32(READ, 0, 1)
    for wrong in (cdb[:16], cdb[:31], cdb + b"\0", cdb.ljust(260, b"\0")):
        assert host.send(wrong).sense.field == (7, None, True)
    for additional in set(range(256)) - {0x18}:
        assert host.send(cdb[:7] + bytes((additional,)) + cdb[8:]).sense.field == (7, None, True)


def test_a_service_action_that_is_not_there_is_an_invalid_field_in_bytes_8_and_9(host: c.Host) -> None:
    known = {row.key[1] for row in COMMANDS.rows if row.opcode == VARIABLE_LENGTH}
    for action in set(range(0, 0x10000, 7)) | set(range(64)):
        if action not in known:
            answer = host.send(c.blocks_32(action, 0, 1))
            assert answer.outcome == "05/24/00"
            assert answer.sense.field == (8, None, True)


def test_rsoc_tells_of_them_one_by_one_with_their_usage_map(host: c.Host) -> None:
    for action in (READ, VERIFY, WRITE):
        one = host.send(c.report_opcodes(2, VARIABLE_LENGTH, action)).data
        assert one[:4] == bytes.fromhex("00030020")
        flags = 0x16 if action == VERIFY else 0x18
        assert one[4:] == bytes.fromhex(
            f"7f 04 00000000 1f 18 {action:04x} {flags:02x} 00 ffffffffffffffff 00000000 0000 0000 ffffffff"
        )
    assert host.send(c.report_opcodes(1, VARIABLE_LENGTH)).outcome == "05/24/00"
    assert host.send(c.report_opcodes(3, VARIABLE_LENGTH, 0x1234)).data[1] == 0x01


def test_rsoc_leaves_them_out_of_the_list_because_libiscsi_does_not_take_so_long_a_usage_map(host: c.Host) -> None:
    data = host.send(c.report_opcodes()).data
    assert VARIABLE_LENGTH not in {data[at] for at in range(4, len(data), 8)}


# Everything else has fields of its own to be wrong.
NOT_THERE = set(range(256)) - {row.opcode for row in COMMANDS.rows}
ANSWERS = {
    "GOOD", "CONDITION MET", "RESERVATION CONFLICT", "0E/1D/00",
    "05/1A/00", "05/20/00", "05/21/00", "05/24/00", "05/0E/03", "05/26/00", "05/2C/00", "05/2C/0C", "05/39/00",
}  # fmt: skip


@given(st.integers(0, 255), st.integers(0, 260), st.integers(0, 255), st.binary(max_size=64))
@example(0x7F, 260, 0xFC, b"")
@example(0x7F, 16, 0xFF, b"")
@example(0x7F, 0, 0x00, b"")
def test_v29_any_opcode_in_a_cdb_of_any_length_is_answered(
    opcode: int, length: int, additional: int, rest: bytes
) -> None:
    cdb = bytearray(rest.ljust(max(length, 16), b"\0")[: max(length, 16)])  # the transport always has 16 bytes
    cdb[0] = opcode
    cdb[7] = additional
    volume = MemoryVolume(64)
    answer = c.Host(TargetPort(), LogicalUnit(volume, c.NAA)).send(bytes(cdb), bytes(1024))
    assert answer.outcome in ANSWERS
    if opcode in NOT_THERE:
        assert answer.outcome == "05/20/00"


@pytest.mark.slow
def test_v29_every_opcode_in_a_cdb_of_every_length_is_answered(host: c.Host) -> None:
    for opcode in range(256):
        for length in range(16, 261):
            outcome = host.send(bytes((opcode,)).ljust(length, b"\0")).outcome
            assert outcome in ANSWERS, f"{opcode:02X}h in {length} bytes"
            if opcode == VARIABLE_LENGTH:
                assert outcome == "05/24/00"
