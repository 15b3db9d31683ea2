"""WRITE ATOMIC: what it does and refuses, and what becomes of one that was cut short."""

from __future__ import annotations

import random
import struct

import pytest

from backends.redo_log import RedoLogs
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from scsi.task_management import Function
from scsi.volume import Fault, VolumeError
from tests.support import commands as c
from tests.support.clock import VirtualScheduler
from tests.support.memory_volume import MemoryVolume
from tests.support.stable_memory import Crash, MemoryDirectory
from tests.support.workers import VirtualWorkers

BLOCK = 512
BLOCKS = 4096
NEW = b"n" * 4 * BLOCK


def write_atomic(lba: int, blocks: int, flags: int = 0, boundary: int = 0) -> bytes:
    return struct.pack(">BBQHHxx", 0x9C, flags, lba, boundary, blocks)


class Bench:
    """A unit whose redo records are in a directory, which can be started again over what was stable."""

    def __init__(self, directory: MemoryDirectory | None = None, volume: MemoryVolume | None = None) -> None:
        self.clock = VirtualScheduler()
        self.directory = directory or MemoryDirectory()
        self.volume = volume or MemoryVolume(BLOCKS, BLOCK, write_cache=True)
        self.unit = LogicalUnit(self.volume, c.NAA)
        self.unit.use_redo_log(RedoLogs(self.directory, VirtualWorkers(self.clock)).of(c.NAA))
        self.host = c.Host(TargetPort(), self.unit)

    def send(self, cdb: bytes, data: bytes = b"") -> c.FakeCommand:
        command = self.host.send(cdb, data)
        self.clock.run_until_idle()
        return command

    def records(self) -> int:
        """How many a start would find now."""
        return len(RedoLogs(self.directory, VirtualWorkers(self.clock)).of(c.NAA).found)

    def content(self, lba: int, blocks: int) -> bytes:
        return bytes(self.volume.data[lba * BLOCK : (lba + blocks) * BLOCK])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_is_recorded_then_written_through_the_cache_then_forgotten(bench: Bench) -> None:
    bench.volume.hold = True
    command = bench.send(write_atomic(5, 4), NEW)
    assert bench.volume.operations() == ["write 5+4 fua"]
    assert bench.records() == 1
    assert command.outcome == "running"
    bench.volume.release_all()
    assert command.outcome == "running", "the record is not forgotten yet"
    bench.clock.run_until_idle()
    assert command.outcome == "GOOD"
    assert bench.records() == 0
    assert bench.content(5, 4) == NEW


def test_nothing_is_written_before_the_record_is_stable(bench: Bench) -> None:
    command = bench.host.send(write_atomic(5, 4), NEW)
    assert bench.volume.operations() == []
    bench.directory.error = OSError(28, "No space left on device")
    bench.clock.run_until_idle()
    assert command.outcome == "04/44/00"
    assert bench.volume.operations() == []
    bench.directory.error = None
    assert bench.send(write_atomic(5, 4), NEW).outcome == "GOOD"


def test_a_record_that_can_neither_be_made_stable_nor_be_removed_keeps_the_unit_from_its_hosts(bench: Bench) -> None:
    assert bench.send(write_atomic(5, 4), NEW).outcome == "GOOD"
    bench.volume.journal.clear()
    bench.directory.error = OSError(5, "Input/output error")
    assert bench.send(write_atomic(5, 4), bytes(4 * BLOCK)).outcome == "04/44/00"
    assert bench.send(c.write_10(5, 1), bytes(BLOCK)).outcome == "02/04/01", "a start would write over it"
    bench.directory.error = None
    assert bench.send(c.TEST_UNIT_READY).outcome == "02/04/01", "this one has it removed"
    assert bench.send(c.TEST_UNIT_READY).outcome == "GOOD"
    assert bench.volume.operations() == []
    assert bench.records() == 0


def test_others_neither_read_nor_write_its_blocks_meanwhile(bench: Bench) -> None:
    command = bench.host.send(write_atomic(5, 4), NEW)
    read = bench.host.send(c.read_10(4, 2))
    write = bench.host.send(c.write_10(8, 2), b"w" * 2 * BLOCK)
    elsewhere = bench.host.send(c.read_10(9, 1))
    assert [one.outcome for one in (command, read, write, elsewhere)] == ["running", "running", "running", "GOOD"]
    bench.clock.run_until_idle()
    assert read.data == bytes(BLOCK) + NEW[:BLOCK]
    assert bench.content(5, 5) == NEW[: 3 * BLOCK] + b"w" * 2 * BLOCK
    assert write.outcome == "GOOD"


def test_an_aborted_one_that_is_only_recorded_is_not_written(bench: Bench) -> None:
    command = bench.host.send(write_atomic(5, 4), NEW)
    bench.host.manage(Function.ABORT_TASK, command)
    bench.clock.run_until_idle()
    assert command.outcome == "TASK ABORTED"
    assert bench.volume.operations() == []
    assert bench.records() == 0


def test_many_at_once_are_all_done(bench: Bench) -> None:
    commands = [bench.host.send(write_atomic(at * 4, 4), bytes((at,)) * 4 * BLOCK) for at in range(30)]
    bench.clock.run_until_idle()
    assert {command.outcome for command in commands} == {"GOOD"}
    assert bench.content(0, 120) == b"".join(bytes((at,)) * 4 * BLOCK for at in range(30))
    assert len(bench.directory.files) <= 8
    assert bench.records() == 0


# --- What is refused --------------------------------------------------------------------------------------------------


def test_its_limits_are_those_of_vpd_b0(bench: Bench) -> None:
    page = bench.send(c.inquiry(0xB0)).data
    assert struct.unpack(">IIIII", page[44:64]) == (2048, 0, 0, 0, 0)
    assert bench.send(write_atomic(0, 2048), bytes(2048 * BLOCK)).outcome == "GOOD"
    answer = bench.send(write_atomic(0, 2049), bytes(2049 * BLOCK))
    assert answer.sense.field == (12, None, True)
    assert bench.send(write_atomic(0, 4, boundary=1), NEW).sense.field == (10, None, True)


def test_blocks_past_the_end_and_data_that_is_short_are_refused(bench: Bench) -> None:
    for lba, blocks in ((BLOCKS, 1), (BLOCKS - 3, 4), (2**64 - 1, 0)):
        assert bench.send(write_atomic(lba, blocks), NEW).outcome == "05/21/00"
    assert bench.send(write_atomic(0, 5), NEW).outcome == "05/0E/03"
    assert bench.send(write_atomic(0, 0)).outcome == "GOOD"
    assert bench.send(write_atomic(0, 4, 0x20), NEW).sense.field == (1, 5, True)
    assert bench.volume.operations() == []


def test_a_unit_without_a_place_for_records_does_not_have_it() -> None:
    host = c.Host(TargetPort(), LogicalUnit(MemoryVolume(), c.NAA))
    assert host.send(write_atomic(0, 1), bytes(BLOCK)).outcome == "05/20/00"
    assert host.send(c.inquiry(0xB0)).data[44:64] == bytes(20)
    assert host.send(c.report_opcodes(1, 0x9C)).data[1] & 0x07 == 1


def test_nobody_writes_where_writing_is_not_allowed(bench: Bench) -> None:
    assert c.Host(TargetPort(), bench.unit, read_only=True).send(write_atomic(0, 4), NEW).outcome == "07/27/00"
    other = c.Host(TargetPort(), bench.unit, "iqn.2026-11.org.example:other")
    bench.send(c.RESERVE_6)
    assert other.send(write_atomic(0, 4), NEW).outcome == "RESERVATION CONFLICT"


# --- Faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_of_the_medium_is_told_and_nothing_is_left_behind(bench: Bench) -> None:
    bench.volume.fail("write", Fault.WRITE_ERROR, times=1)
    assert bench.send(write_atomic(5, 4), NEW).outcome == "03/0C/00"
    assert bench.records() == 0
    assert bench.send(write_atomic(5, 4), NEW).outcome == "GOOD"


def test_a_lost_path_has_it_completed_before_anything_else(bench: Bench) -> None:
    bench.volume.fail("write", Fault.LINK_LOST, times=2)
    assert bench.send(write_atomic(5, 4), NEW).outcome == "0B/08/00"
    assert bench.records() == 1
    assert bench.send(c.read_10(5, 1)).outcome == "02/04/01"
    assert bench.send(c.inquiry()).outcome == "GOOD"
    assert bench.send(c.TEST_UNIT_READY).outcome == "02/04/01", "this one has it completed"
    assert bench.send(c.read_10(5, 4)).data == NEW
    assert bench.records() == 0
    assert not bench.unit._careful


# --- Crashes ----------------------------------------------------------------------------------------------------------


def test_a_crash_at_any_step_leaves_all_or_none_of_it_and_all_when_it_was_acknowledged() -> None:
    old, new = b"o" * 4 * BLOCK, NEW
    outcomes = set()
    for step in range(1, 12):
        for seed in range(8):
            rng = random.Random(f"{step} {seed}")
            bench = Bench()
            bench.send(write_atomic(5, 4), old)
            # Of what is under way on the volume, a crash leaves any part.
            bench.volume.hold = lambda operation: operation.name == "write"
            bench.directory.stop_at = bench.directory.steps + step
            command = bench.host.send(write_atomic(5, 4), new)
            try:
                bench.clock.run_until_idle()
                while bench.volume.held:
                    if rng.random() < 0.5:
                        (held,) = bench.volume.held
                        torn = rng.randint(0, 4) * BLOCK
                        bench.volume.data[5 * BLOCK : 5 * BLOCK + torn] = held.data[:torn]
                        break
                    bench.volume.release()
                    bench.clock.run_until_idle()
            except Crash:
                pass
            acknowledged = command.answer is not None and command.outcome == "GOOD"
            bench.volume.held.clear()
            bench.volume.hold = False
            bench.directory.stop_at = None
            bench.directory.crash(rng)

            after = Bench(bench.directory, bench.volume)
            after.unit.atomic_writes.replay()
            after.clock.run_until_idle()
            found = after.send(c.read_10(5, 4)).data
            assert found in {old, new}
            assert found == new or not acknowledged
            assert after.records() == 0
            outcomes.add((found == new, acknowledged))
    assert outcomes == {(False, False), (True, False), (True, True)}


def test_a_unit_is_not_ready_before_what_a_crash_left_is_complete() -> None:
    bench = Bench()
    bench.volume.hold = True
    bench.send(write_atomic(5, 4), NEW)
    bench.volume.held.clear()
    bench.volume.hold = False

    after = Bench(bench.directory, bench.volume)
    after.volume.unready = VolumeError(Fault.BECOMING_READY)
    after.unit.atomic_writes.replay()
    assert after.send(c.TEST_UNIT_READY).outcome == "02/04/01"
    after.volume.unready = None
    assert after.send(c.read_10(5, 4)).outcome == "02/04/01", "this one has it completed"
    assert after.send(c.read_10(5, 4)).data == NEW


def test_a_record_of_blocks_that_there_are_not_any_more_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.volume.hold = True
    bench.send(write_atomic(BLOCKS - 4, 4), NEW)
    after = Bench(bench.directory, MemoryVolume(100))
    after.unit.atomic_writes.replay()
    after.clock.run_until_idle()
    assert after.send(c.TEST_UNIT_READY).outcome == "GOOD"
    assert "could not be completed" in caplog.text
