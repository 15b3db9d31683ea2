import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsi.command_set import COMMANDS
from scsi.commands import VARIABLE_LENGTH, Allow, Command, CommandTable, Direction, Medium, decode_nothing
from scsi.errors import InvalidFieldInCdb
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume
from tests.support.saved import FakeSaved

ROWS = {row.name: row for row in COMMANDS.rows}


def a_row(usage: str, **more: object) -> Command:
    values: dict[str, object] = {
        "name": "SAMPLE",
        "usage": usage,
        "decode": decode_nothing,
        "run": lambda unit, task, fields: unit.finish(task),
        "direction": Direction.NONE,
        "allow": Allow.NOWHERE,
        "spec": "none",
    }
    return Command(**(values | more))  # type: ignore[arg-type]  # a test's own mixture


def host_of_everything() -> c.Host:
    return c.Host(TargetPort(), LogicalUnit(MemoryVolume(), c.NAA, saved=FakeSaved()))


def control_offset(row: Command) -> int:
    return 1 if row.opcode == VARIABLE_LENGTH else row.cdb_bytes - 1


def test_the_commands_of_issue_2_are_all_there() -> None:
    wanted = """TEST UNIT READY, REQUEST SENSE, INQUIRY, MODE SENSE (6), MODE SENSE (10), REPORT LUNS, START STOP UNIT,
        READ CAPACITY (10), READ CAPACITY (16), READ (6), READ (10), READ (12), READ (16), WRITE (6), WRITE (10),
        WRITE (12), WRITE (16), VERIFY (10), VERIFY (12), VERIFY (16), SYNCHRONIZE CACHE (10), SYNCHRONIZE CACHE (16),
        RESERVE (6), RESERVE (10), RELEASE (6), RELEASE (10), REPORT SUPPORTED OPERATION CODES"""
    assert {" ".join(name.split()) for name in wanted.split(",")} <= set(ROWS)


@pytest.mark.parametrize("row", COMMANDS.rows, ids=lambda row: row.name)
def test_a_usage_map_begins_with_the_opcode_and_has_the_length_of_its_group(row: Command) -> None:
    assert row.usage_map[0] == row.opcode
    assert len(row.usage_map) == row.cdb_bytes == {0: 6, 1: 10, 2: 10, 3: 32, 4: 16, 5: 12, 6: 16}[row.opcode >> 5]
    assert row.usage_map[control_offset(row)] == 0x04, "NACA is looked at"


# Commands that have no LBA and length in their CDB: what they may overlap.
MOST_BLOCKS = {"COMPARE AND WRITE": 0xFF, "WRITE ATOMIC (16)": 0xFFFF}
RANGES = {
    "UNMAP": (0, 2**64),
    "GET LBA STATUS (16)": (2**64 - 1, 0),
    "GET LBA STATUS (32)": (2**64 - 1, 0),
    "ORWRITE (32)": (0, 2**64),
}


@pytest.mark.parametrize("row", COMMANDS.rows, ids=lambda row: row.name)
def test_rows_that_read_or_write_decode_to_flags_lba_and_blocks(row: Command) -> None:
    if row.medium in {Medium.READ, Medium.WRITE}:
        cdb = bytearray(row.usage_map.ljust(16, b"\0"))
        cdb[control_offset(row)] = 0
        _, lba, blocks, *_ = row.decode(bytes(cdb))
        if row.name in RANGES:
            assert (lba, blocks) == RANGES[row.name]
            return
        assert lba == {6: 0x1FFFFF, 16: 2**64 - 1, 32: 2**64 - 1}.get(row.cdb_bytes, 2**32 - 1)
        most = MOST_BLOCKS.get(row.name) or {6: 0xFF, 10: 0xFFFF}.get(row.cdb_bytes, 2**32 - 1)
        assert blocks == most


@given(st.sampled_from(COMMANDS.rows), st.integers(1, 31), st.integers(0, 7))
def test_a_bit_that_is_neither_looked_at_nor_ignored_is_refused_with_a_pointer_to_it(
    row: Command, offset: int, bit: int
) -> None:
    cdb = c.empty_cdb(row)
    length = len(cdb)
    offset %= length
    ignored = bytes.fromhex(row.ignored).ljust(length, b"\0")[offset]
    looked_at = row.usage_map.ljust(length, b"\xff")[offset]
    if offset == control_offset(row):
        ignored |= 0xC3  # the vendor's bits, LINK and FLAG
        looked_at &= ~0x04  # NACA
    if offset == 0 or (row.opcode == VARIABLE_LENGTH and offset in {7, 8, 9}):
        ignored = 0xFF  # of another length, or another command: `CommandTable.find` says so
    elif row.service_action and offset == 1 and row.opcode != VARIABLE_LENGTH:
        ignored |= 0x1F
    cdb[offset] |= 1 << bit
    allowed = (ignored | looked_at) >> bit & 1
    assert bool(row.reserved >> (8 * (length - 1 - offset) + bit) & 1) is not bool(allowed)
    if allowed:
        row.refuse_reserved(bytes(cdb))
    else:
        with pytest.raises(InvalidFieldInCdb) as refused:
            row.refuse_reserved(bytes(cdb))
        assert refused.value.field == (offset, bit, True)


@pytest.mark.parametrize("row", [row for row in COMMANDS.rows if row.available is None], ids=lambda row: row.name)
def test_naca_is_refused_on_every_command(row: Command) -> None:
    cdb = c.empty_cdb(row)
    cdb[control_offset(row)] |= 0x04
    answer = host_of_everything().send(bytes(cdb))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (control_offset(row), 2, True)


@pytest.mark.parametrize(
    ("cdb", "why"),
    [
        ("28 10 00000000 00 0001 00", "DPO"),
        ("28 08 00000000 00 0001 00", "FUA"),
        ("28 07 00000000 00 0001 00", "RARC, FUA_NV, RELADR"),
        ("28 00 00000000 1f 0001 00", "GROUP NUMBER"),
        ("28 00 00000000 00 0001 c3", "vendor bits, LINK and FLAG in CONTROL"),
        ("08 e0 00 00 01 00", "the LUN in byte 1, of SCSI-2"),
        ("25 01 00000001 0000 01 00", "LBA and PMI, obsolete"),
    ],
)
def test_what_hosts_set_without_harm_is_let_pass(cdb: str, why: str) -> None:
    assert host_of_everything().send(bytes.fromhex(cdb)).outcome == "GOOD", why


@pytest.mark.parametrize("opcode", [0x28, 0x2A, 0x2F, 0xA8, 0xAA, 0xAF, 0x88, 0x8A, 0x8F])
def test_protection_information_is_refused_because_there_is_none(opcode: int) -> None:
    answer = host_of_everything().send(bytes((opcode, 0x20)).ljust(16, b"\0"))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (1, 5, True)


def test_a_longer_cdb_is_checked_as_any_other() -> None:
    host = host_of_everything()
    assert host.send(c.read_10(0, 1, 0x20).ljust(48, b"\0")).sense.field == (1, 5, True)
    assert host.send(c.read_10(3, 1).ljust(48, b"\0")).outcome == "GOOD"


def test_an_opcode_that_is_not_there_is_refused() -> None:
    host = host_of_everything()
    known = {row.opcode for row in COMMANDS.visible(host.nexus.lun_map[c.LUN_0].logical_unit, host.nexus)}
    for opcode in set(range(256)) - known:
        assert host.send(bytes((opcode,)).ljust(16, b"\0")).outcome == "05/20/00", f"{opcode:02X}h"


def test_a_service_action_that_is_not_there_is_an_invalid_field() -> None:
    answer = host_of_everything().send(bytes.fromhex("9e11") + bytes(14))
    assert answer.outcome == "05/24/00"
    assert answer.sense.field == (1, 4, True)


# 1A and 26 from those that take a parameter list.
ANSWERS = {
    "GOOD",
    "CONDITION MET",
    "05/20/00",
    "05/24/00",
    "05/21/00",
    "05/0E/03",
    "05/39/00",
    "05/1A/00",
    "05/26/00",
    "05/2C/00",
    "05/2C/0C",
    "0E/1D/00",
}


@given(st.binary(min_size=16, max_size=260), st.binary(max_size=2048))
def test_a_cdb_of_any_content_and_length_gets_an_answer(cdb: bytes, data_out: bytes) -> None:
    answer = host_of_everything().send(cdb, data_out)
    assert answer.outcome in ANSWERS


@given(st.integers(0, 255), st.binary(min_size=15, max_size=15))
def test_every_opcode_with_any_bits_gets_an_answer_that_fits(opcode: int, rest: bytes) -> None:
    answer = host_of_everything().send(bytes((opcode,)) + rest)
    assert answer.outcome in ANSWERS


# Offset and size of the ALLOCATION LENGTH, by the length of the CDB, and where it is elsewhere.
ALLOCATION = {6: (4, 1), 10: (7, 2), 12: (6, 4), 16: (10, 4), 32: (28, 4)}
ALLOCATION_OF = {"INQUIRY": (3, 2), "RECEIVE DIAGNOSTIC RESULTS": (3, 2), "READ BUFFER (10)": (6, 3)}
# What else a CDB needs to be one that is answered: value by offset.
FIELDS = {
    "MODE SENSE (6)": {2: 0x3F},
    "MODE SENSE (10)": {2: 0x3F},
    "LOG SENSE": {2: 0x59},
    "READ BUFFER (10)": {1: 0x0B},
}
WITHOUT_ALLOCATION = {"READ CAPACITY (10)", "READ (6)", "READ (10)", "READ (12)", "READ (16)", "READ (32)"}
# Those of arrays are tested with their server, and the others need a copy that there was.
TESTED_ELSEWHERE = {0xC0, 0x84}
DATA_IN = [row for row in COMMANDS.rows if row.direction is Direction.TO_INITIATOR]


@pytest.mark.parametrize(
    "row",
    [
        row
        for row in DATA_IN
        if row.name not in WITHOUT_ALLOCATION
        and (row.opcode not in TESTED_ELSEWHERE or row.name == "RECEIVE COPY OPERATING PARAMETERS")
    ],
    ids=lambda row: row.name,
)
def test_v30_data_in_is_cut_at_any_allocation_length_and_nothing_else_changes(row: Command) -> None:
    offset, size = ALLOCATION_OF.get(row.name) or ALLOCATION[row.cdb_bytes]
    assert row.usage_map[offset : offset + size] == b"\xff" * size, "there is the allocation length"
    base = c.empty_cdb(row)
    for at, value in FIELDS.get(row.name, {}).items():
        base[at] = value
    host = host_of_everything()

    def ask(length: int) -> bytes:
        cdb = base.copy()
        cdb[offset : offset + size] = length.to_bytes(size, "big")
        return host.send(bytes(cdb)).data

    whole = ask((1 << 8 * size) - 1)
    assert len(whole) >= 4
    for length in range(len(whole) + 2):
        if length < 1 << 8 * size:
            assert ask(length) == whole[:length], "the length within the data is that of all of it"


def test_a_table_refuses_an_opcode_that_is_listed_twice() -> None:
    with pytest.raises(AssertionError, match="twice"):
        CommandTable([a_row("1b 00 00 00 00 04")], [a_row("1b 00 00 00 00 04")])


def test_an_opcode_that_is_off_for_a_host_is_not_there_for_it() -> None:
    row = a_row("c2 00 00000000 00000000 00000000 00 04", available=lambda _unit, nexus: nexus.array_control)
    table = CommandTable([row])
    port = TargetPort()
    unit = LogicalUnit(MemoryVolume(), c.NAA)
    allowed = c.Host(port, unit)
    barred = c.Host(port, unit, array_control=False)
    assert table.find(bytes((0xC2,)).ljust(16, b"\0"), unit, allowed.nexus) is row
    assert list(table.visible(unit, allowed.nexus)) == [row]
    assert table.of_opcode(0xC2, unit, barred.nexus) == {}
    assert list(table.visible(unit, barred.nexus)) == []
