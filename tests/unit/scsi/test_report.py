import struct
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyscsi.pyscsi.scsi_cdb_report_luns import ReportLuns
from pyscsi.pyscsi.scsi_enum_command import spc

from scsi.array_services import ArrayServices
from scsi.command_set import COMMANDS
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit
from scsi.sense import decode_sense
from scsi.target import TargetPort
from scsi.volume import Deallocation, Fault, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume
from tests.support.saved import FakeSaved


@pytest.fixture
def volume() -> MemoryVolume:
    volume = MemoryVolume()
    volume.deallocation = Deallocation(8)  # or there is no UNMAP
    return volume


@pytest.fixture
def unit(volume: MemoryVolume) -> LogicalUnit:
    return LogicalUnit(volume, c.NAA, saved=FakeSaved())


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


# --- REPORT LUNS ------------------------------------------------------------------------------------------------------


def test_report_luns_lists_the_map_of_the_nexus_in_order(unit: LogicalUnit) -> None:
    port = TargetPort()
    luns = [c.lun(0), c.lun(7), bytes.fromhex("4100") + bytes(6)]
    host = c.Host(port, {lun: MappedUnit(unit) for lun in reversed(luns)})
    other = c.Host(port, {c.lun(0): MappedUnit(unit)})
    data = host.send(bytes(ReportLuns(spc.REPORT_LUNS).cdb)).data
    assert data == struct.pack(">I4x", 24) + b"".join(luns)  # PyScsi's own decoder stops four bytes early
    assert other.send(c.report_luns()).data == struct.pack(">II8s", 8, 0, c.lun(0))


@pytest.mark.parametrize(("select", "count"), [(0, 1), (1, 0), (2, 1)])
def test_select_report_tells_apart_what_is_well_known(host: c.Host, select: int, count: int) -> None:
    assert len(host.send(c.report_luns(select=select)).data) == 8 + 8 * count


@pytest.mark.parametrize("select", [3, 0x10, 0x11, 0x12, 0xFF])
def test_other_select_reports_are_refused(host: c.Host, select: int) -> None:
    assert host.send(c.report_luns(select=select)).sense.field == (2, None, True)


def test_report_luns_gives_the_whole_length_however_short_the_answer(host: c.Host) -> None:
    assert host.send(c.report_luns(4)).data == struct.pack(">I", 8)


# --- REQUEST SENSE ----------------------------------------------------------------------------------------------------


def test_request_sense_says_no_sense_when_there_is_nothing(host: c.Host) -> None:
    data = host.send(c.REQUEST_SENSE).data
    assert len(data) == 18
    assert decode_sense(data)[:3] == (0, 0, 0)


def test_request_sense_gives_the_format_that_it_is_asked_for(host: c.Host) -> None:
    assert host.send(bytes.fromhex("03010000ff00")).data[0] == 0x72
    assert host.send(bytes.fromhex("03000000ff00")).data[0] == 0x70


def test_request_sense_says_why_the_unit_is_not_ready(host: c.Host, volume: MemoryVolume) -> None:
    volume.unready = VolumeError(Fault.BECOMING_READY)
    assert decode_sense(host.send(c.REQUEST_SENSE).data)[:3] == (0x02, 0x04, 0x01)


def test_request_sense_gives_a_unit_attention_as_data_and_clears_it(host: c.Host, unit: LogicalUnit) -> None:
    unit.capacity_changed()
    assert decode_sense(host.send(c.REQUEST_SENSE).data)[:3] == (0x06, 0x2A, 0x09)
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"


# --- REPORT SUPPORTED OPERATION CODES ---------------------------------------------------------------------------------


def listed(data: bytes, size: int = 8) -> list[tuple[int, int, int, int]]:
    """Opcode, service action, flags and CDB length of each row in the all-commands format."""
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert (len(data) - 4) % size == 0
    return [struct.unpack_from(">BxHxBH", data, at) for at in range(4, len(data), size)]


def test_all_commands_are_listed_in_order_with_their_cdb_lengths(host: c.Host) -> None:
    rows = listed(host.send(c.report_opcodes()).data)
    expected = [
        (row.opcode, row.key[1], int(row.service_action), row.cdb_bytes)
        for row in COMMANDS.visible(host.nexus.lun_map[c.LUN_0].logical_unit, host.nexus)
        if row.cdb_bytes <= 16
    ]
    assert rows == expected == sorted(rows)
    assert (0x28, 0, 0, 10) in rows
    assert (0x9E, 0x10, 1, 16) in rows
    assert (0xA3, 0x0C, 1, 12) in rows


def test_every_command_listed_is_one_that_is_done(host: c.Host) -> None:
    for opcode, action, flags, length in listed(host.send(c.report_opcodes()).data):
        cdb = bytes((opcode, action if flags else 0)).ljust(length, b"\0")
        assert host.send(cdb).outcome != "05/20/00", f"{opcode:02X}h"


def test_with_rctd_every_row_has_its_time_outs(host: c.Host) -> None:
    data = host.send(c.report_opcodes(timeouts=True)).data
    rows = listed(data, 20)
    assert all(flags & 0x02 for _, _, flags, _ in rows)
    timeouts = {
        row[0]: struct.unpack_from(">HxBII", data, 12 + 20 * index) for index, row in enumerate(rows) if row[0] == 0x2A
    }
    assert timeouts[0x2A] == (0x0A, 0, 0, 30)


def test_one_command_is_described_by_its_usage_map(host: c.Host) -> None:
    data = host.send(c.report_opcodes(1, 0x2A)).data
    assert data.hex() == "0003000a" + "2a18ffffffff1fffff04"
    data = host.send(c.report_opcodes(2, 0x9E, 0x10, timeouts=True)).data
    assert data[:4].hex() == "00830010"
    assert data[4:20].hex() == "9e100000000000000000ffffffff0004"
    assert data[20:22].hex() == "000a"
    assert len(data) == 32


@pytest.mark.parametrize(
    ("options", "opcode", "action"), [(1, 0xFE, 0), (2, 0xFE, 0), (3, 0xFE, 0), (2, 0x9E, 0x1F), (3, 0x28, 1)]
)
def test_a_command_that_is_not_there_is_said_to_be_not_supported(
    host: c.Host, options: int, opcode: int, action: int
) -> None:
    assert host.send(c.report_opcodes(options, opcode, action)).data.hex() == "00010000"


def test_asking_for_a_service_action_where_there_are_none_or_the_other_way_round_is_refused(host: c.Host) -> None:
    assert host.send(c.report_opcodes(1, 0x9E)).outcome == "05/24/00"
    assert host.send(c.report_opcodes(2, 0x28)).outcome == "05/24/00"


@pytest.mark.parametrize("timeouts", [False, True])
def test_v26_every_opcode_and_service_action_is_answered_within_the_allocation_length(
    host: c.Host, timeouts: bool
) -> None:
    known = {row.key for row in COMMANDS.rows}
    for opcode in range(0x100):
        for action in (*range(0x21), 0x7F, 0xFF, 0x100, 0x8000, 0xFFFF):
            whole = host.send(c.report_opcodes(3, opcode, action, timeouts=timeouts)).data
            size = int.from_bytes(whole[2:4], "big")
            has = whole[1] & 0x07 == 0x03
            if not has:
                assert whole.hex() == "00010000"
            else:
                assert (opcode, action) in known
                assert whole[4] == opcode
                assert len(whole) == 4 + size + (12 if timeouts else 0)
            for length in range(len(whole) + 2):
                cdb = c.report_opcodes(3, opcode, action, timeouts=timeouts, allocation=length)
                assert host.send(cdb).data == whole[:length]


@given(st.binary(min_size=10, max_size=10))
def test_v26_a_report_asked_for_with_any_fields_is_answered(rest: bytes) -> None:
    host = c.Host(TargetPort(), LogicalUnit(MemoryVolume(), c.NAA))
    answer = host.send(bytes.fromhex("a30c") + rest)
    assert answer.outcome in {"GOOD", "05/24/00"}
    if answer.outcome == "GOOD":
        assert len(answer.data) <= int.from_bytes(rest[4:8], "big")


def test_option_3_takes_commands_with_and_without_service_actions(host: c.Host) -> None:
    assert host.send(c.report_opcodes(3, 0x28)).data[1] == 0x03
    assert host.send(c.report_opcodes(3, 0x9E, 0x10)).data[1] == 0x03


def test_reserved_reporting_options_are_refused(host: c.Host) -> None:
    for options in range(4, 8):
        assert host.send(c.report_opcodes(options)).sense.field == (2, 2, True)


@pytest.mark.parametrize(
    ("services", "array_control", "opcodes"),
    [(False, True, set()), (True, False, {0xC0}), (True, True, {0xC0, 0xC1})],
)
def test_array_commands_are_listed_only_for_hosts_that_have_them(
    volume: MemoryVolume, services: bool, array_control: bool, opcodes: set[int]
) -> None:
    never_called = cast("ArrayServices", object())
    unit = LogicalUnit(volume, c.NAA, array_services=never_called if services else None)
    host = c.Host(TargetPort(), unit, array_control=array_control)
    found = {row[0] for row in listed(host.send(c.report_opcodes()).data)}
    assert found & {0xC0, 0xC1} == opcodes
    for opcode in {0xC0, 0xC1} - opcodes:
        assert host.send(bytes((opcode,)).ljust(16, b"\0")).outcome == "05/20/00"
        assert host.send(c.report_opcodes(2, opcode, 0)).data.hex() == "00010000"
