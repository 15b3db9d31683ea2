import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsi.logical_unit import LogicalUnit
from scsi.status import TaskAttribute
from scsi.target import TargetPort
from scsi.volume import Deallocation, Fault, ReadDone, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

SIMPLE, ORDERED, HEAD_OF_QUEUE = TaskAttribute.SIMPLE, TaskAttribute.ORDERED, TaskAttribute.HEAD_OF_QUEUE


@pytest.fixture
def volume() -> MemoryVolume:
    volume = MemoryVolume()
    volume.hold = True
    return volume


@pytest.fixture
def unit(volume: MemoryVolume) -> LogicalUnit:
    return LogicalUnit(volume, c.NAA)


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


class Sequence:
    """Sends reads of one block each, LBA by LBA, so that the journal shows which have started."""

    def __init__(self, host: c.Host) -> None:
        self.host = host
        self.commands: list[c.FakeCommand] = []

    def send(self, *attributes: int) -> None:
        for attribute in attributes:
            self.commands.append(self.host.send(c.read_10(len(self.commands), 1), attribute=attribute))


def started(volume: MemoryVolume) -> list[int]:
    return [operation.lba for operation in volume.journal]


# --- Task attributes --------------------------------------------------------------------------------------------------


def test_simple_and_untagged_tasks_run_side_by_side(host: c.Host, volume: MemoryVolume) -> None:
    Sequence(host).send(SIMPLE, TaskAttribute.UNTAGGED, SIMPLE)
    assert started(volume) == [0, 1, 2]


def test_an_ordered_task_waits_for_earlier_ones_and_later_ones_wait_for_it(host: c.Host, volume: MemoryVolume) -> None:
    sequence = Sequence(host)
    sequence.send(SIMPLE, SIMPLE, ORDERED, SIMPLE, SIMPLE)
    assert started(volume) == [0, 1]
    volume.release()
    assert started(volume) == [0, 1]
    volume.release()
    assert started(volume) == [0, 1, 2]
    volume.release()
    assert started(volume) == [0, 1, 2, 3, 4]
    volume.release_all()
    assert {command.outcome for command in sequence.commands} == {"GOOD"}


def test_ordered_tasks_run_one_after_another(host: c.Host, volume: MemoryVolume) -> None:
    Sequence(host).send(ORDERED, ORDERED, SIMPLE, ORDERED)
    for expected in ([0], [0, 1], [0, 1, 2], [0, 1, 2, 3]):
        assert started(volume) == expected
        volume.release()


def test_a_head_of_queue_task_passes_all_that_wait(host: c.Host, volume: MemoryVolume) -> None:
    Sequence(host).send(SIMPLE, ORDERED, SIMPLE, HEAD_OF_QUEUE)
    assert started(volume) == [0, 3]


def test_order_holds_between_nexuses(host: c.Host, unit: LogicalUnit, volume: MemoryVolume) -> None:
    other = c.Host(host.port, unit)
    host.send(c.read_10(0, 1))
    host.send(c.read_10(1, 1), attribute=ORDERED)
    waiting = other.send(c.TEST_UNIT_READY)
    assert waiting.outcome == "running"
    volume.release_all()
    assert waiting.outcome == "GOOD"


def test_after_the_last_ordered_task_nothing_waits_any_more(host: c.Host, volume: MemoryVolume) -> None:
    sequence = Sequence(host)
    sequence.send(ORDERED, SIMPLE)
    volume.release_all()
    volume.hold = True
    sequence.send(SIMPLE, SIMPLE)
    assert started(volume) == [0, 1, 2, 3]


def test_an_ordered_task_that_fails_lets_the_others_go_on(host: c.Host, volume: MemoryVolume) -> None:
    first = host.send(c.read_10(0, 1))
    refused = host.send(c.read_10(1, 1, 0x20), attribute=ORDERED)
    last = host.send(c.read_10(2, 1))
    assert (refused.outcome, last.outcome) == ("running", "running")
    volume.release()
    assert (first.outcome, refused.outcome) == ("GOOD", "05/24/00")
    assert started(volume) == [0, 2]


@pytest.mark.parametrize("attribute", [4, 5, 6, 7])
def test_aca_and_unknown_attributes_are_an_invalid_message(host: c.Host, attribute: int) -> None:
    assert host.send(c.TEST_UNIT_READY, attribute=attribute).outcome == "05/49/00"


def test_a_thousand_waiting_tasks_that_end_at_once_are_no_recursion(host: c.Host, volume: MemoryVolume) -> None:
    sequence = Sequence(host)
    sequence.send(SIMPLE, ORDERED, *[SIMPLE] * 1500)
    volume.release_all()
    assert {command.outcome for command in sequence.commands} == {"GOOD"}


@given(st.lists(st.tuples(st.sampled_from([SIMPLE, ORDERED, HEAD_OF_QUEUE]), st.booleans()), max_size=40), st.data())
def test_no_task_ever_overtakes_an_ordered_one_and_all_end(
    plan: list[tuple[TaskAttribute, bool]], data: st.DataObject
) -> None:
    volume = MemoryVolume()
    volume.hold = True
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    sequence = Sequence(host)
    for attribute, release in plan:
        sequence.send(attribute)
        if release and volume.held:
            volume.release(data.draw(st.integers(0, len(volume.held) - 1)))
        running = [operation.lba for operation in volume.held]
        for lba in running:
            if plan[lba][0] is ORDERED:
                assert all(plan[other][0] is HEAD_OF_QUEUE for other in running if other != lba)
            if plan[lba][0] is SIMPLE:
                earlier = [n for n in range(lba) if plan[n][0] is ORDERED]
                assert all(sequence.commands[n].answer for n in earlier)
    volume.release_all()
    assert all(command.outcome == "GOOD" for command in sequence.commands)


# --- Draining, and another volume -------------------------------------------------------------------------------------


def test_a_drain_waits_for_what_the_volume_has_and_holds_what_comes_after(
    host: c.Host, unit: LogicalUnit, volume: MemoryVolume
) -> None:
    drained: list[str] = []
    before = host.send(c.read_10(0, 1))
    unit.drain(lambda: drained.append("now"))
    after = host.send(c.read_10(1, 1))
    assert drained == []
    assert started(volume) == [0]
    volume.release()
    assert (before.outcome, drained, started(volume)) == ("GOOD", ["now"], [0])
    unit.resume()
    volume.release()
    assert after.outcome == "GOOD"


def test_a_drain_of_an_idle_unit_is_done_at_once(unit: LogicalUnit) -> None:
    drained: list[str] = []
    unit.drain(lambda: drained.append("now"))
    assert drained == ["now"]


def test_commands_that_do_not_touch_the_volume_are_not_held(host: c.Host, unit: LogicalUnit) -> None:
    unit.drain(lambda: None)
    for cdb in (c.TEST_UNIT_READY, c.inquiry(), c.mode_sense_6(), c.report_opcodes(), c.READ_CAPACITY_10):
        assert host.send(cdb).outcome == "GOOD"
    assert host.send(c.synchronize_cache_10()).outcome == "running"


def test_each_drain_needs_its_own_resume(host: c.Host, unit: LogicalUnit, volume: MemoryVolume) -> None:
    unit.drain(lambda: None)
    unit.drain(lambda: None)
    host.send(c.read_10(0, 1))
    unit.resume()
    assert started(volume) == []
    unit.resume()
    assert started(volume) == [0]


def test_a_drain_waits_for_what_was_aborted_and_still_runs(
    host: c.Host, unit: LogicalUnit, volume: MemoryVolume
) -> None:
    drained: list[str] = []
    host.send(c.write_10(0, 1), bytes(512))
    host.leave()
    unit.drain(lambda: drained.append("now"))
    assert drained == []
    volume.release()
    assert drained == ["now"]


def test_the_volume_is_exchanged_between_drain_and_resume(
    host: c.Host, unit: LogicalUnit, volume: MemoryVolume
) -> None:
    other = MemoryVolume()
    other.data[:] = b"n" * len(other.data)
    first = host.send(c.read_10(0, 1))

    def exchange() -> None:
        unit.volume = other
        unit.resume()

    unit.drain(exchange)
    second = host.send(c.read_10(0, 1))
    volume.release()
    assert first.data == bytes(512)
    assert second.data == b"n" * 512


def test_hosts_are_told_of_another_size_and_of_another_kind_of_cache(host: c.Host, unit: LogicalUnit) -> None:
    unit.volume = MemoryVolume()
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"
    unit.volume = MemoryVolume(4096)
    assert host.send(c.TEST_UNIT_READY).outcome == "06/2A/09"
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"
    unit.volume = MemoryVolume(4096, write_cache=True)
    assert host.send(c.TEST_UNIT_READY).outcome == "06/2A/01"


def test_hosts_are_told_of_a_write_protection_in_the_way_that_makes_linux_look(
    host: c.Host, unit: LogicalUnit, volume: MemoryVolume
) -> None:
    for protected in (True, False):
        volume.read_only = protected
        unit.tell_write_protection()
        assert [host.send(c.TEST_UNIT_READY).outcome for _ in range(3)] == ["06/2A/01", "06/3F/03", "GOOD"]
        unit.tell_write_protection()
        assert host.send(c.TEST_UNIT_READY).outcome == "GOOD", "once"


def test_hosts_are_told_of_a_unit_that_begins_to_be_thin_or_ceases(host: c.Host, unit: LogicalUnit) -> None:
    for deallocation in (Deallocation(8), None):
        volume = MemoryVolume()
        volume.deallocation = deallocation
        unit.volume = volume
        assert host.send(c.TEST_UNIT_READY).outcome == "06/3F/03"
        assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"
        unit.volume = volume
        assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"


# --- Bugs -------------------------------------------------------------------------------------------------------------


class BrokenVolume(MemoryVolume):
    """Raises where a volume must not."""

    def __init__(self, *, after_done: bool) -> None:
        super().__init__()
        self.after_done = after_done

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        if self.after_done:
            done(bytes(blocks * 512))
        raise RuntimeError("a bug below")


def test_a_bug_fails_one_command_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    host = c.Host(TargetPort(), LogicalUnit(BrokenVolume(after_done=False), c.NAA))
    with caplog.at_level(logging.ERROR):
        assert host.send(c.read_10(0, 1)).outcome == "04/44/00"
    assert "a bug below" in caplog.text
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"


def test_a_bug_after_the_end_of_a_command_does_not_end_it_again(caplog: pytest.LogCaptureFixture) -> None:
    host = c.Host(TargetPort(), LogicalUnit(BrokenVolume(after_done=True), c.NAA))
    assert host.send(c.read_10(0, 1)).outcome == "GOOD"
    assert "a bug below" in caplog.text


def test_a_bug_is_contained_on_the_careful_way_too(unit: LogicalUnit, caplog: pytest.LogCaptureFixture) -> None:
    unit.volume = BrokenVolume(after_done=False)
    host = c.Host(TargetPort(), unit)
    unit.nexuses.clear()
    host.send(c.RESERVE_6)
    assert host.send(c.read_10(0, 1)).outcome == "04/44/00"
    assert host.send(c.RELEASE_6).outcome == "GOOD"
    assert "a bug below" in caplog.text


def test_every_command_ends_exactly_once_whatever_the_volume_does(host: c.Host, volume: MemoryVolume) -> None:
    answers: list[Any] = [host.send(c.read_10(n, 1)) for n in range(4)]
    volume.release(2)
    volume.release(1, VolumeError(Fault.TIMED_OUT))
    volume.release_all()
    assert [answer.outcome for answer in answers] == ["GOOD", "0B/08/01", "GOOD", "GOOD"]
