"""Task management functions: aborts and resets.

They are answered at once, whatever the backends are doing: an aborted task's answer is dropped, and what the volume
still does for it is kept from newer commands by the task set of its logical unit.

Spec: SAM-6 "Task management functions"; RFC 7143 11.5, 11.6.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Protocol

from scsi import unit_attention
from scsi.logical_unit import LogicalUnit
from scsi.nexus import Nexus
from scsi.tasks import Task


class Function(enum.IntEnum):
    """Task management functions by iSCSI's numbers."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7


class Response(enum.IntEnum):
    """Their responses by iSCSI's numbers."""

    FUNCTION_COMPLETE = 0
    TASK_DOES_NOT_EXIST = 1
    LUN_DOES_NOT_EXIST = 2
    NOT_SUPPORTED = 5


class TaskRequest(Protocol):
    """A task management function of a host, as the transport hands it over.

    Attributes:
        session: as in `Task`.
        function: a number of `Function`, or another one.
        lun: the logical unit, 8 raw bytes; means nothing for the resets of the target.
        referenced: the task that ABORT TASK names, or None when the transport has none by that name.
    """

    @property
    def session(self) -> Any: ...
    @property
    def function(self) -> int: ...
    @property
    def lun(self) -> bytes: ...
    @property
    def referenced(self) -> Any: ...  # a Task

    def complete(self, response: int) -> None:
        """Answer it; exactly once."""


def abort_task(unit: LogicalUnit, nexus: Nexus, task: Task | None) -> Response:
    """Abort one task, which must be of this nexus and this unit."""
    if task is None:
        return Response.TASK_DOES_NOT_EXIST
    aborted = unit.abort(lambda other: other is task and other.session.nexus is nexus)
    return Response.FUNCTION_COMPLETE if aborted else Response.TASK_DOES_NOT_EXIST


def abort_task_set(unit: LogicalUnit, nexus: Nexus, _task: Task | None) -> Response:
    """Abort all tasks of this nexus."""
    unit.abort(lambda task: task.session.nexus is nexus)
    return Response.FUNCTION_COMPLETE


def clear_task_set(unit: LogicalUnit, nexus: Nexus, _task: Task | None) -> Response:
    """Abort all tasks of all nexuses; the others learn of it by a unit attention, as their tasks get no answer."""
    aborted = unit.abort(lambda _task: True)
    for other in {task.session.nexus for task in aborted} & unit.nexuses - {nexus}:
        unit_attention.establish(other, unit, *unit_attention.COMMANDS_CLEARED)
    return Response.FUNCTION_COMPLETE


def logical_unit_reset(unit: LogicalUnit, _nexus: Nexus, _task: Task | None) -> Response:
    """Reset the logical unit."""
    unit.reset()
    return Response.FUNCTION_COMPLETE


UNIT_FUNCTIONS: dict[int, Callable[[LogicalUnit, Nexus, Task | None], Response]] = {
    Function.ABORT_TASK: abort_task,
    Function.ABORT_TASK_SET: abort_task_set,
    Function.CLEAR_TASK_SET: clear_task_set,
    Function.LOGICAL_UNIT_RESET: logical_unit_reset,
}

# CLEAR ACA is not among the functions, as there is no ACA.
TARGET_RESETS = frozenset({Function.TARGET_WARM_RESET, Function.TARGET_COLD_RESET})
