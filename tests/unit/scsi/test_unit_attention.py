import pytest

from scsi import unit_attention
from scsi.errors import WriteFailed
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume


@pytest.fixture
def port() -> TargetPort:
    return TargetPort()


@pytest.fixture
def unit() -> LogicalUnit:
    return LogicalUnit(MemoryVolume(), c.NAA)


def attentions(host: c.Host, lun: bytes = c.LUN_0) -> list[str]:
    """All that is reported until the unit is heard as ready."""
    found = []
    while (outcome := host.send(c.TEST_UNIT_READY, lun=lun).outcome) != "GOOD":
        found.append(outcome)
    return found


def test_a_new_nexus_hears_of_power_on_once_on_each_unit(port: TargetPort, unit: LogicalUnit) -> None:
    other = LogicalUnit(MemoryVolume(), c.NAA)
    host = c.Host(port, {c.lun(0): MappedUnit(unit), c.lun(1): MappedUnit(other)}, greeted=False)
    assert attentions(host, c.lun(1)) == ["06/29/00"]
    assert attentions(host, c.lun(0)) == ["06/29/00"]
    assert host.nexus.attentions == {}


def test_what_waits_on_a_unit_that_a_host_does_not_use_costs_its_other_commands_nothing(
    port: TargetPort, unit: LogicalUnit, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = LogicalUnit(MemoryVolume(), c.NAA)
    host = c.Host(port, {c.lun(0): MappedUnit(unit), c.lun(1): MappedUnit(other)}, greeted=False)
    assert attentions(host) == ["06/29/00"]
    monkeypatch.setattr(unit_attention, "take", lambda *_arguments, **_options: pytest.fail("the long way"))
    assert host.send(c.read_10(0, 1)).outcome == "GOOD"
    monkeypatch.undo()
    assert attentions(host, c.lun(1)) == ["06/29/00"]


def test_inquiry_and_report_luns_pass_a_unit_attention_by(port: TargetPort, unit: LogicalUnit) -> None:
    host = c.Host(port, unit, greeted=False)
    assert host.send(c.inquiry()).outcome == "GOOD"
    assert host.send(c.report_luns()).outcome == "GOOD"
    assert host.send(c.read_10(0, 1)).outcome == "06/29/00"
    assert host.send(c.read_10(0, 1)).outcome == "GOOD"


def test_a_command_that_reports_a_unit_attention_is_not_done(port: TargetPort, unit: LogicalUnit) -> None:
    host = c.Host(port, unit, greeted=False)
    assert host.send(c.write_10(0, 1), b"x" * 512).outcome == "06/29/00"
    assert host.send(c.read_10(0, 1)).data == bytes(512)


def test_a_unit_attention_comes_before_an_unknown_opcode_or_a_bad_field(port: TargetPort, unit: LogicalUnit) -> None:
    host = c.Host(port, unit, greeted=False)
    assert host.send(bytes((0xFE,)).ljust(16, b"\0")).outcome == "06/29/00"
    unit.capacity_changed()
    assert host.send(c.read_10(0, 1, 0x20)).outcome == "06/2A/09"


def test_what_happens_to_a_unit_is_told_to_all_its_nexuses_but_one(port: TargetPort, unit: LogicalUnit) -> None:
    one, two, three = (c.Host(port, unit) for _ in range(3))
    unit.establish_unit_attention(0x80, 0x80, but=two.nexus)
    assert [attentions(host) for host in (one, two, three)] == [["06/80/80"], [], ["06/80/80"]]


def test_unit_attentions_come_in_the_order_in_which_they_arose_and_each_once(
    port: TargetPort, unit: LogicalUnit
) -> None:
    host = c.Host(port, unit)
    for _ in range(2):
        unit.establish_unit_attention(*unit_attention.CAPACITY_CHANGED)
        unit.establish_unit_attention(0x80, 0x80)
    assert attentions(host) == ["06/2A/09", "06/80/80"]


def test_resets_come_first_and_power_on_says_all_that_other_resets_say(port: TargetPort, unit: LogicalUnit) -> None:
    host = c.Host(port, unit)
    unit.establish_unit_attention(*unit_attention.CAPACITY_CHANGED)
    unit.establish_unit_attention(*unit_attention.DEVICE_RESET)
    assert attentions(host) == ["06/29/03", "06/2A/09"]
    unit.establish_unit_attention(*unit_attention.POWER_ON_OR_RESET)
    unit.establish_unit_attention(*unit_attention.DEVICE_RESET)
    assert attentions(host) == ["06/29/00"]
    unit.establish_unit_attention(*unit_attention.DEVICE_RESET)
    unit.establish_unit_attention(*unit_attention.POWER_ON_OR_RESET)
    assert attentions(host) == ["06/29/00"]


def test_report_luns_clears_that_the_luns_have_changed_on_every_unit(port: TargetPort, unit: LogicalUnit) -> None:
    other = LogicalUnit(MemoryVolume(), c.NAA)
    host = c.Host(port, {c.lun(0): MappedUnit(unit), c.lun(1): MappedUnit(other)})
    for changed in (unit, other):
        changed.establish_unit_attention(*unit_attention.REPORTED_LUNS_CHANGED)
    unit.capacity_changed()
    host.send(c.report_luns())
    assert attentions(host, c.lun(0)) == ["06/2A/09"]
    assert attentions(host, c.lun(1)) == []


def test_a_deferred_error_waits_behind_a_reset(port: TargetPort, unit: LogicalUnit) -> None:
    host = c.Host(port, unit)
    unit_attention.defer(host.nexus, unit, WriteFailed())
    unit.establish_unit_attention(*unit_attention.DEVICE_RESET)
    assert attentions(host) == ["06/29/03", "03/0C/00"]
