import struct

import pytest

from scsi.access_states import AccessState, TargetPortGroups
from scsi.command_set import COMMANDS
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit, Nexus
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

OPTIMIZED, NON_OPTIMIZED, STANDBY, UNAVAILABLE, TRANSITIONING = AccessState
BLOCK = b"\x5a" * 512
REFUSED = {STANDBY: "02/04/0B", UNAVAILABLE: "02/04/0C", TRANSITIONING: "02/04/0A"}


class PathHost(c.Host):
    """A host that has come in by the portal group with a tag."""

    def __init__(self, port: TargetPort, unit: LogicalUnit, tag: int, *, array_control: bool = True) -> None:
        super().__init__(port, unit, f"iqn.2026-11.org.example:host{tag}", array_control=array_control)
        port.nexus_lost(self.nexus)
        old = self.nexus
        lun_map = {c.LUN_0: MappedUnit(unit)}
        self.nexus = Nexus(old.initiator_name, old.isid, old.target_name, tag, array_control, lun_map)
        self.session = c.FakeSession(self.nexus)
        port.nexus_created(self.nexus)
        self.nexus.attentions.clear()


@pytest.fixture
def unit() -> LogicalUnit:
    return LogicalUnit(MemoryVolume(), c.NAA)


@pytest.fixture
def port() -> TargetPort:
    return TargetPort(TargetPortGroups(lambda tag: 100 + tag))


@pytest.fixture
def one(port: TargetPort, unit: LogicalUnit) -> PathHost:
    return PathHost(port, unit, 1)


@pytest.fixture
def two(port: TargetPort, unit: LogicalUnit) -> PathHost:
    return PathHost(port, unit, 2)


def report(*, extended: bool = False, allocation: int = 0xFFFF) -> bytes:
    return struct.pack(">BB4xI2x", 0xA3, extended << 5 | 0x0A, allocation)


def set_groups(length: int) -> bytes:
    return struct.pack(">BB4xI2x", 0xA4, 0x0A, length)


def states(host: c.Host) -> dict[int, tuple[int, int]]:
    """State and status code of each group, by identifier."""
    data = host.send(report()).data
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    found = {}
    for at in range(4, len(data), 12):
        state, supported, identifier, status, ports, relative = struct.unpack_from(">BBHxBxBxxH", data, at)
        assert (supported, ports, relative) == (0x8F, 1, identifier)
        found[identifier] = (state, status)
    return found


def ask(host: c.Host, *wanted: tuple[int, int]) -> c.FakeCommand:
    data = bytes(4) + b"".join(struct.pack(">BxH", state, identifier) for state, identifier in wanted)
    return host.send(set_groups(len(data)), data)


def test_the_groups_of_the_target_are_reported_with_their_states(
    one: PathHost, two: PathHost, port: TargetPort
) -> None:
    assert states(one) == states(two) == {101: (0, 0), 102: (0, 0)}
    port.groups.hold(2, NON_OPTIMIZED)
    one.nexus.attentions.clear()
    assert states(one) == {101: (0, 0), 102: (1, 2)}
    extended = one.send(report(extended=True)).data
    assert extended[:8].hex() == "0000001c100a0000"
    assert extended[8:] == one.send(report()).data[4:]
    assert one.send(bytes.fromhex("a34a0000000000ffff00 00".replace(" ", ""))).sense.field == (1, 7, True)


def test_the_port_is_named_by_its_group_in_page_83(two: PathHost) -> None:
    page = two.send(c.inquiry(0x83)).data
    assert bytes.fromhex("51940004" + "00000066") in page, "relative target port"
    assert bytes.fromhex("51950004" + "00000066") in page, "target port group"


@pytest.mark.parametrize(("array_control", "tpgs"), [(False, 1), (True, 3)])
def test_tpgs_says_by_whom_states_are_changed(
    port: TargetPort, unit: LogicalUnit, array_control: bool, tpgs: int
) -> None:
    host = PathHost(port, unit, 1, array_control=array_control)
    assert host.send(c.inquiry()).data[5] >> 4 & 0x03 == tpgs
    listed = host.send(c.report_opcodes(3, 0xA4, 0x0A)).data[1] & 0x07
    assert listed == (3 if array_control else 1)
    if not array_control:
        assert ask(host, (0, 101)).outcome in {"05/20/00", "05/24/00"}


def test_a_host_is_told_when_it_may_or_may_not_set_states_any_more(one: PathHost, port: TargetPort) -> None:
    port.set_array_control(one.nexus, True)
    assert one.send(c.TEST_UNIT_READY).outcome == "GOOD", "as before"
    port.set_array_control(one.nexus, False)
    assert one.send(c.TEST_UNIT_READY).outcome == "06/3F/03"
    assert one.send(c.inquiry()).data[5] >> 4 & 0x03 == 1


@pytest.mark.parametrize("state", [STANDBY, UNAVAILABLE, TRANSITIONING])
def test_a_path_that_is_not_active_does_no_io_and_the_other_does(
    one: PathHost, two: PathHost, port: TargetPort, state: AccessState
) -> None:
    port.groups.hold(2, state)
    assert one.send(c.TEST_UNIT_READY).outcome == "06/2A/06", "told on every path"
    assert two.send(c.TEST_UNIT_READY).outcome == "06/2A/06"
    assert one.send(c.write_10(0, 1), BLOCK).outcome == "GOOD"
    for cdb in (c.TEST_UNIT_READY, c.read_10(0, 1), c.write_10(0, 1), c.synchronize_cache_10(), c.RESERVE_6):
        assert two.send(cdb, BLOCK).outcome == REFUSED[state]
    for cdb in (c.inquiry(), c.inquiry(0x83), c.report_luns(), c.REQUEST_SENSE, report(), c.report_opcodes()):
        assert two.send(cdb).outcome == "GOOD"
    for cdb in (c.mode_sense_6(), c.READ_CAPACITY_10, c.read_capacity_16()):
        assert two.send(cdb).outcome == ("GOOD" if state is STANDBY else REFUSED[state])
    port.groups.hold(2, OPTIMIZED)
    assert two.send(c.TEST_UNIT_READY).outcome == "06/2A/06"
    assert two.send(c.read_10(0, 1)).data == BLOCK


@pytest.mark.parametrize("state", [OPTIMIZED, NON_OPTIMIZED])
def test_a_path_that_is_active_does_everything(two: PathHost, port: TargetPort, state: AccessState) -> None:
    port.groups.hold(2, state)
    two.nexus.attentions.clear()
    assert two.send(c.write_10(0, 1), BLOCK).outcome == "GOOD"


def test_every_command_is_refused_on_a_path_in_standby_or_on_the_list(one: PathHost, port: TargetPort) -> None:
    port.groups.hold(1, UNAVAILABLE)
    one.nexus.attentions.clear()
    answered = set()
    for row in COMMANDS.visible(one.nexus.lun_map[c.LUN_0].logical_unit, one.nexus):
        cdb = row.usage_map[:2] if row.service_action else row.usage_map[:1]
        if row.cdb_bytes <= 16 and one.send(cdb.ljust(row.cdb_bytes, b"\0")).outcome != "02/04/0C":
            answered.add(row.name)
    assert answered == {
        "INQUIRY",
        "REPORT LUNS",
        "REQUEST SENSE",
        "REPORT SUPPORTED OPERATION CODES",
        "REPORT TARGET PORT GROUPS",
        "SET TARGET PORT GROUPS",
    }


def test_a_host_that_comes_by_a_path_in_standby_finds_it_so(port: TargetPort, unit: LogicalUnit) -> None:
    port.groups.hold(7, STANDBY)
    host = PathHost(port, unit, 7)
    assert host.send(c.TEST_UNIT_READY).outcome == "02/04/0B"
    host.leave()
    assert not unit._careful, "the fast path is as fast as before"


def test_commands_that_run_already_go_on(two: PathHost, port: TargetPort, unit: LogicalUnit) -> None:
    volume = unit.volume
    assert isinstance(volume, MemoryVolume)
    volume.hold = True
    write = two.send(c.write_10(0, 1), BLOCK)
    port.groups.hold(2, UNAVAILABLE)
    volume.release_all()
    assert write.outcome == "GOOD"


# --- SET TARGET PORT GROUPS -------------------------------------------------------------------------------------------


def test_x10_a_host_sets_a_state_and_the_others_are_told(one: PathHost, two: PathHost) -> None:
    assert ask(one, (STANDBY, 102)).outcome == "GOOD"
    assert one.send(c.TEST_UNIT_READY).outcome == "GOOD"
    assert two.send(c.TEST_UNIT_READY).outcome == "06/2A/06"
    assert two.send(c.TEST_UNIT_READY).outcome == "02/04/0B"
    assert states(one) == {101: (0, 0), 102: (2, 1)}
    assert ask(two, (OPTIMIZED, 102)).outcome == "GOOD", "in standby it can be set again"
    assert two.send(c.TEST_UNIT_READY).outcome == "GOOD"


def test_what_an_admin_has_set_no_host_changes(one: PathHost, two: PathHost, port: TargetPort) -> None:
    port.groups.hold(2, STANDBY)
    one.nexus.attentions.clear()
    assert ask(one, (STANDBY, 101), (OPTIMIZED, 102)).outcome == "04/67/0A"
    assert states(one) == {101: (0, 0), 102: (2, 2)}
    port.groups.hold(2, OPTIMIZED)
    one.nexus.attentions.clear()
    assert ask(one, (NON_OPTIMIZED, 102)).outcome == "GOOD"


def test_a_wrong_list_changes_nothing(one: PathHost, two: PathHost) -> None:
    assert two.send(c.TEST_UNIT_READY).outcome == "GOOD"
    for wanted, field in (
        (((STANDBY, 101), (TRANSITIONING, 102)), (8, 3, False)),
        (((STANDBY, 101), (4, 102)), (8, 3, False)),
        (((STANDBY, 101), (STANDBY, 103)), (10, None, False)),
    ):
        answer = ask(one, *wanted)
        assert answer.outcome == "05/26/00"
        assert answer.sense.field == field
    assert one.send(set_groups(6), bytes(6)).outcome == "05/1A/00"
    assert one.send(set_groups(8), bytes(4)).outcome == "05/1A/00"
    assert one.send(set_groups(0)).outcome == "GOOD"
    assert one.send(set_groups(4), bytes(4)).outcome == "GOOD"
    assert set(states(one).values()) == {(0, 0)}


def test_a_host_that_may_only_read_sets_no_state(port: TargetPort, unit: LogicalUnit) -> None:
    reader = c.Host(port, unit, read_only=True)
    assert ask(reader, (STANDBY, 101)).outcome == "07/27/00"


def test_groups_that_are_gone_are_not_reported(port: TargetPort, one: PathHost) -> None:
    port.groups.keep([1, 5])
    assert states(one) == {101: (0, 0), 105: (0, 0)}
