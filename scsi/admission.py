"""How the commands of a logical unit start when not all is as usual: by all the rules, in their order, or later.

`LogicalUnit.execute` knows the short way. What comes here: commands while there is a unit attention, a reservation, a
task that is not SIMPLE, a drain, an aborted write that still runs, or a sanitize; and those that want their blocks for
themselves. Who waits for whom is the task set's to say (`scsi.task_set`); it is asked again whenever a task has ended.

Spec: SAM-6 "Task attributes", "Status precedence".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from scsi import unit_attention
from scsi.commands import Command, Medium
from scsi.errors import (
    InternalTargetFailure,
    InvalidMessage,
    ReservationConflict,
    ScsiError,
    SoftwareWriteProtected,
    StatusError,
)
from scsi.nexus import Nexus
from scsi.status import Status, TaskAttribute
from scsi.task_set import TaskSet
from scsi.tasks import Task

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_log = logging.getLogger(__name__)

_SIMPLE: Final = int(TaskAttribute.SIMPLE)


class _Gone:
    """What `TaskSet.aborted` does not have."""


class Admission:
    """Starts commands of one logical unit.

    Attributes:
        tasks: those that it has.
    """

    def __init__(self, unit: LogicalUnit) -> None:
        self.tasks = TaskSet()
        self._unit = unit
        self._settling = False

    def execute(self, task: Task, row: Command | None = None) -> None:
        """Carry out a command, now or later; as `LogicalUnit.execute`.

        Args:
            task: which.
            row: what to carry it out by; None for that of its CDB.
        """
        if task.attribute > TaskAttribute.HEAD_OF_QUEUE:
            # ACA without an ACA condition, of which there is none, or a number that means nothing.
            self.tasks.running[task] = None
            self._unit.fail(task, InvalidMessage(f"task attribute {task.attribute}"))
            return
        if self.tasks.unsettled or task.attribute > _SIMPLE:
            # None is refused when it starts: order and unit attentions come first.
            row = row or self.find_row_or_none(task)
            waits = self.tasks.must_wait(task, row)
            if waits:
                self.tasks.waiting[task] = row
            self._unit.refresh()
            if waits:
                return
        self._start(task, row)

    def run_or_hold(self, task: Task, row: Command) -> None:
        """Run a task that was admitted, or let it wait for what it must not meet."""
        held = self.tasks.must_be_held(task, row)
        if row.exclusive:
            self._unit.refresh()
        if not held:
            self._run(task)

    def find_row(self, task: Task) -> Command:
        """Give the row of a task's CDB; raises what is wrong with it."""
        unit = self._unit
        return unit.commands.find(task.cdb, unit, task.session.nexus)

    def find_row_or_none(self, task: Task) -> Command | None:
        """Give the row of a task's CDB, None when there is no such command."""
        try:
            return self.find_row(task)
        except ScsiError:
            return None

    def fail_by_a_bug(self, task: Task) -> None:
        """End a task whose handler raised what no handler may; the session and its other commands go on."""
        _log.exception("%r: a handler failed, CDB %s", self._unit, task.cdb.hex())
        self._unit.fail(task, InternalTargetFailure())

    def _start(self, task: Task, row: Command | None) -> None:
        self.tasks.running[task] = row
        self._attempt(task, self._admit)

    def _attempt(self, task: Task, step: Callable[[Task], None]) -> None:
        try:
            step(task)
        except (ScsiError, StatusError) as error:
            self._unit.fail(task, error)
        except Exception:  # noqa: BLE001 - as in LogicalUnit.execute
            self.fail_by_a_bug(task)

    def _admit(self, task: Task) -> None:
        """Start a task by all the rules.

        Spec: SAM-6 "Status precedence": unit attentions for resets, then RESERVATION CONFLICT, then all others.
        """
        unit = self._unit
        row = self.tasks.running[task] or self.find_row_or_none(task)
        nexus = task.session.nexus
        if row is None or row.attention:
            self._report_attention(nexus, resets_only=True)
        if row is not None and (
            unit.reservations.conflicts(nexus, row.allow) or unit.persistent_reservations.conflicts(nexus, row.allow)
        ):
            raise ReservationConflict
        if (row is None or not row.while_sanitized) and (error := unit.sanitizer.error) is not None:
            raise error
        if row is None or row.attention:
            self._report_attention(nexus, resets_only=False)
        if row is None:
            row = self.find_row(task)  # raises what is wrong with it
        nexus.port_group.refuse(row.key)
        row.refuse_reserved(task.cdb)
        if row.medium is not Medium.NONE and (unready := unit.atomic_writes.error) is not None:
            raise unready
        if unit.modes.software_write_protect and row.medium is Medium.WRITE:
            raise SoftwareWriteProtected
        self.tasks.running[task] = row
        self.run_or_hold(task, row)

    def _run(self, task: Task) -> None:
        row = self.tasks.running[task]
        assert row is not None
        row.run(self._unit, task, row.decode(task.cdb))

    def _report_attention(self, nexus: Nexus, *, resets_only: bool) -> None:
        if nexus.attentions:
            error = unit_attention.take(nexus, self._unit, resets_only=resets_only)
            if error is not None:
                raise error

    # --- Aborts -------------------------------------------------------------------------------------------------------

    def abort(self, unwanted: Callable[[Task], bool]) -> list[Task]:
        """See `LogicalUnit.abort`."""
        tasks = [task for task in self.tasks.tasks() if unwanted(task)]
        ended = [task for task in tasks if self.tasks.abort(task)]
        for task in ended:
            task.complete(Status.TASK_ABORTED)
        self.settle()
        return tasks

    def end_aborted(self, task: Task) -> None:
        """What an aborted task had the volume do has ended. A task that is not known at all ended by a bug earlier."""
        if self.tasks.aborted.pop(task, _Gone) is not _Gone:
            task.complete(Status.TASK_ABORTED)
            self.settle()

    # --- What waits ---------------------------------------------------------------------------------------------------

    def drain(self, done: Callable[[], None]) -> None:
        """See `LogicalUnit.drain`."""
        self.tasks.drain(done)
        self._unit.refresh()
        self.settle()

    def resume(self) -> None:
        """See `LogicalUnit.resume`."""
        self.tasks.resume()
        self.settle()

    def settle(self) -> None:
        """Start what may start now. Tasks that end at once come back here, and the loop that runs already goes on."""
        if self._settling:
            return
        self._settling = True
        try:
            while True:
                if (held := self.tasks.take_unheld()) is not None:
                    self._attempt(held, self._run)
                elif (waiting := self.tasks.next_waiting()) is not None:
                    self._start(*waiting)
                elif drained := self.tasks.take_drained():
                    for done in drained:
                        done()
                else:
                    break
        finally:
            self._settling = False
            self._unit.refresh()
