import struct

import pytest

from daemon.latency_sampler import MOST_LEFT_OUT, OFTEN_S, LatencySampler
from scsi.counters import Counters, Latencies
from scsi.iscsi.events import ScsiCommand
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit, Nexus
from scsi.target import TargetPort
from tests.support.iscsi_peer import INITIATOR, LUN, TARGET, Clock, Peer
from tests.support.memory_volume import MemoryVolume

READ, TEST_UNIT_READY = 0x28, 0x00


class World:
    """A session whose commands are held until a test lets them go, and a sampler that watches them."""

    def __init__(self) -> None:
        self.volume = MemoryVolume(1 << 10)
        self.unit = LogicalUnit(self.volume, bytes.fromhex("6" + "0" * 31))
        self.port = TargetPort()
        self.clock = Clock()
        self.host_reads, self.host_writes = Latencies(), Latencies()
        self.peer = Peer()
        self.peer.log_in()
        (self.session,) = self.peer.logins
        self.session.nexus = Nexus(INITIATOR, bytes(6), TARGET, 1, False, {LUN: MappedUnit(self.unit)})
        self.sampler = LatencySampler(self.session, self.clock, self.host_reads, self.host_writes)

    @property
    def counters(self) -> Counters:
        return self.unit.counters

    def command(self, opcode: int) -> ScsiCommand:
        """Deliver a command that has just come."""
        cdb = struct.pack(">BBIBHB6x", opcode, 0, 0, 0, 1, 0)
        before = len(self.peer.commands)
        self.peer.send(self.peer.command_pdu(cdb, read=512 if opcode == READ else None))
        return self.peer.commands[before]


@pytest.fixture
def world() -> World:
    return World()


def run(world: World, *commands: ScsiCommand, seconds: float = 0.0) -> None:
    for command in commands:
        world.clock.now += seconds
        world.port.execute(command)


def test_a_measured_command_stands_for_all_reads_since_the_last_one(world: World) -> None:
    first = world.command(READ)
    assert world.sampler.begin([first]) == 0
    run(world, first, seconds=0.003)
    run(world, *(world.command(READ) for _ in range(9)))
    last = world.command(READ)
    world.sampler.begin([last])
    run(world, last, seconds=0.0003)
    latencies = world.counters.read_latencies
    assert sum(latencies.counts) == world.counters.reads == 11
    assert latencies.sum_s == pytest.approx(0.003 + 10 * 0.0003)
    assert world.host_reads.counts == latencies.counts
    assert world.host_reads.sum_s == pytest.approx(latencies.sum_s)
    assert sum(world.host_writes.counts) == 0


def test_a_slow_command_does_not_stand_for_those_that_overtook_it(world: World) -> None:
    slow = world.command(READ)
    world.sampler.begin([slow])
    run(world, *(world.command(READ) for _ in range(100)))
    run(world, slow, seconds=5.0)
    assert world.counters.read_latencies.sum_s == pytest.approx(5.0)


def test_only_one_command_is_measured_at_a_time_and_none_that_moves_no_data(world: World) -> None:
    first, second = world.command(READ), world.command(READ)
    assert world.sampler.begin([world.command(TEST_UNIT_READY)]) == 0
    world.sampler.begin([first])
    assert world.sampler.begin([second]) == 0
    assert world.session.sampled is first


def test_a_busy_session_is_measured_now_and_then_and_a_quiet_one_each_time(world: World) -> None:
    def left_out(apart_s: float) -> int:
        world.clock.now += apart_s
        world.session.sampled = None
        return world.sampler.begin([world.command(READ)])

    busy = [left_out(OFTEN_S / 100) for _ in range(10)]
    assert busy == sorted(busy)
    assert busy[-1] == MOST_LEFT_OUT
    assert [left_out(OFTEN_S * 2) for _ in range(6)][-1] == 0


def test_which_command_of_a_batch_is_measured_goes_round(world: World) -> None:
    batch = [world.command(READ) for _ in range(4)]
    seen = []
    for _ in range(4):
        world.sampler.begin(batch)
        seen.append(world.session.sampled)
        world.session.sampled = None
    assert set(seen) == set(batch)


def test_an_empty_batch_and_a_lun_without_a_unit_are_passed_over(world: World) -> None:
    command = world.command(READ)
    command.lun = b"\0\5" + bytes(6)
    assert (world.sampler.begin([]), world.sampler.begin([command])) == (0, 0)


def test_commands_that_are_answered_are_counted_by_what_they_moved(world: World) -> None:
    session = world.session
    run(world, world.command(READ), world.command(READ), world.command(TEST_UNIT_READY))
    assert (session.reads, session.read_bytes, session.others, session.errors) == (2, 1024, 1, 0)
    assert (world.counters.commands, world.counters.reads, world.counters.read_blocks) == (3, 2, 2)


def test_errors_are_counted_by_sense_and_kinds_of_them_are_bounded(world: World) -> None:
    errors: list[tuple[int, tuple[int, int, int]]] = []
    world.session.on_error = lambda status, sense: errors.append((status, (sense[2], sense[12], sense[13])))
    command = world.command(0xFF)
    run(world, command)
    assert world.counters.errors == {(0x02, 0x05, 0x20, 0x00): 1}
    assert world.session.errors == 1
    assert errors == [(0x02, (0x05, 0x20, 0x00))]
    for asc in range(256):
        world.counters.count_error((0x02, 0x03, asc, 0x99))
    assert len(world.counters.errors) <= 65
    assert sum(world.counters.errors.values()) == 257


def test_what_a_sample_stands_for_is_never_less_than_nothing() -> None:
    latencies = Latencies()
    assert [latencies.stand_for(count) for count in (5, 5, 6)] == [5, 0, 1]
