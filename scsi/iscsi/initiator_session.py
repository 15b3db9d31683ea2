"""The full feature phase of an initiator's connection: commands, the window, task management, pings, text.

How this works. `InitiatorConnection` hands over every PDU after the login. Commands go out while the target's command
window is open, and wait in order while it is closed. Everything that comes is checked against what was asked for; what
contradicts it ends the connection, because at ErrorRecoveryLevel 0 there is nothing else to be done with a peer that
can not count. The commands that were out are then LINK_LOST, those that waited are NOT_SENT.

A command whose time is over is aborted, and ends when the target has answered the ABORT TASK: then it is certain that
it will not be carried out later. A target that does not answer that either loses the connection.

Spec: RFC 7143 4.2, 11.3 to 11.11, 11.17 to 11.19.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from scsi.iscsi.errors import ConnectionFault
from scsi.iscsi.framing import PduWriter
from scsi.iscsi.initiator_options import InitiatorOptions
from scsi.iscsi.initiator_task import Task, Undelivered
from scsi.iscsi.initiator_text import TargetList
from scsi.iscsi.initiator_transfers import (
    SendLimits,
    destination_of,
    encode_command,
    receive_data_in,
    receive_response,
    send_requested,
    send_unsolicited,
)
from scsi.iscsi.keys import Parameters
from scsi.iscsi.pdu import (
    ABORT_TASK,
    ASYNC_CONNECTION_DROP,
    ASYNC_LOGOUT_REQUESTED,
    ASYNC_MESSAGE,
    ASYNC_RENEGOTIATE,
    ASYNC_SESSION_DROP,
    DATA_IN,
    DATA_STATUS,
    FUNCTION_COMPLETE,
    LOGICAL_UNIT_RESET,
    LOGOUT_RESPONSE,
    NO_LUN,
    NOP_IN,
    NOP_OUT,
    OPCODE_MASK,
    R2T,
    REJECT,
    RESERVED_TAG,
    SCSI_RESPONSE,
    TASK_DOES_NOT_EXIST,
    TASK_MANAGEMENT_RESPONSE,
    TEXT_RESPONSE,
    Header,
)
from scsi.iscsi.serial_numbers import serial_less
from scsi.iscsi.session_pdus import (
    LoginResponse,
    NopOut,
    TextRequest,
    decode_async_message,
    decode_reject,
    decode_text_response,
    encode_nop_out,
    encode_text_request,
)
from scsi.iscsi.task_pdus import TaskManagementRequest, encode_task_management_request

Buffer = bytes | bytearray | memoryview

MAX_PINGS_PER_WAKE_UP: Final = 64  # that a target may send before what it caused has been sent
NEVER: Final = float("inf")
_MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


class SessionOwner(Protocol):
    """The connection that a session is on."""

    def fail_connection(self, reason: str) -> None:
        """End the connection; it ends the session in turn, before this returns."""

    def logout_requested(self) -> None:
        """Log out, because the target asks for it."""

    def logout_answered(self, initiator_task_tag: int) -> None:
        """Take a Logout Response."""


class _Management:
    """A task management function that waits for its answer."""

    __slots__ = ("cmd_sn", "deadline", "done", "lun", "task")

    def __init__(
        self, lun: bytes, deadline: float, cmd_sn: int, task: Task | None, done: Callable[[bool], None] | None
    ) -> None:
        self.lun = lun
        self.deadline = deadline
        self.cmd_sn = cmd_sn
        self.task = task
        self.done = done


class InitiatorSession:
    """The full feature phase of one connection.

    Attributes:
        exp_stat_sn: the StatSN that the target must use next.
        cmd_sn: for the next command.
        over: everything has been handed back, and nothing is sent any more.
    """

    # What a session is made of; there is one place that makes it.
    def __init__(
        self,
        owner: SessionOwner,
        options: InitiatorOptions,
        parameters: Parameters,
        writer: PduWriter,
        clock: Callable[[], float],
        last_login_response: LoginResponse,
    ) -> None:
        self.exp_stat_sn = (last_login_response.stat_sn + 1) & _MASK
        self.cmd_sn = last_login_response.exp_cmd_sn
        self.over = False
        self._owner = owner
        self._options = options
        self._limits = SendLimits(parameters)
        self._writer = writer
        self._clock = clock
        self._tasks: dict[int, Task] = {}  # sent, by initiator task tag
        self._waiting: deque[Task] = deque()  # for the window
        self._management: dict[int, _Management] = {}
        self._texts: dict[int, TargetList] = {}
        self._next_tag = 2
        self._exp_cmd_sn = last_login_response.exp_cmd_sn
        self._max_cmd_sn = last_login_response.max_cmd_sn
        self._reason = ""
        self._check_at = NEVER  # the earliest time at which a task or function may be overdue
        self._ping_tag = 0
        self._ping_deadline = NEVER
        self._pings = 0
        self._receivers: dict[int, Callable[[Header, memoryview, bool], None]] = {
            DATA_IN: self._receive_data_in,
            R2T: self._receive_r2t,
            NOP_IN: self._receive_nop_in,
            TASK_MANAGEMENT_RESPONSE: self._receive_management,
            TEXT_RESPONSE: self._receive_text,
            LOGOUT_RESPONSE: self._receive_logout,
            ASYNC_MESSAGE: self._receive_async,
            REJECT: self._receive_reject,
        }

    # --- PduSink, from the end of the login on ---

    def receive(self, header: Header, ahs: bytes, data: memoryview, placed: bool) -> None:
        """Take one PDU."""
        del ahs  # no response has any that means something
        opcode: int = header[0]
        if opcode == SCSI_RESPONSE:  # of every write; not looked up, since a call by the table costs more than this one
            self._receive_scsi_response(header, data)
            return
        receiver = self._receivers.get(opcode)
        if receiver is None:
            self._fail(f"PDU with opcode {opcode:#04x} in full feature phase")
        else:
            receiver(header, data, placed)

    def receive_damaged(self, header: Header) -> None:
        """Take a PDU with a wrong data digest: without SNACK there is no way to have it again."""
        self._fail(f"data digest error in a PDU with opcode {header[0]:#04x}")

    def destination(self, header: Header) -> memoryview | None:
        """Name the place for a Data-In."""
        task = self._tasks.get(header[5])
        return None if task is None or header[0] != DATA_IN else destination_of(task, header)

    def framing_failed(self, fault: ConnectionFault) -> None:
        """Learn that nothing more can be read."""
        self._fail(str(fault))

    # --- From the connection ---

    def heard(self, now: float) -> None:
        """Learn that bytes came: it lives, even if slowly."""
        if self._ping_deadline != NEVER:
            self._ping_deadline = now + self._options.nop_timeout_s

    def sent(self) -> None:
        """Learn that what was to be sent was handed over."""
        self._pings = 0

    def next_deadline(self, heard_at: float) -> float:
        """Say when to call `on_timer`; `heard_at` is when the last bytes came."""
        ping_at = self._ping_deadline
        if ping_at == NEVER:
            ping_at = heard_at + self._options.nop_interval_s
        return min(ping_at, self._check_at)

    @property
    def queue(self) -> int:
        """How many commands are sent, or wait for the window."""
        return len(self._tasks) + len(self._waiting)

    def on_timer(self, now: float, heard_at: float) -> None:
        """Do what is due."""
        if now >= self._check_at:
            self._look_for_overdue(now)
        if not self.over:
            self._keep_alive(now, heard_at)

    def take_tag(self) -> int:
        """Return a task tag that nothing in flight has."""
        return self._new_tag()

    def stop_submitting(self, reason: str) -> None:
        """Take no more commands, and hand back those that wait; what was sent goes on."""
        self._reason = reason
        waiting, self._waiting = self._waiting, deque()
        for task in waiting:
            task.undeliver(Undelivered.NOT_SENT, reason)

    def end(self, reason: str) -> None:
        """Hand back everything."""
        self.over = True
        self._reason = self._reason or reason
        self._check_at = NEVER
        sent, self._tasks = self._tasks, {}
        waiting, self._waiting = self._waiting, deque()
        functions, self._management = self._management, {}
        texts, self._texts = self._texts, {}
        for task in sent.values():
            task.undeliver(Undelivered.LINK_LOST, reason)
        for task in waiting:
            task.undeliver(Undelivered.NOT_SENT, reason)
        for function in functions.values():
            if function.done is not None:
                function.done(False)
        for target_list in texts.values():
            target_list.fail()

    # --- Requests ---

    def submit(self, task: Task) -> None:
        """Send a SCSI command, or let it wait for the window."""
        if self._reason:
            task.undeliver(Undelivered.NOT_SENT, self._reason)
            return
        task.deadline = deadline = self._clock() + task.timeout_s
        if deadline < self._check_at:  # noqa: PLR1730 (min() costs three times as much, and this is the fast path)
            self._check_at = deadline
        if self._waiting or (self._max_cmd_sn - self.cmd_sn) & _MASK >= _HALF:
            self._waiting.append(task)
        else:
            self._send_task(task)

    def reset_unit(self, lun: bytes, done: Callable[[bool], None]) -> None:
        """Send LOGICAL UNIT RESET; `done(True)` when the target says it is complete.

        Commands to the LU that were sent before and have not been answered then, end as ABORTED.
        """
        if self._reason:
            done(False)
            return
        self._manage(LOGICAL_UNIT_RESET, lun, RESERVED_TAG, 0, None, done)

    def send_targets(self, done: Callable[[list[tuple[str, list[str]]] | None], None]) -> None:
        """Ask a discovery session's target for all targets; `done` gets (name, addresses) pairs, or None."""
        if self._reason:
            done(None)
            return
        tag = self._new_tag()
        self._texts[tag] = TargetList(done)
        self._check_at = min(self._check_at, self._clock() + self._options.management_timeout_s)
        self._send_text(tag, RESERVED_TAG, b"SendTargets=All\0")

    # --- Commands ---

    def _new_tag(self) -> int:
        tag = self._next_tag
        while tag in self._tasks or tag in self._management or tag in self._texts:
            tag = tag + 1 if tag < RESERVED_TAG - 1 else 1
        self._next_tag = tag + 1 if tag < RESERVED_TAG - 1 else 1
        return tag

    def _send_task(self, task: Task) -> None:
        tag = self._next_tag
        if tag in self._tasks or tag >= RESERVED_TAG - 1 or self._management:
            tag = self._new_tag()
        else:
            self._next_tag = tag + 1
        cmd_sn = self.cmd_sn
        self.cmd_sn = (cmd_sn + 1) & _MASK
        task.initiator_task_tag = tag
        task.cmd_sn = cmd_sn
        self._tasks[tag] = task
        header, immediate = encode_command(task, self._limits, self.exp_stat_sn)
        self._writer.send(header, immediate)
        if task.sent_bytes < len(task.data_out) and self._limits.unsolicited:
            send_unsolicited(task, self._limits, self._writer, self.exp_stat_sn)
        if self._writer.woken and self._writer.much:
            self._writer.wake()

    def _window_moved(self, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """Take a new command window. Spec: RFC 7143 4.2.2.1 "Command Numbering and Acknowledging"."""
        if serial_less(max_cmd_sn, (exp_cmd_sn - 1) & _MASK):
            return  # both are to be ignored
        if serial_less(self.cmd_sn, exp_cmd_sn):
            self._fail(f"ExpCmdSN {exp_cmd_sn:#x} is beyond what was sent")
            return
        if serial_less(self._exp_cmd_sn, exp_cmd_sn):
            self._exp_cmd_sn = exp_cmd_sn
        if serial_less(self._max_cmd_sn, max_cmd_sn):
            self._max_cmd_sn = max_cmd_sn
            waiting = self._waiting
            while waiting and (max_cmd_sn - self.cmd_sn) & _MASK < _HALF:
                self._send_task(waiting.popleft())

    def _count(self, header: Header) -> bool:
        """Check StatSN of a PDU that carries a status, and take the window."""
        stat_sn: int = header[7]
        max_cmd_sn: int = header[9]
        if stat_sn != self.exp_stat_sn:
            self._fail(f"StatSN {stat_sn:#x} instead of {self.exp_stat_sn:#x}")
            return False
        self.exp_stat_sn = (stat_sn + 1) & _MASK
        if max_cmd_sn != self._max_cmd_sn:
            self._window_moved(header[8], max_cmd_sn)
        return not self.over

    def _receive_data_in(self, header: Header, data: memoryview, placed: bool) -> None:
        task = self._tasks.get(header[5])
        if task is None:
            self._fail(f"Data-In for an unknown task tag {header[5]:#x}")
            return
        fault = receive_data_in(task, header, data, placed)
        if fault:
            self._fail(fault)
        elif header[1] & DATA_STATUS:
            if self._count(header):
                self._end(task)
        elif header[9] != self._max_cmd_sn:
            self._window_moved(header[8], header[9])

    def _receive_scsi_response(self, header: Header, data: memoryview) -> None:
        task = self._tasks.get(header[5])
        if task is None:
            self._fail(f"SCSI Response for an unknown task tag {header[5]:#x}")
            return
        if self._count(header):
            receive_response(task, header, data)
            self._end(task)

    def _receive_r2t(self, header: Header, data: memoryview, placed: bool) -> None:
        del data, placed
        task = self._tasks.get(header[5])
        if task is None:
            self._fail(f"R2T for an unknown task tag {header[5]:#x}")
            return
        fault = send_requested(task, header, self._limits, self._writer, self.exp_stat_sn)
        if fault:
            self._fail(fault)
        elif header[9] != self._max_cmd_sn:
            self._window_moved(header[8], header[9])

    def _fail(self, reason: str) -> None:
        self._owner.fail_connection(reason)

    def _end(self, task: Task) -> None:
        """Hand a task back that was answered (by then nothing is in the way of another one being sent)."""
        del self._tasks[task.initiator_task_tag]
        task.view = None
        task.ended()

    # --- Task management ---

    # The fields of the PDU, and who waits.
    def _manage(
        self,
        function: int,
        lun: bytes,
        referenced_tag: int,
        ref_cmd_sn: int,
        task: Task | None,
        done: Callable[[bool], None] | None,
    ) -> None:
        tag = self._new_tag()
        deadline = self._clock() + self._options.management_timeout_s
        self._check_at = min(self._check_at, deadline)
        self._management[tag] = _Management(lun, deadline, self.cmd_sn, task, done)
        request = TaskManagementRequest(
            function, lun, tag, referenced_tag, self.cmd_sn, self.exp_stat_sn, ref_cmd_sn, 0
        )
        self._writer.send(encode_task_management_request(request))

    def _receive_management(self, header: Header, data: memoryview, placed: bool) -> None:
        del data, placed
        function = self._management.pop(header[5], None)
        if function is None:
            self._fail(f"Task Management Function Response for an unknown task tag {header[5]:#x}")
            return
        if not self._count(header):
            if function.done is not None:
                function.done(False)
            return
        response = header[2] >> 8
        if function.task is not None:
            self._aborted(function.task, response)
        else:
            self._was_reset(function, response)

    def _aborted(self, task: Task, response: int) -> None:
        if task.initiator_task_tag not in self._tasks:
            return  # it was answered before the abort was
        if response not in {FUNCTION_COMPLETE, TASK_DOES_NOT_EXIST}:
            self._fail(f"ABORT TASK got response {response}")
            return
        del self._tasks[task.initiator_task_tag]
        task.undeliver(Undelivered.TIMED_OUT, "no answer in time")

    def _was_reset(self, function: _Management, response: int) -> None:
        complete = response == FUNCTION_COMPLETE
        if complete:
            ended = [
                task
                for task in self._tasks.values()
                if task.lun == function.lun and serial_less(task.cmd_sn, function.cmd_sn)
            ]
            for task in ended:
                del self._tasks[task.initiator_task_tag]
            for task in ended:
                task.undeliver(Undelivered.ABORTED, "the LU was reset")
        if function.done is not None:
            function.done(complete)

    # --- Time ---

    def _look_for_overdue(self, now: float) -> None:
        for function in self._management.values():
            if function.deadline <= now:
                self._fail("no answer to a task management function")
                return
        for target_list in self._texts.values():
            if target_list.overdue(now, self._options.management_timeout_s):
                self._fail("no answer to SendTargets")
                return
        for task in self._tasks.values():
            if task.deadline <= now and not task.aborting:
                task.aborting = True
                self._manage(ABORT_TASK, task.lun, task.initiator_task_tag, task.cmd_sn, task, None)
        waiting = [task for task in self._waiting if task.deadline <= now]
        if waiting:
            self._waiting = deque(task for task in self._waiting if task.deadline > now)
        deadlines = [task.deadline for task in self._tasks.values() if not task.aborting]
        deadlines += [task.deadline for task in self._waiting]
        deadlines += [function.deadline for function in self._management.values()]
        deadlines += [now + 1.0] if self._texts else []
        self._check_at = min(deadlines, default=NEVER)
        for task in waiting:
            task.undeliver(Undelivered.TIMED_OUT, "the target took no more commands")

    def _keep_alive(self, now: float, heard_at: float) -> None:
        if now >= self._ping_deadline:
            self._fail(f"no answer to a ping for {self._options.nop_timeout_s:g} s")
        elif self._ping_deadline == NEVER and now >= heard_at + self._options.nop_interval_s and not self._reason:
            self._ping_tag = self._new_tag()
            self._ping_deadline = now + self._options.nop_timeout_s
            nop = NopOut(NO_LUN, self._ping_tag, RESERVED_TAG, self.cmd_sn, self.exp_stat_sn)
            self._writer.send(encode_nop_out(nop))

    def _receive_nop_in(self, header: Header, data: memoryview, placed: bool) -> None:
        del data, placed
        if header[5] != RESERVED_TAG:
            if header[5] != self._ping_tag or self._ping_deadline == NEVER:
                self._fail(f"NOP-In for an unknown task tag {header[5]:#x}")
                return
            self._ping_deadline = NEVER
            self._count(header)
            return
        if header[9] != self._max_cmd_sn:
            self._window_moved(header[8], header[9])
        if header[6] == RESERVED_TAG or self.over:
            return
        self._pings += 1
        if self._pings > MAX_PINGS_PER_WAKE_UP:
            self._fail("the target floods annex with pings")
            return
        nop = NopOut(header[4], RESERVED_TAG, header[6], self.cmd_sn, self.exp_stat_sn)
        self._writer.send(encode_nop_out(nop))

    # --- Text, Async Message, Reject ---

    def _send_text(self, tag: int, target_transfer_tag: int, data: bytes) -> None:
        cmd_sn = self.cmd_sn
        self.cmd_sn = (cmd_sn + 1) & _MASK
        request = TextRequest(True, False, NO_LUN, tag, target_transfer_tag, cmd_sn, self.exp_stat_sn)
        self._writer.send(encode_text_request(request, len(data)), data)

    def _receive_text(self, header: Header, data: memoryview, placed: bool) -> None:
        del placed
        response = decode_text_response(header)
        target_list = self._texts.get(response.initiator_task_tag)
        if target_list is None or not self._count(header):
            self._fail(f"Text Response for an unknown task tag {response.initiator_task_tag:#x}")
            return
        if not target_list.add(bytes(data)):
            self._fail("the target's list of targets does not end")
        elif response.more or response.target_transfer_tag != RESERVED_TAG:
            self._send_text(response.initiator_task_tag, response.target_transfer_tag, b"")
        else:
            del self._texts[response.initiator_task_tag]
            target_list.finish()

    def _receive_logout(self, header: Header, data: memoryview, placed: bool) -> None:
        del data, placed
        self._owner.logout_answered(header[5])

    def _receive_async(self, header: Header, data: memoryview, placed: bool) -> None:
        del data, placed
        if not self._count(header):
            return
        message = decode_async_message(header)
        if message.event in {ASYNC_LOGOUT_REQUESTED, ASYNC_RENEGOTIATE}:
            self._owner.logout_requested()  # a new session follows, which negotiates as well
        elif message.event in {ASYNC_CONNECTION_DROP, ASYNC_SESSION_DROP}:
            self._fail("the target says that it drops the connection")
        # A SCSI event brings the sense data of a unit attention, which the next command to that LU gets as well.

    def _receive_reject(self, header: Header, data: memoryview, placed: bool) -> None:
        del placed
        if not self._count(header):
            return
        if len(data) and data[0] & OPCODE_MASK == NOP_OUT:
            self._ping_deadline = NEVER  # it answers, in its way
        else:
            opcode = f"{data[0] & OPCODE_MASK:#04x}" if len(data) else "?"
            self._fail(f"the target rejects a PDU with opcode {opcode}: reason {decode_reject(header).reason:#04x}")
