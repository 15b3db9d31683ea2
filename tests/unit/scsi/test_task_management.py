from collections.abc import Callable

import pytest

from scsi.logical_unit import LogicalUnit
from scsi.mode_parameters import ModeParameters
from scsi.nexus import MappedUnit
from scsi.status import TaskAttribute
from scsi.target import TargetPort
from scsi.task_management import Function, Response
from scsi.tasks import Task
from scsi.volume import Buffer
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

OLD, NEW = b"o" * 512, b"n" * 512
COMPLETE = Response.FUNCTION_COMPLETE


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


@pytest.fixture
def other(host: c.Host, unit: LogicalUnit) -> c.Host:
    return c.Host(host.port, unit, "iqn.2026-11.org.example:other")


# --- ABORT TASK -------------------------------------------------------------------------------------------------------


def test_abort_task_is_complete_at_once_and_the_command_ends_only_with_its_operation(
    host: c.Host, volume: MemoryVolume
) -> None:
    command = host.send(c.read_10(0, 1))
    assert host.manage(Function.ABORT_TASK, command) is COMPLETE
    assert command.aborted
    assert command.answer is None, "the volume may still be using its buffer"
    volume.release()
    assert command.outcome == "TASK ABORTED"


def test_abort_task_leaves_the_others(host: c.Host, volume: MemoryVolume) -> None:
    one, two = host.send(c.read_10(0, 1)), host.send(c.read_10(1, 1))
    host.manage(Function.ABORT_TASK, one)
    assert not two.aborted
    volume.release_all()
    assert two.outcome == "GOOD"


def test_abort_of_a_task_that_has_ended_or_never_was(host: c.Host, volume: MemoryVolume) -> None:
    command = host.send(c.read_10(0, 1))
    volume.release()
    assert host.manage(Function.ABORT_TASK, command) is Response.TASK_DOES_NOT_EXIST
    assert host.manage(Function.ABORT_TASK, None) is Response.TASK_DOES_NOT_EXIST
    assert not command.aborted


def test_a_host_can_not_abort_the_task_of_another(host: c.Host, other: c.Host) -> None:
    command = host.send(c.read_10(0, 1))
    assert other.manage(Function.ABORT_TASK, command) is Response.TASK_DOES_NOT_EXIST
    assert not command.aborted


def test_a_waiting_task_is_aborted_without_ever_starting(host: c.Host, volume: MemoryVolume) -> None:
    host.send(c.read_10(0, 1))
    ordered = host.send(c.read_10(1, 1), attribute=TaskAttribute.ORDERED)
    behind = host.send(c.read_10(2, 1))
    assert host.manage(Function.ABORT_TASK, ordered) is COMPLETE
    assert ordered.outcome == "TASK ABORTED"
    assert volume.operations() == ["read 0+1", "read 2+1"], "what waited for it does not wait any more"
    volume.release_all()
    assert behind.outcome == "GOOD"
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"


def test_a_running_ordered_task_that_is_aborted_holds_up_nobody(host: c.Host, volume: MemoryVolume) -> None:
    ordered = host.send(c.read_10(0, 1), attribute=TaskAttribute.ORDERED)
    behind = host.send(c.read_10(1, 1))
    host.manage(Function.ABORT_TASK, ordered)
    assert volume.operations() == ["read 0+1", "read 1+1"]
    last = host.send(c.read_10(2, 1))
    volume.release_all()
    assert (behind.outcome, last.outcome) == ("GOOD", "GOOD")
    assert host.send(c.read_10(3, 1)).outcome == "GOOD", "of the volume that was idle meanwhile"


# --- Aborted writes that still run ------------------------------------------------------------------------------------


def test_an_aborted_write_never_lands_over_newer_data(host: c.Host, volume: MemoryVolume) -> None:
    stale = host.send(c.write_10(4, 1), OLD)
    host.manage(Function.ABORT_TASK, stale)
    newer = host.send(c.write_10(4, 1), NEW)
    assert volume.operations() == ["write 4+1"], "the newer one waits"
    assert newer.outcome == "running"
    volume.release()
    volume.release()
    assert (stale.outcome, newer.outcome) == ("TASK ABORTED", "GOOD")
    assert bytes(volume.data[4 * 512 : 5 * 512]) == NEW


def test_only_what_overlaps_it_waits(host: c.Host, volume: MemoryVolume) -> None:
    stale = host.send(c.write_10(4, 4), OLD * 4)
    host.manage(Function.ABORT_TASK, stale)
    for cdb in (c.read_10(3, 1), c.read_10(8, 1), c.write_10(0, 4), c.synchronize_cache_10()):
        host.send(cdb, bytes(2048))
    assert volume.operations() == ["write 4+4", "read 3+1", "read 8+1", "write 0+4", "flush"]
    for cdb in (c.read_10(3, 2), c.read_10(7, 1), c.write_10(5, 1), c.blocks_10(0x2F, 0, 16)):
        host.send(cdb, OLD)
    assert len(volume.journal) == 5
    volume.release()
    assert volume.operations()[5:] == ["read 3+2", "read 7+1", "write 5+1", "read 0+16"]


def test_an_aborted_read_holds_up_nobody(host: c.Host, volume: MemoryVolume) -> None:
    host.manage(Function.ABORT_TASK, host.send(c.read_10(4, 1)))
    host.send(c.write_10(4, 1), NEW)
    assert volume.operations() == ["read 4+1", "write 4+1"]


def test_another_host_waits_for_it_too_and_the_lost_host_is_forgotten(
    host: c.Host, other: c.Host, volume: MemoryVolume
) -> None:
    host.send(c.write_10(4, 1), OLD)
    host.leave()
    newer = other.send(c.write_10(4, 1), NEW)
    assert volume.operations() == ["write 4+1"]
    volume.release_all()
    assert newer.outcome == "GOOD"
    assert bytes(volume.data[4 * 512 : 5 * 512]) == NEW


def test_one_that_waits_for_it_can_itself_be_aborted_and_is_gone_at_once(host: c.Host, volume: MemoryVolume) -> None:
    host.manage(Function.ABORT_TASK, host.send(c.write_10(4, 1), OLD))
    waiting = host.send(c.write_10(4, 1), NEW)
    host.manage(Function.ABORT_TASK, waiting)
    assert waiting.outcome == "TASK ABORTED"
    volume.release_all()
    assert volume.operations() == ["write 4+1"]


class Successor(c.FakeCommand):
    """A command whose end makes its session deliver the next one at once."""

    port = TargetPort()
    next_cdb = b""
    next_data = b""

    def complete(
        self, status: int, data_in: Buffer = b"", sense: bytes = b"", data_out_used: int | None = None
    ) -> None:
        super().complete(status, data_in, sense, data_out_used)
        self.port.execute(c.FakeCommand(self.session, self.next_cdb, self.next_data))


def test_what_comes_in_while_tasks_are_being_aborted_waits_too(unit: LogicalUnit, volume: MemoryVolume) -> None:
    host = c.Host(Successor.port, unit)
    host.send(c.write_10(4, 1), OLD)
    waiting = Successor(host.session, c.TEST_UNIT_READY, attribute=TaskAttribute.ORDERED)
    waiting.next_cdb, waiting.next_data = c.write_10(4, 1), NEW
    waiting.port.execute(waiting)
    host.manage(Function.ABORT_TASK_SET)
    assert waiting.outcome == "TASK ABORTED"
    assert volume.operations() == ["write 4+1"]
    volume.release_all()
    assert bytes(volume.data[4 * 512 : 5 * 512]) == NEW


def test_two_aborted_writes_are_both_waited_for(host: c.Host, volume: MemoryVolume) -> None:
    for lba in (4, 5):
        host.manage(Function.ABORT_TASK, host.send(c.write_10(lba, 1), OLD))
    newer = host.send(c.write_10(4, 2), NEW * 2)
    volume.release(1)
    assert len(volume.journal) == 2
    volume.release_all()
    assert newer.outcome == "GOOD"
    assert bytes(volume.data[4 * 512 : 6 * 512]) == NEW * 2


def test_after_all_of_it_the_fast_way_is_open_again(host: c.Host, unit: LogicalUnit, volume: MemoryVolume) -> None:
    host.manage(Function.ABORT_TASK, host.send(c.write_10(4, 1), OLD))
    assert unit._careful
    volume.release_all()
    assert not unit._careful


# --- Task sets and resets ---------------------------------------------------------------------------------------------


def test_abort_task_set_takes_the_tasks_of_its_nexus_only(host: c.Host, other: c.Host, volume: MemoryVolume) -> None:
    mine, theirs = host.send(c.read_10(0, 1)), other.send(c.read_10(1, 1))
    assert host.manage(Function.ABORT_TASK_SET) is COMPLETE
    assert (mine.aborted, theirs.aborted) == (True, False)
    volume.release_all()
    assert theirs.outcome == "GOOD"


def test_clear_task_set_takes_all_and_tells_those_who_lost_tasks(host: c.Host, other: c.Host) -> None:
    idle = c.Host(host.port, next(iter(host.nexus.lun_map.values())).logical_unit)
    mine, theirs = host.send(c.read_10(0, 1)), other.send(c.read_10(1, 1))
    assert host.manage(Function.CLEAR_TASK_SET) is COMPLETE
    assert mine.aborted
    assert theirs.aborted
    outcomes = [one.send(c.TEST_UNIT_READY).outcome for one in (host, other, idle)]
    assert outcomes == ["GOOD", "06/2F/00", "GOOD"]


@pytest.mark.parametrize(
    "function", [Function.LOGICAL_UNIT_RESET, Function.TARGET_WARM_RESET, Function.TARGET_COLD_RESET]
)
def test_v22_a_reset_is_answered_while_two_hosts_are_busy_and_the_volume_stalls(
    host: c.Host, other: c.Host, unit: LogicalUnit, volume: MemoryVolume, function: Function
) -> None:
    unit.use_modes(ModeParameters(descriptor_sense=True), host.nexus)
    other.nexus.attentions.clear()
    tasks = [host.send(c.write_10(0, 1), OLD), other.send(c.write_10(1, 1), OLD)]
    assert host.manage(function) is COMPLETE
    assert all(task.aborted for task in tasks)
    assert not unit.modes.descriptor_sense
    for each in (host, other):  # the one that asked for it, too
        assert each.send(c.TEST_UNIT_READY).outcome == "06/29/03"
        assert each.send(c.TEST_UNIT_READY).outcome == "GOOD"
    volume.release_all()
    assert {task.outcome for task in tasks} == {"TASK ABORTED"}


def test_a_target_reset_reaches_every_unit_that_the_host_sees_and_no_other() -> None:
    port = TargetPort()
    seen, hidden = (LogicalUnit(MemoryVolume(), c.NAA) for _ in range(2))
    host = c.Host(port, {c.lun(3): MappedUnit(seen)})
    both = c.Host(port, {c.lun(0): MappedUnit(seen), c.lun(1): MappedUnit(hidden)})
    host.manage(Function.TARGET_WARM_RESET)
    assert both.send(c.TEST_UNIT_READY, lun=c.lun(0)).outcome == "06/29/03"
    assert both.send(c.TEST_UNIT_READY, lun=c.lun(1)).outcome == "GOOD"


def test_a_lun_that_is_not_there(host: c.Host) -> None:
    for function in (
        Function.ABORT_TASK,
        Function.ABORT_TASK_SET,
        Function.CLEAR_TASK_SET,
        Function.LOGICAL_UNIT_RESET,
    ):
        assert host.manage(function, lun=c.lun(9)) is Response.LUN_DOES_NOT_EXIST


@pytest.mark.parametrize("function", [Function.CLEAR_ACA, 8, 0, 255])
def test_functions_that_there_are_not(host: c.Host, function: Function) -> None:
    assert host.manage(function) is Response.NOT_SUPPORTED


# --- Commands that a limit holds back ---------------------------------------------------------------------------------


class ShutLimit:
    """A `scsi.nexus.Limit` that admits nothing until it is opened."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.waiting: dict[Task, Callable[[], None]] = {}

    def admit(self, task: Task, size_bytes: int, go: Callable[[], None]) -> bool:
        self.asked.append(size_bytes)
        self.waiting[task] = go
        return False

    def withdraw(self, task: Task) -> None:
        del self.waiting[task]

    def open(self) -> None:
        for go in self.waiting.values():
            go()


@pytest.fixture
def limit() -> ShutLimit:
    return ShutLimit()


@pytest.fixture
def limited(limit: ShutLimit, unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), {c.LUN_0: MappedUnit(unit, limit=limit)})


def test_a_limited_command_comes_when_its_limit_admits_it(
    limited: c.Host, limit: ShutLimit, volume: MemoryVolume
) -> None:
    command = limited.send(c.write_10(0, 1), NEW, room=0)
    assert limit.asked == [512]
    assert volume.operations() == []
    limit.open()
    volume.release_all()
    assert command.outcome == "GOOD"
    assert bytes(volume.data[:512]) == NEW


def test_commands_that_move_no_blocks_are_not_limited(limited: c.Host, limit: ShutLimit) -> None:
    assert limited.send(c.TEST_UNIT_READY).outcome == "GOOD"
    assert limited.send(c.inquiry()).outcome == "GOOD"
    assert limit.asked == []


@pytest.mark.parametrize("how", ["ABORT TASK", "LOGICAL UNIT RESET", "session lost"])
def test_a_limited_command_that_is_aborted_has_ended_and_never_comes(
    limited: c.Host, limit: ShutLimit, volume: MemoryVolume, how: str
) -> None:
    command = limited.send(c.write_10(0, 1), NEW)
    if how == "ABORT TASK":
        assert limited.manage(Function.ABORT_TASK, command) is COMPLETE
    elif how == "LOGICAL UNIT RESET":
        assert limited.manage(Function.LOGICAL_UNIT_RESET) is COMPLETE
    else:
        limited.leave()
    assert command.outcome == "TASK ABORTED"
    assert limit.waiting == {}
    assert volume.operations() == []
