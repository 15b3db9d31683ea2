"""Which commands of a logical unit run, which wait, and which were aborted but still run below.

How this works. A task is *waiting* (not started: an ORDERED task is in front of it, or it is one itself, or the unit
is being drained), or *running* (started; the volume or the array services may have it), or *aborted* (its host was told
so, and the volume still has it). A running task may be *held*: it was admitted, and goes to the volume only when what
it overlaps and must not meet has ended. That is an aborted write, which could land over newer data that a host was told
is written; and with exclusive commands, COMPARE AND WRITE for one, whatever reads or writes their blocks and came
before them, as well as they themselves for what comes later. Each waits for earlier ones only, so nothing can wait in a
circle. A *limited* task has not got that far: its host does more than it may, and it comes later.

While nothing of this is going on, a logical unit adds to `running` and takes from it, and asks for no more.

Spec: SAM-6 "Task attributes", "Command lifetime"; RFC 7143 11.5.1 (ABORT TASK does not undo a write).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from scsi.commands import Command, Medium
from scsi.nexus import Limit
from scsi.status import TaskAttribute
from scsi.tasks import Task

_ORDERED = TaskAttribute.ORDERED
_HEAD_OF_QUEUE = TaskAttribute.HEAD_OF_QUEUE


class TaskSet:
    """The tasks of one logical unit, from all nexuses.

    Attributes:
        running: started and not ended, with the row of the command (None until it is known).
        waiting: not started, in the order they came.
        aborted: the volume, or a service, still has them; their answer goes nowhere.
        held: those of `running` that wait for others, with these.
        exclusive: those of `running`, held or not, that are to have their blocks for themselves.
        limited: come later, by the limit of their host, which has them wait.
    """

    def __init__(self) -> None:
        self.running: dict[Task, Command | None] = {}
        self.waiting: dict[Task, Command | None] = {}
        self.aborted: dict[Task, Command | None] = {}
        self.held: dict[Task, list[Task]] = {}
        self.exclusive: dict[Task, Command] = {}
        self.limited: dict[Task, Limit] = {}
        self._ordered = 0  # ORDERED tasks, waiting and running
        self._drains = 0
        self._drained: list[Callable[[], None]] = []

    @property
    def unsettled(self) -> bool:
        """True while a new task may not simply be started."""
        return bool(self._ordered or self.waiting or self.aborted or self._drains or self.exclusive)

    # --- Order --------------------------------------------------------------------------------------------------------

    def must_wait(self, task: Task, row: Command | None) -> bool:
        """Tell whether a task that has just come may not start yet, and count it."""
        waits = self._blocked_by_drain(row)
        if task.attribute == _ORDERED:
            waits = waits or bool(self._ordered or self.running or self.waiting)
            self._ordered += 1
        elif task.attribute != _HEAD_OF_QUEUE:
            waits = waits or bool(self._ordered)
        return waits

    def ended(self, task: Task) -> None:
        """Count a task off: it has ended, or was aborted."""
        self.exclusive.pop(task, None)
        if task.attribute == _ORDERED:
            self._ordered -= 1

    def next_waiting(self) -> tuple[Task, Command | None] | None:
        """Take the first waiting task, with its row, off the queue if it may start now."""
        for task, row in self.waiting.items():  # the first one only
            if self._blocked_by_drain(row) or self._blocked_by_order(task):
                return None
            del self.waiting[task]
            return task, row
        return None

    def _blocked_by_order(self, task: Task) -> bool:
        if task.attribute == _ORDERED:
            return bool(self.running)
        if task.attribute == _HEAD_OF_QUEUE or not self._ordered:
            return False
        return any(running.attribute == _ORDERED for running in self.running)

    # --- Aborted tasks ------------------------------------------------------------------------------------------------

    def abort(self, task: Task) -> bool:
        """Take a task out of the set whose answer nobody is to get; otherwise as `withdraw`."""
        task.aborted = True
        return self.withdraw(task)

    def unstarted(self) -> Iterable[Task]:
        """List the tasks that the volume was never given."""
        return [*self.waiting, *self.limited, *self.held]

    def withdraw(self, task: Task) -> bool:
        """Take a task out of the set.

        Returns:
            True when it was never given to the volume, so that it has ended now; False when it runs on below.
        """
        limit = self.limited.pop(task, None)
        if limit is not None:
            limit.withdraw(task)
            return True
        if task in self.waiting:
            del self.waiting[task]
            self.ended(task)
            return True
        row = self.running.pop(task)
        self.ended(task)
        if self.held.pop(task, None) is not None:
            return True
        self.aborted[task] = row
        return False

    # --- Commands that must not meet ----------------------------------------------------------------------------------

    def must_be_held(self, task: Task, row: Command) -> bool:
        """Tell whether a running task may not go to the volume yet; `take_unheld` gives it when it may."""
        if not _touches_blocks(row):
            return False
        first, end = _extent(task, row)
        blockers = [
            old_task
            for old_task, old_row in self.aborted.items()
            if old_row is not None and old_row.medium is Medium.WRITE and _overlap(old_task, old_row, first, end)
        ]
        others: Mapping[Task, Command | None] = self.running if row.exclusive else self.exclusive
        for other, other_row in others.items():
            if (
                other is not task
                and other_row is not None
                and _touches_blocks(other_row)
                and _overlap(other, other_row, first, end)
            ):
                blockers.append(other)
        if row.exclusive:
            self.exclusive[task] = row
        if blockers:
            self.held[task] = blockers
        return bool(blockers)

    def take_unheld(self) -> Task | None:
        """Take one held task that has to wait for nothing any more."""
        for task, blockers in self.held.items():
            if not any(blocker in self.running or blocker in self.aborted for blocker in blockers):
                del self.held[task]
                return task
        return None

    def tasks(self) -> Iterable[Task]:
        """List the tasks that are limited, waiting or running."""
        return [*self.running, *self.waiting, *self.limited]

    # --- Draining -----------------------------------------------------------------------------------------------------

    def drain(self, done: Callable[[], None]) -> None:
        """Start nothing more on the volume until `resume`; `done` is for `take_drained`."""
        self._drains += 1
        self._drained.append(done)

    def resume(self) -> None:
        """Undo one `drain`."""
        assert self._drains > 0
        self._drains -= 1

    def take_drained(self) -> list[Callable[[], None]]:
        """Give the callbacks of `drain` once the volume has none of the tasks, each of them once."""
        if not self._drained or any(
            row is not None and row.medium is not Medium.NONE
            for tasks in (self.running, self.aborted)
            for row in tasks.values()
        ):
            return []
        drained, self._drained = self._drained, []
        return drained

    def _blocked_by_drain(self, row: Command | None) -> bool:
        return self._drains > 0 and row is not None and row.medium is not Medium.NONE


def _touches_blocks(row: Command) -> bool:
    return row.medium is Medium.READ or row.medium is Medium.WRITE


def _extent(task: Task, row: Command) -> tuple[int, int]:
    """First block and the one after the last, of a command that reads or writes blocks."""
    _, lba, blocks, *_ = row.decode(task.cdb)
    return lba, lba + blocks


def _overlap(task: Task, row: Command, first: int, end: int) -> bool:
    other_first, other_end = _extent(task, row)
    return first < other_end and other_first < end
