"""What Linux's disk driver, its device handler for paths, multipathd and open-iscsi take for granted of a target.

Sources: sd.c, scsi_dh_alua.c, multipath-tools (discovery.c, checkers/tur.c), etc/iscsid.conf.
"""

import struct
from collections.abc import Callable

import pytest

from scsi.access_states import AccessState
from scsi.command_set import COMMANDS
from scsi.commands import Command
from scsi.logical_unit import LogicalUnit
from scsi.mode_parameters import ModeParameters
from scsi.nexus import MappedUnit
from scsi.status import Status
from scsi.target import TargetPort
from scsi.volume import Deallocation
from tests.support import commands as c
from tests.support.iscsi_peer import Peer
from tests.support.memory_volume import MemoryVolume
from tests.support.target_stack import DATA_IN, SCSI_RESPONSE, TargetStack

BLOCK = b"\x5a" * 512
OVERFLOW, UNDERFLOW = 0x04, 0x02
NOP_IN, TMF_RESPONSE = 0x20, 0x22
TARGET_COLD_RESET = 7
SECURITY_PROTOCOL_IN, WRITE_SAME_10, WRITE_SAME_16 = 0xA2, 0x41, 0x93


@pytest.fixture
def volume() -> MemoryVolume:
    return MemoryVolume(4096, write_cache=True)


@pytest.fixture
def unit(volume: MemoryVolume) -> LogicalUnit:
    return LogicalUnit(volume, c.NAA)


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


def vital(host: c.Host, page: int) -> bytes:
    data = host.send(c.inquiry(page, 0xFFFF)).data
    assert data[1] == page
    assert int.from_bytes(data[2:4], "big") == len(data) - 4
    return data


# --- Discard ----------------------------------------------------------------------------------------------------------


def is_thin(host: c.Host) -> bool:
    return bool(host.send(c.read_capacity_16()).data[14] & 0x80)


def test_x01_a_thin_unit_says_so_and_page_b2_says_by_which_commands(host: c.Host, volume: MemoryVolume) -> None:
    volume.deallocation = Deallocation(8)
    assert is_thin(host)
    page = vital(host, 0xB2)
    assert len(page) >= 8
    assert page[5] & 0xE0 == 0xE0, "LBPU, LBPWS, LBPWS10"
    for opcode in (0x42, WRITE_SAME_16, WRITE_SAME_10):
        assert host.send(c.report_opcodes(3, opcode)).data[1] & 0x07 == 3


def test_x02_page_b0_is_long_enough_and_both_limits_of_unmap_are_there(host: c.Host, volume: MemoryVolume) -> None:
    volume.deallocation = Deallocation(8)
    page = vital(host, 0xB0)
    assert len(page) >= 64
    most_blocks, most_descriptors = struct.unpack_from(">II", page, 20)
    assert most_blocks
    assert most_descriptors
    assert int.from_bytes(page[36:44], "big"), "MAXIMUM WRITE SAME LENGTH"


@pytest.mark.parametrize("deallocation", [None, Deallocation(8)])
def test_x03_page_b2_is_there_whether_or_not_a_unit_is_thin(
    host: c.Host, volume: MemoryVolume, deallocation: Deallocation | None
) -> None:
    volume.deallocation = deallocation
    assert 0xB2 in vital(host, 0x00)[4:]
    assert len(vital(host, 0xB2)) >= 8
    assert is_thin(host) is (deallocation is not None)


# --- What the disk is like --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0, 3, 5])
def test_x04_it_does_not_turn_and_its_optimal_length_is_a_multiple_of_what_it_must_be(
    host: c.Host, volume: MemoryVolume, exponent: int
) -> None:
    volume.physical_block_exponent = exponent
    volume.max_transfer_blocks = 1000
    characteristics = vital(host, 0xB1)
    assert len(characteristics) >= 8
    assert int.from_bytes(characteristics[4:6], "big") == 1, "MEDIUM ROTATION RATE"
    limits = vital(host, 0xB0)
    granularity, most, optimal = struct.unpack_from(">HII", limits, 6)
    assert 0 < optimal <= most
    assert optimal % granularity == 0
    assert granularity % (1 << exponent) == 0


@pytest.mark.parametrize("row", COMMANDS.rows, ids=lambda row: row.name)
def test_x05_what_is_reported_as_supported_is_carried_out_and_nothing_else_is(host: c.Host, row: Command) -> None:
    action = row.key[1]
    reported = host.send(c.report_opcodes(3, row.opcode, action)).data[1] & 0x07 == 3
    there = row.available is None or row.available(host.nexus.lun_map[c.LUN_0].logical_unit, host.nexus)
    assert reported is there
    outcome = host.send(bytes(c.empty_cdb(row))).outcome
    if there:
        assert outcome != "05/20/00"
    else:
        assert outcome in {"05/20/00", "05/24/00"}


def test_x05_what_sd_asks_for_is_answered_as_it_is(host: c.Host) -> None:
    asked = {opcode: host.send(c.report_opcodes(1, opcode)).data[1] & 0x07 for opcode in (0x12, 0x93, 0x41, 0xA2)}
    assert asked == {0x12: 3, WRITE_SAME_16: 3, WRITE_SAME_10: 3, SECURITY_PROTOCOL_IN: 1}


@pytest.mark.parametrize("write_cache", [True, False])
def test_x06_wce_is_the_truth_and_so_is_dpofua(host: c.Host, volume: MemoryVolume, write_cache: bool) -> None:
    volume.write_cache = write_cache
    sense = host.send(c.mode_sense_6(0x08)).data
    assert bool(sense[14] & 0x04) is write_cache
    host.send(c.write_10(0, 1), BLOCK)
    assert (bytes(volume.stable[:512]) == BLOCK) is not write_cache, "what WCE says of a write that got GOOD"
    assert sense[2] & 0x10, "DPOFUA"
    host.send(c.write_10(1, 1, c.FUA | c.DPO), BLOCK)
    assert volume.stable[512:1024] == BLOCK
    host.send(c.synchronize_cache_10())
    assert volume.stable[:512] == BLOCK


def test_x07_the_ids_of_a_unit_are_the_same_after_a_restart_and_on_another_volume(
    host: c.Host, unit: LogicalUnit
) -> None:
    pages = vital(host, 0x00)[4:]
    assert list(pages) == sorted(set(pages))
    assert {0x00, 0x80, 0x83} <= set(pages)
    for code in pages:
        vital(host, code)
    ids = vital(host, 0x80), vital(host, 0x83)
    assert bytes.fromhex("01030010") + c.NAA in ids[1]
    assert c.NAA[0] >> 4 == 6
    again = c.Host(TargetPort(), LogicalUnit(MemoryVolume(4096), c.NAA))
    assert (vital(again, 0x80), vital(again, 0x83)) == ids
    unit.volume = MemoryVolume(4096, write_cache=True)  # as when a pair is formed, or its legs change places
    host.nexus.attentions.clear()
    assert (vital(host, 0x80), vital(host, 0x83)) == ids


# --- Paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        (AccessState.ACTIVE_OPTIMIZED, "GOOD"),
        (AccessState.ACTIVE_NON_OPTIMIZED, "GOOD"),
        (AccessState.STANDBY, "02/04/0B"),  # ghost
        (AccessState.UNAVAILABLE, "02/04/0C"),
        (AccessState.TRANSITIONING, "02/04/0A"),  # pending
    ],
)
def test_x08_the_path_checker_is_told_how_a_path_is(host: c.Host, state: AccessState, answer: str) -> None:
    host.port.groups.hold(1, state)
    host.nexus.attentions.clear()
    assert host.send(c.TEST_UNIT_READY).outcome == answer


def test_x08_a_reservation_of_another_is_a_conflict_and_not_a_dead_path(host: c.Host, unit: LogicalUnit) -> None:
    other = c.Host(host.port, unit, "iqn.2026-11.org.example:other")
    assert other.send(c.RESERVE_6).outcome == "GOOD"
    assert host.send(c.TEST_UNIT_READY).outcome == "RESERVATION CONFLICT"


def test_x08_what_happens_at_once_is_told_within_the_checkers_five_tries(host: c.Host, unit: LogicalUnit) -> None:
    unit.reset()
    unit.capacity_changed()
    host.port.remap(host.nexus, {c.LUN_0: MappedUnit(unit, read_only=True)})
    host.port.groups.hold(1, AccessState.ACTIVE_NON_OPTIMIZED)
    outcomes = [host.send(c.TEST_UNIT_READY).outcome for _ in range(5)]
    assert outcomes == ["06/29/03", "06/2A/09", "06/3F/0E", "06/2A/06", "GOOD"]


@pytest.mark.parametrize("descriptor", [False, True])
def test_x09_the_checker_finds_the_codes_where_it_looks_for_them(
    host: c.Host, unit: LogicalUnit, descriptor: bool
) -> None:
    unit.use_modes(ModeParameters(descriptor_sense=descriptor), host.nexus)
    host.port.groups.hold(1, AccessState.STANDBY)
    host.nexus.attentions.clear()
    sense = host.send(c.TEST_UNIT_READY).ended.sense
    assert sense[7] == len(sense) - 8, "ADDITIONAL SENSE LENGTH"
    if descriptor:
        assert (sense[0], sense[1] & 0x0F, sense[2], sense[3]) == (0x72, 2, 0x04, 0x0B)
    else:
        assert len(sense) >= 18
        assert (sense[0] & 0x7F, sense[2] & 0x0F, sense[12], sense[13]) == (0x70, 2, 0x04, 0x0B)


def resize(host: c.Host, unit: LogicalUnit) -> None:
    unit.volume = MemoryVolume(8192, write_cache=True)


def change_modes(host: c.Host, unit: LogicalUnit) -> None:
    data = bytes((0, 0, 0, 0, 0x0A, 10, 0x04, 0x10)) + bytes(8)
    other = c.Host(host.port, unit, "iqn.2026-11.org.example:other")
    assert other.send(bytes((0x15, 0x10, 0, 0, len(data), 0)), data).outcome == "GOOD"


def come_back(host: c.Host, unit: LogicalUnit) -> None:
    host.leave()
    host.port.nexus_created(host.nexus)


def change_map(host: c.Host, unit: LogicalUnit) -> None:
    host.port.remap(host.nexus, {c.lun(0): MappedUnit(unit), c.lun(1): MappedUnit(unit)})


def change_access(host: c.Host, _unit: LogicalUnit) -> None:
    host.port.groups.hold(1, AccessState.ACTIVE_NON_OPTIMIZED)


def be_reset(host: c.Host, unit: LogicalUnit) -> None:
    unit.reset()


EVENTS = [
    (come_back, "06/29/00"),
    (be_reset, "06/29/03"),
    (resize, "06/2A/09"),
    (change_map, "06/3F/0E"),
    (change_access, "06/2A/06"),
    (change_modes, "06/2A/01"),
]


@pytest.mark.parametrize(("event", "attention"), EVENTS)
def test_x10_what_happens_is_told_once_and_not_by_inquiry_or_report_luns(
    host: c.Host, unit: LogicalUnit, event: Callable[[c.Host, LogicalUnit], object], attention: str
) -> None:
    event(host, unit)
    assert host.send(c.inquiry()).outcome == "GOOD"
    if event is not change_map:  # which is about the list of LUNs, so that reading it is to know
        assert host.send(c.report_luns()).outcome == "GOOD"
    assert host.send(c.TEST_UNIT_READY).outcome == attention
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"


@pytest.mark.parametrize(("event", "attention"), EVENTS)
def test_x10_request_sense_gives_what_happened_as_data(
    host: c.Host, unit: LogicalUnit, event: Callable[[c.Host, LogicalUnit], object], attention: str
) -> None:
    event(host, unit)
    data = host.send(c.REQUEST_SENSE).data
    assert f"{data[2] & 0x0F:02X}/{data[12]:02X}/{data[13]:02X}" == attention
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"


# --- Transport --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cdb", "asked", "moved", "flag", "residual"),
    [
        (c.read_10(0, 2), 1024, 1024, 0, 0),
        (c.read_10(0, 2), 1536, 1024, UNDERFLOW, 512),
        (c.read_10(0, 2), 512, 512, OVERFLOW, 512),
        (c.inquiry(allocation=255), 255, 96, UNDERFLOW, 159),
        (c.inquiry(allocation=36), 36, 36, 0, 0),
        (c.READ_CAPACITY_10, 12, 8, UNDERFLOW, 4),
    ],
)
def test_x11_residuals_are_exact(cdb: bytes, asked: int, moved: int, flag: int, residual: int) -> None:
    stack = TargetStack()
    answers = stack.peer.send(stack.peer.command_pdu(cdb, read=asked))
    last = answers[-1]
    assert last.opcode in {DATA_IN, SCSI_RESPONSE}
    assert last.raw[3] == Status.GOOD
    assert sum(len(pdu.data) for pdu in answers if pdu.opcode == DATA_IN) == moved
    assert (last.flags & 0x06, last.word(44)) == (flag, residual)


def test_x11_a_read_that_fails_is_never_a_short_read_that_is_good() -> None:
    stack = TargetStack()
    (answer,) = stack.peer.send(stack.peer.command_pdu(c.read_10(2047, 2), read=1024))
    assert (answer.opcode, answer.raw[3]) == (SCSI_RESPONSE, Status.CHECK_CONDITION)


def test_x12_as_many_commands_as_the_window_lets_in_are_taken_and_none_finds_the_task_set_full() -> None:
    stack = TargetStack()
    stack.volume.hold = True
    sent = 0
    while (stack.peer.session.max_cmd_sn - stack.peer.session.exp_cmd_sn) & 0xFFFFFFFF < 0x80000000:
        assert stack.peer.send(stack.peer.command_pdu(c.read_10(0, 1), read=512)) == []
        sent += 1
    assert sent >= 128, "open-iscsi's cmds_max"
    stack.volume.release_all()
    answers = stack.peer.look()
    assert len([pdu for pdu in answers if pdu.opcode == DATA_IN and pdu.raw[3] == Status.GOOD]) == sent


def test_x13_what_open_iscsi_offers_by_default_is_agreed_to() -> None:
    stack = TargetStack(
        HeaderDigest="None",
        DataDigest="None",
        InitialR2T="No",
        ImmediateData="Yes",
        FirstBurstLength="262144",
        MaxBurstLength="16776192",
        MaxRecvDataSegmentLength="262144",
        MaxOutstandingR2T="1",
        MaxConnections="1",
        DefaultTime2Wait="2",
        DefaultTime2Retain="0",
        ErrorRecoveryLevel="0",
    )
    (answer,) = stack.peer.send(stack.peer.command_pdu(c.TEST_UNIT_READY))
    assert (answer.opcode, answer.raw[3]) == (SCSI_RESPONSE, Status.GOOD)
    # A ping every 5 s, to be answered within 5 s, is what makes it keep the connection.
    (nop,) = stack.peer.send(stack.peer.nop_pdu(tag=0x77))
    assert (nop.opcode, nop.task_tag) == (NOP_IN, 0x77)


@pytest.mark.parametrize("function", [1, 2, 4, 5, 6, 7])
def test_x14_pings_task_management_and_logins_are_served_while_a_volume_stalls(function: int) -> None:
    stack = TargetStack()
    stack.volume.hold = True
    peer = stack.peer
    read = peer.command_pdu(c.read_10(0, 1), read=512)
    assert peer.send(read) == []
    (nop,) = peer.send(peer.nop_pdu(tag=0x77))
    assert nop.opcode == NOP_IN
    tag = struct.unpack_from(">I", read, 16)[0]
    answers = peer.send(peer.task_management_pdu(function, tag=0x99, referenced=tag))
    assert [pdu.opcode for pdu in answers] == [TMF_RESPONSE]
    assert answers[0].raw[2] == 0
    if function != TARGET_COLD_RESET:  # which ends the session
        assert peer.send(peer.nop_pdu(tag=0x78))[0].opcode == NOP_IN


def test_x14_a_host_gets_in_while_a_volume_stalls() -> None:
    stack = TargetStack()
    stack.volume.hold = True
    assert stack.peer.send(stack.peer.command_pdu(c.read_10(0, 1), read=512)) == []
    other = Peer(registry=stack.peer.registry)
    other.isid = b"\x80\x00\x00\x00\x00\x77"
    assert other.log_in().login_status == 0
