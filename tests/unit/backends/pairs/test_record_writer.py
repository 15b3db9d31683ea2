from __future__ import annotations

from dataclasses import replace

from backends.pairs.record_writer import RecordWriter
from backends.pairs.slot_file import SLOT_BYTES, SlotFile
from backends.pairs.store import PairRecord
from scsi.array_commands import FenceLevel, PairState
from tests.support.clock import VirtualScheduler
from tests.support.stable_memory import MemoryDirectory
from tests.support.workers import VirtualWorkers

RECORD = PairRecord(1, "00", ("a", "b"), 8, 512, "", FenceLevel.NEVER, 0, PairState.COPY)


class World:
    """A writer, and a count of how often it said that the newest record is stable."""

    def __init__(self) -> None:
        self.scheduler = VirtualScheduler()
        self.directory = MemoryDirectory()
        self.workers = VirtualWorkers(self.scheduler)
        self.slot = SlotFile(self.directory.create("record", 2 * SLOT_BYTES))
        self.stable = 0
        self.writer = RecordWriter(self.slot, self.workers, self.scheduler, self.count)

    def count(self) -> None:
        self.stable += 1

    def stored(self) -> PairRecord:
        return PairRecord.decode(SlotFile(self.directory.open("record")).load())


def test_a_record_is_stable_when_it_is_said_to_be() -> None:
    world = World()
    answers: list[Exception | None] = []
    world.writer.store(RECORD, answers.append)
    assert answers == []
    world.scheduler.run_until_idle()
    assert (answers, world.stable) == ([None], 1)
    assert world.stored() == RECORD


def test_records_that_come_while_one_is_written_are_written_as_one() -> None:
    world = World()
    answers: list[Exception | None] = []
    for pace in range(5):
        world.writer.store(replace(RECORD, pace_mib_s=pace), answers.append)
    world.scheduler.run_until_idle()
    assert answers == [None] * 5
    assert world.stable == 1, "not before the newest is stable"
    assert world.directory.steps == 1 + 2 * 4
    assert world.stored().pace_mib_s == 4


def test_an_error_is_told_once_and_the_record_is_tried_again_until_it_is_stable() -> None:
    world = World()
    world.directory.error = OSError(28, "No space left on device")
    answers: list[Exception | None] = []
    world.writer.store(RECORD, answers.append)
    world.scheduler.advance(3)
    assert [type(answer) for answer in answers] == [OSError]
    assert world.stable == 0
    world.directory.error = None
    world.scheduler.advance(2)
    assert world.stable == 1
    assert world.stored() == RECORD
    assert len(answers) == 1


def test_a_record_that_comes_while_another_one_fails_is_tried_again_as_well() -> None:
    world = World()
    world.directory.error = OSError(28, "No space left on device")
    answers: list[Exception | None] = []
    world.writer.store(RECORD, answers.append)
    world.writer.store(replace(RECORD, pace_mib_s=7), answers.append)
    world.scheduler.run_until_idle()
    world.directory.error = None
    world.scheduler.advance(5)
    assert world.stable == 1
    assert world.stored().pace_mib_s == 7
    assert [type(answer) for answer in answers] == [OSError, type(None)]


def test_nothing_is_written_after_close() -> None:
    world = World()
    world.directory.error = OSError(28, "No space left on device")
    world.writer.store(RECORD, lambda _error: None)
    world.scheduler.run_until_idle()
    world.writer.close()
    world.directory.error = None
    steps = world.directory.steps
    world.scheduler.advance(10)
    assert world.directory.steps == steps
