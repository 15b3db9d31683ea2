"""Task management at a target: what of it is iSCSI's own.

iSCSI knows which tasks of this session exist, which are still on their way in, and what numbers they have. It ends
those that SCSI has not seen, and hands the rest up as an event. The response goes out after SCSI has completed the
function and, for functions that abort many tasks, when the data that was asked for on behalf of those has come (RFC
7143 4.2.3.3). Initiators that never send that data once they have asked for the abort are common (open-iscsi's
FastAbort, libiscsi), so the wait is bounded.

Spec: RFC 7143 4.2.3 "Command/Status Numbering with task management", 11.5, 11.6, 7.11.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi.iscsi.errors import Rejected, RejectReason
from scsi.iscsi.events import TaskManagement
from scsi.iscsi.pdu import (
    ABORT_TASK,
    ABORT_TASK_SET,
    CLEAR_ACA,
    CLEAR_TASK_SET,
    FUNCTION_COMPLETE,
    FUNCTION_NOT_SUPPORTED,
    FUNCTION_REJECTED,
    LOGICAL_UNIT_RESET,
    REASSIGN_NOT_SUPPORTED,
    RESERVED_TAG,
    TARGET_COLD_RESET,
    TARGET_WARM_RESET,
    TASK_DOES_NOT_EXIST,
    TASK_REASSIGN,
    Header,
)
from scsi.iscsi.serial_numbers import serial_less
from scsi.iscsi.task_pdus import (
    TaskManagementRequest,
    TaskManagementResponse,
    decode_task_management_request,
    encode_task_management_response,
)

if TYPE_CHECKING:
    from scsi.iscsi.session import Session

_SCSI_FUNCTIONS = frozenset(
    {ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET, LOGICAL_UNIT_RESET, TARGET_WARM_RESET, TARGET_COLD_RESET}
)
_ABORTS_UNIT = frozenset({ABORT_TASK_SET, CLEAR_TASK_SET, LOGICAL_UNIT_RESET})
_ABORTS_ALL = frozenset({TARGET_WARM_RESET, TARGET_COLD_RESET})


class TaskManager:
    """The task management functions of one session that are not answered yet.

    Attributes:
        by_tag: these by initiator task tag; for every command the session looks whether its tag is in here.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.by_tag: dict[int, TaskManagement] = {}

    def clear(self) -> None:
        """Answer nothing any more."""
        self.by_tag.clear()

    def receive(self, header: Header) -> None:
        """Take a Task Management Function Request.

        Raises:
            Rejected: its task tag is in use or reserved, or there are too many functions already.
        """
        session = self._session
        request = decode_task_management_request(header)
        tag = request.initiator_task_tag
        if tag == RESERVED_TAG:
            raise Rejected(RejectReason.INVALID_PDU_FIELD, "reserved task tag")
        if tag in self.by_tag or tag in session.tasks:
            raise Rejected(RejectReason.TASK_IN_PROGRESS, f"task tag {tag:#x} is in use")
        if len(self.by_tag) >= session.options.max_immediate_commands:
            raise Rejected(RejectReason.TOO_MANY_IMMEDIATE_COMMANDS, "too many task management functions")
        if request.function == TASK_REASSIGN:
            self._answer(tag, REASSIGN_NOT_SUPPORTED)
        elif request.function not in _SCSI_FUNCTIONS:
            self._answer(tag, FUNCTION_NOT_SUPPORTED)
        elif request.function == ABORT_TASK:
            self._abort_task(request)
        else:
            self._hand_up(request, self._abort_undelivered(request))

    def _abort_task(self, request: TaskManagementRequest) -> None:
        session = self._session
        tag = request.initiator_task_tag
        if request.referenced_task_tag in self.by_tag:
            self._answer(tag, FUNCTION_REJECTED)
            return
        command = session.tasks.get(request.referenced_task_tag)
        if command is None or command.aborted:
            # A command that is not here yet and comes before this request counts as received (7.11).
            missing = serial_less(request.ref_cmd_sn, request.cmd_sn) and session.skip(request.ref_cmd_sn)
            self._answer(tag, FUNCTION_COMPLETE if missing else TASK_DOES_NOT_EXIST)
        elif command.lun != request.lun:
            self._answer(tag, FUNCTION_REJECTED)
        elif session.is_delivered(command):
            function = TaskManagement(session, ABORT_TASK, request.lun, tag, command)
            self.by_tag[tag] = function
            session.events.append(function)
        else:
            # Its host may drop or still send what was asked for; either is fine, nobody waits for it.
            session.collector.forget(session.abandon(command))
            self._answer(tag, FUNCTION_COMPLETE)

    def _abort_undelivered(self, request: TaskManagementRequest) -> set[int]:
        """End the affected tasks that SCSI has not seen; return the tags of data that was asked for."""
        session = self._session
        affected = [
            command
            for command in session.tasks.values()
            if not session.is_delivered(command)
            and (request.function in _ABORTS_ALL or (request.function in _ABORTS_UNIT and command.lun == request.lun))
        ]
        tags: set[int] = set()
        for command in affected:
            tags |= session.abandon(command)
        return tags

    def _hand_up(self, request: TaskManagementRequest, unanswered: set[int]) -> None:
        session = self._session
        function = TaskManagement(session, request.function, request.lun, request.initiator_task_tag, None)
        if unanswered:
            function.unanswered = unanswered
            function.deadline = session.connection.clock() + session.options.abort_wait_s
        self.by_tag[request.initiator_task_tag] = function
        session.events.append(function)

    def finish(self, function: TaskManagement, response: int) -> None:
        """Remember how a function went, and answer it when nothing more is to be waited for."""
        assert function.response is None, "a function is completed once"
        function.response = response
        if self.by_tag.get(function.initiator_task_tag) is function:
            self._session.linger_aborted()
            self._answer_when_due(function)

    def data_ended(self, target_transfer_tag: int) -> None:
        """Learn that data of an aborted task has come, or has not."""
        for function in list(self.by_tag.values()):
            if target_transfer_tag in function.unanswered:
                function.unanswered.discard(target_transfer_tag)
                self._answer_when_due(function)

    def next_deadline(self) -> float | None:
        """Return when `on_timer` has something to do."""
        return min((f.deadline for f in self.by_tag.values() if f.deadline is not None), default=None)

    def on_timer(self, now: float) -> None:
        """Wait no longer for data that has not come in time."""
        for function in list(self.by_tag.values()):
            if function.deadline is not None and now >= function.deadline:
                self._session.collector.forget(function.unanswered)
                function.unanswered = set()
                function.deadline = None
                self._answer_when_due(function)

    def _answer_when_due(self, function: TaskManagement) -> None:
        if function.response is None or function.unanswered:
            return
        del self.by_tag[function.initiator_task_tag]
        self._answer(function.initiator_task_tag, function.response)
        if function.function == TARGET_COLD_RESET and function.response == FUNCTION_COMPLETE:
            self._session.connection.end_after_reset()

    def _answer(self, initiator_task_tag: int, response: int) -> None:
        session = self._session
        stat_sn = session.take_stat_sn()
        answer = TaskManagementResponse(response, initiator_task_tag, stat_sn, session.exp_cmd_sn, session.max_cmd_sn)
        session.writer.send(encode_task_management_response(answer))
