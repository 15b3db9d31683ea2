import pytest
from pyscsi.pyscsi.scsi_cdb_inquiry import Inquiry

from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit
from scsi.sense import decode_sense
from scsi.target import TargetPort
from scsi.task_management import Function, Response
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume


@pytest.fixture
def unit() -> LogicalUnit:
    return LogicalUnit(MemoryVolume(), c.NAA)


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


def attentions(host: c.Host, lun: bytes = c.LUN_0) -> list[str]:
    found = []
    while (outcome := host.send(c.TEST_UNIT_READY, lun=lun).outcome) != "GOOD":
        found.append(outcome)
    return found


# --- LUNs without a logical unit --------------------------------------------------------------------------------------


def test_inquiry_of_a_lun_that_is_not_there_says_that_there_is_none(host: c.Host) -> None:
    data = host.send(c.inquiry(), lun=c.lun(5)).data
    theirs = Inquiry.unmarshall_datain(bytearray(data))
    assert (theirs["peripheral_qualifier"], theirs["peripheral_device_type"]) == (3, 0x1F)
    assert theirs["additional_length"] == len(data) - 5
    assert host.send(c.inquiry(allocation=5), lun=c.lun(5)).data == data[:5]


def test_the_only_page_of_a_lun_that_is_not_there_is_the_list_of_pages(host: c.Host) -> None:
    assert host.send(c.inquiry(0x00), lun=c.lun(5)).data.hex() == "7f00000100"
    assert host.send(c.inquiry(0x83), lun=c.lun(5)).outcome == "05/24/00"


def test_report_luns_is_answered_at_any_lun(host: c.Host) -> None:
    assert host.send(c.report_luns(), lun=c.lun(5)).data == host.send(c.report_luns()).data
    assert host.send(c.report_luns(select=9), lun=c.lun(5)).outcome == "05/24/00"


def test_request_sense_of_a_lun_that_is_not_there_gives_the_reason_as_data(host: c.Host) -> None:
    assert decode_sense(host.send(c.REQUEST_SENSE, lun=c.lun(5)).data)[:3] == (0x05, 0x25, 0x00)


@pytest.mark.parametrize("cdb", [c.TEST_UNIT_READY, c.read_10(0, 1), c.report_opcodes(), c.RESERVE_6, b"\xfe"])
def test_everything_else_is_refused_there(host: c.Host, cdb: bytes) -> None:
    assert host.send(cdb, lun=c.lun(5)).outcome == "05/25/00"


def test_reserved_bits_are_refused_there_too(host: c.Host) -> None:
    assert host.send(bytes.fromhex("12000000ff04"), lun=c.lun(5)).outcome == "05/24/00"


def test_a_host_that_sees_nothing_gets_an_empty_list() -> None:
    host = c.Host(TargetPort(), {})
    assert host.send(c.report_luns()).data == bytes(8)


# --- LUN addressing ---------------------------------------------------------------------------------------------------


def test_flat_space_addressing_reaches_the_same_unit(unit: LogicalUnit) -> None:
    host = c.Host(TargetPort(), {c.lun(7): MappedUnit(unit)})
    flat = bytes.fromhex("4007") + bytes(6)
    assert host.send(c.TEST_UNIT_READY, lun=flat).outcome == "GOOD"
    assert host.manage(Function.LOGICAL_UNIT_RESET, lun=flat) is Response.FUNCTION_COMPLETE


@pytest.mark.parametrize("lun", ["0100000000000000", "8007000000000000", "c007000000000000", "0007000000000001"])
def test_other_addresses_reach_nothing(unit: LogicalUnit, lun: str) -> None:
    host = c.Host(TargetPort(), {c.lun(7): MappedUnit(unit)})
    assert host.send(c.TEST_UNIT_READY, lun=bytes.fromhex(lun)).outcome == "05/25/00"


# --- Nexuses ----------------------------------------------------------------------------------------------------------


def test_a_lost_nexus_leaves_nothing_behind(host: c.Host, unit: LogicalUnit) -> None:
    unit.capacity_changed()
    host.leave()
    unit.capacity_changed()
    assert unit.nexuses == set()
    assert host.port.nexuses == set()
    assert host.nexus.attentions == {}


def test_a_map_that_does_not_differ_tells_the_host_nothing(host: c.Host) -> None:
    host.port.remap(host.nexus, dict(host.nexus.lun_map))
    assert attentions(host) == []


def test_a_new_unit_in_the_map_is_announced_on_all_units(host: c.Host, unit: LogicalUnit) -> None:
    other = LogicalUnit(MemoryVolume(), c.NAA)
    host.port.remap(host.nexus, {c.lun(0): MappedUnit(unit), c.lun(1): MappedUnit(other)})
    assert attentions(host, c.lun(0)) == ["06/3F/0E"]
    assert attentions(host, c.lun(1)) == ["06/3F/0E"]
    assert host.nexus in other.nexuses


def test_a_unit_taken_out_of_the_map_forgets_the_nexus(host: c.Host, unit: LogicalUnit) -> None:
    volume = MemoryVolume()
    volume.hold = True
    other = LogicalUnit(volume, c.NAA)
    host.port.remap(host.nexus, {c.lun(0): MappedUnit(unit), c.lun(1): MappedUnit(other)})
    attentions(host, c.lun(0))
    attentions(host, c.lun(1))
    host.send(c.RESERVE_6, lun=c.lun(1))
    running = host.send(c.read_10(0, 1), lun=c.lun(1))
    host.port.remap(host.nexus, {c.lun(0): MappedUnit(unit)})
    assert running.answer is None, "it runs on"
    assert other.reservations.holder is None
    assert other.nexuses == set()
    assert host.send(c.read_10(0, 1), lun=c.lun(1)).outcome == "05/25/00"
    assert attentions(host) == ["06/3F/0E"]
    volume.release_all()
    assert running.outcome == "GOOD"


def test_a_unit_made_read_only_is_announced_and_refuses_writes(host: c.Host, unit: LogicalUnit) -> None:
    host.port.remap(host.nexus, {c.lun(0): MappedUnit(unit, read_only=True)})
    assert attentions(host) == ["06/3F/0E"]
    assert host.send(c.write_10(0, 1), bytes(512)).outcome == "07/27/00"


def test_remapping_a_nexus_that_is_gone_attaches_it_to_nothing(host: c.Host) -> None:
    other = LogicalUnit(MemoryVolume(), c.NAA)
    host.leave()
    host.port.remap(host.nexus, {c.lun(3): MappedUnit(other)})
    assert other.nexuses == set()
    assert host.nexus.attentions == {}
