"""The full feature phase at a target: numbering, commands and their answers.

How commands flow: `receive` gets every PDU of the connection. One that is numbered and due is handled at once; one that
is early waits for those before it (`early_requests`); one that is late, or outside of the window, is ignored. A SCSI
command that needs no data, or brought it all, is an event right away. A write that lacks data collects it first
(`transfers`). When the session's memory is used up, commands wait in line, in order, until answers have been sent
(`waiting_line`).

How many commands may be in progress is told to the initiator with MaxCmdSN: it moves on when a command is answered, not
when it is received, so that at most `window_commands` are in progress at any time.

A command that the SCSI layer still works on when its task is aborted lingers until it is completed, and keeps its
memory and its place in the window. When the connection is gone it becomes an orphan: who takes over the session, or the
place of it, waits until there are none, because only then can nothing be written on behalf of old tasks any more.

Spec: RFC 7143 4.2.2 "Ordering and iSCSI Numbering", 11.3 "SCSI Command", 11.4 "SCSI Response".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from scsi.iscsi.answers import CHECK_CONDITION, CONDITION_MET, GOOD, send_answer
from scsi.iscsi.early_requests import EarlyRequests
from scsi.iscsi.errors import ConnectionFault, Rejected, RejectReason
from scsi.iscsi.events import EndReason, Event, ScsiCommand, TaskManagement
from scsi.iscsi.framing import PADDING, PduWriter
from scsi.iscsi.intake import examine_command
from scsi.iscsi.pdu import (
    ATTRIBUTE_ORDERED,
    COMMAND_ATTRIBUTE_MASK,
    COMMAND_READ,
    COMMAND_WRITE,
    DATA_IN,
    DATA_LENGTH_MASK,
    DATA_OUT,
    DATA_STATUS,
    FINAL,
    IMMEDIATE,
    NO_LUN,
    OPCODE_MASK,
    REQUEST,
    RESERVED_TAG,
    RESPONSE,
    SCSI_COMMAND,
    SCSI_RESPONSE,
    Header,
)
from scsi.iscsi.registry import SessionKey
from scsi.iscsi.requests import REQUESTS
from scsi.iscsi.serial_numbers import MASK, serial_in_window
from scsi.iscsi.session_pdus import NopIn, Reject, encode_nop_in, encode_reject
from scsi.iscsi.task_management import TaskManager
from scsi.iscsi.text import TextExchange
from scsi.iscsi.transfers import (
    DataCollector,
    WriteTransfer,
    make_fixed_sense,
)
from scsi.iscsi.waiting_line import WaitingLine

if TYPE_CHECKING:
    from scsi.iscsi.connection import Connection
    from scsi.iscsi.directory import Admission
    from scsi.iscsi.keys import Parameters
    from scsi.iscsi.options import TargetOptions

Buffer = bytes | bytearray | memoryview

_READ_WRITE: Final = COMMAND_READ | COMMAND_WRITE
_NUMBERED: Final = frozenset({SCSI_COMMAND}) | {opcode for opcode, request in REQUESTS.items() if request.numbered}
_pack_response: Final = RESPONSE.pack
# `RESPONSE` of a write that ended well: what is the same in all of them is packed once.
_GOOD_RESPONSE: Final = RESPONSE.pack(SCSI_RESPONSE, FINAL, GOOD, 0, NO_LUN, 0, 0, 0, 0, 0, 0, 0, 0)[:16]
_pack_good: Final = struct.Struct(">16sI4xIII12x").pack


class Session:
    """One session of an initiator with a target (or a Discovery session).

    Attributes:
        nexus: the I_T nexus; set by whoever handles `LoggedIn`, never read here.
        key: initiator name, ISID, target name (empty for discovery) and portal group tag.
        discovery: it is a Discovery session.
        initiator_alias: what the initiator calls itself, for display.
        tsih: the target's handle of the session, given by the registry.
        cid: the connection's number.
        admission: as the directory gave it.
        chap_algorithm: with which digest the initiator has proved itself, as hashlib calls it; "" when it has not.
        begun: time of its login, or of the last one that gave it another connection.
        parameters: what was negotiated; only `max_send_data_segment_length` may change.
        tasks: SCSI commands in progress by InitiatorTaskTag.
        stat_sn, exp_cmd_sn, max_cmd_sn: the numbers of the next answer.
        max_send_bytes: the longest data segment to send in one Data-In.
        immediate_commands: how many of `tasks` are immediate.
        end_reason: why it ended, or None while it lives.
        reads, writes, others: commands answered that brought data to the host, took data from it, and neither.
        read_bytes, written_bytes: how much data that was.
        errors: how many of them had another status than GOOD and CONDITION MET.
        on_error: told the status and the sense data of each of those.
        sampled: a command whose answer `on_sampled` is told of, which is how latencies are measured; or None.
    """

    connection: Connection
    writer: PduWriter
    events: list[Event]
    parameters: Parameters

    def __init__(
        self,
        key: SessionKey,
        admission: Admission,
        options: TargetOptions,
        *,
        discovery: bool,
        cid: int,
        cmd_sn: int,
        initiator_alias: str,
    ) -> None:
        self.nexus: Any = None
        self.key = key
        self.discovery = discovery
        self.admission = admission
        self.options = options
        self.initiator_alias = initiator_alias
        self.chap_algorithm = ""
        self.begun = 0.0
        self.tsih = 0
        self.cid = cid
        self.tasks: dict[int, ScsiCommand] = {}
        self.stat_sn = 0
        self.exp_cmd_sn = cmd_sn
        self.max_cmd_sn = cmd_sn
        self.max_send_bytes = 0
        self.end_reason: EndReason | None = None
        self.collector = DataCollector(self)
        self.line = WaitingLine(self, options.session_memory_bytes, options.max_data_out_bytes)
        self.task_management = TaskManager(self)
        self.text = TextExchange(self)
        self._early = EarlyRequests(options.session_memory_bytes)
        self.immediate_commands = 0
        self._lingering: set[ScsiCommand] = set()
        self._orphans: set[ScsiCommand] = set()
        self._when_drained: list[Callable[[], None]] = []
        self._errors = 0
        self._max_short_bytes = 0
        self.reads = self.writes = self.others = self.errors = 0
        self.read_bytes = self.written_bytes = 0
        self.on_error: Callable[[int, bytes], None] = _ignore_error
        self.sampled: ScsiCommand | None = None
        self.on_sampled: Callable[[ScsiCommand], None] = _ignore

    # --- the connection that carries it ---

    def attach(self, connection: Connection, parameters: Parameters, stat_sn: int) -> None:
        """Go on with this connection, after its login; there are no tasks then.

        Args:
            connection: where PDUs come from and go to.
            parameters: what was negotiated there.
            stat_sn: number of the first answer.
        """
        self.connection = connection
        self.writer = connection.writer
        self.events = connection.events
        self.begun = connection.clock()
        self.stat_sn = stat_sn
        self.max_cmd_sn = (self.exp_cmd_sn + self.options.window_commands - 1) & MASK
        self.immediate_commands = 0
        self.set_parameters(parameters)

    def set_parameters(self, parameters: Parameters) -> None:
        """Go on with these parameters."""
        self.parameters = parameters
        self.max_send_bytes = min(parameters.max_send_data_segment_length, parameters.max_burst_length)
        digests = parameters.header_digest or parameters.data_digest
        self._max_short_bytes = -1 if digests else self.max_send_bytes

    @property
    def initiator_name(self) -> str:
        return self.key.initiator_name

    @property
    def isid(self) -> bytes:
        return self.key.isid

    @property
    def target_name(self) -> str:
        return self.key.target_name

    @property
    def target_portal_group_tag(self) -> int:
        return self.key.target_portal_group_tag

    def end_tasks(self) -> None:
        """Abort every task, without answers; those that the SCSI layer has are orphans until they are completed."""
        for command in self.tasks.values():
            command.aborted = True
            if self.is_delivered(command):
                self._orphans.add(command)
            elif command.transfer is not None:
                self.collector.abandon(command.transfer)
        self._orphans |= self._lingering
        self._lingering.clear()
        self.tasks.clear()
        self.line.clear()
        self.collector.clear()
        self.task_management.clear()
        self.text.clear()
        self._early.clear()

    def end(self, reason: EndReason) -> None:
        """End for good; `SessionEnded` is told by the connection."""
        if self.end_reason is None:
            self.end_reason = reason
            self.end_tasks()

    @property
    def drained(self) -> bool:
        """Whether nothing is done any more on behalf of tasks that the session has lost."""
        return not self._orphans

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back as soon as the session is `drained`, maybe at once; those who asked first are called first."""
        if self._orphans:
            self._when_drained.append(callback)
        else:
            callback()

    # --- PduSink ---

    def receive(self, header: Header, ahs: bytes, data: memoryview, placed: bool) -> None:
        """Take one PDU; see `framing.PduSink`."""
        try:
            opcode: int = header[0]
            if opcode == SCSI_COMMAND:
                cmd_sn: int = header[7]
                # The window is open when MaxCmdSN is not just below ExpCmdSN.
                if cmd_sn == self.exp_cmd_sn and (self.max_cmd_sn + 1) & MASK != cmd_sn and not self.discovery:
                    self._accept(header, ahs, data, placed, False)
                    if self._early.requests:
                        self._release_early()
                else:
                    self._receive_numbered(header, ahs, data, placed)
            elif opcode & OPCODE_MASK == DATA_OUT:
                self.collector.receive(header, data, placed)
                if self.collector.stray_pdus > self.options.max_pdu_errors:
                    raise ConnectionFault("too much Data-Out that was never asked for")
            elif opcode & IMMEDIATE or opcode not in _NUMBERED:
                self._handle(header, ahs, data, placed)
            else:
                self._receive_numbered(header, ahs, data, placed)
        except Rejected as rejected:
            self._reject(header, ahs, rejected)
        except ConnectionFault as fault:
            self.connection.fail(str(fault))

    def receive_damaged(self, header: Header) -> None:
        """Answer a PDU whose data has the wrong digest; its CmdSN counts as not received (RFC 7143 7.3, 7.8)."""
        try:
            self._reject(header, b"", Rejected(RejectReason.DATA_DIGEST_ERROR, "data digest error"))
            if header[0] & OPCODE_MASK == DATA_OUT:
                self.collector.receive_damaged(header)
        except ConnectionFault as fault:
            self.connection.fail(str(fault))

    def destination(self, header: Header) -> memoryview | None:
        """Name the memory for a long data segment; see `framing.PduSink`."""
        opcode = header[0] & OPCODE_MASK
        if opcode == DATA_OUT:
            return self.collector.destination(header)
        length: int = header[3] & DATA_LENGTH_MASK
        if opcode == SCSI_COMMAND and length == header[6] and length <= self.parameters.first_burst_length:
            return memoryview(bytearray(length))
        return None

    def framing_failed(self, fault: ConnectionFault) -> None:
        """Give up on the connection; see `framing.PduSink`."""
        self.connection.fail(str(fault))

    # --- numbering (4.2.2.1) ---

    def take_stat_sn(self) -> int:
        """Return the StatSN of an answer that counts."""
        stat_sn = self.stat_sn
        self.stat_sn = (stat_sn + 1) & MASK
        return stat_sn

    def _receive_numbered(self, header: Header, ahs: bytes, data: memoryview, placed: bool) -> None:
        cmd_sn = header[7]
        if not serial_in_window(cmd_sn, self.exp_cmd_sn, self.max_cmd_sn):
            return
        if cmd_sn == self.exp_cmd_sn:
            self._handle_due(header, ahs, data, placed)
            self._release_early()
        else:
            self._early.keep(cmd_sn, header, ahs, data)

    def _handle_due(self, header: Header, ahs: bytes, data: memoryview, placed: bool) -> None:
        """Handle the PDU that ExpCmdSN waits for; a rejected one counts as not received (7.3)."""
        if header[0] == SCSI_COMMAND and not self.discovery:
            self._accept(header, ahs, data, placed, False)
            return
        exp_cmd_sn, max_cmd_sn = self.exp_cmd_sn, self.max_cmd_sn
        self._count_one()
        try:
            self._handle(header, ahs, data, placed)
        except Rejected:
            self.exp_cmd_sn, self.max_cmd_sn = exp_cmd_sn, max_cmd_sn
            raise

    def _count_one(self) -> None:
        """Count a request as received and done with."""
        self.exp_cmd_sn = (self.exp_cmd_sn + 1) & MASK
        self.max_cmd_sn = (self.max_cmd_sn + 1) & MASK

    def _release_early(self) -> None:
        """Handle the requests that have become due."""
        while self._early.requests and self.end_reason is None:
            early = self._early.pop(self.exp_cmd_sn)
            if early is None:
                return
            if not early.header:
                self._count_one()
                continue
            try:
                self._handle_due(early.header, early.ahs, memoryview(early.data), False)
            except Rejected as rejected:
                self._reject(early.header, early.ahs, rejected)
                return

    def skip(self, cmd_sn: int) -> bool:
        """Count a command as received that is not here yet and not wanted any more; False when it can not be."""
        if not serial_in_window(cmd_sn, self.exp_cmd_sn, self.max_cmd_sn):
            return False
        self._early.skip(cmd_sn)
        self._release_early()
        return True

    # --- commands on their way in ---

    def _accept(self, header: Header, ahs: bytes, data: memoryview, placed: bool, immediate: bool) -> None:
        """Take a SCSI Command that is due, or immediate."""
        flags: int = header[1]
        tag: int = header[5]
        tasks = self.tasks
        if tag in tasks or tag in self.task_management.by_tag or tag == RESERVED_TAG:
            self._check_tag(tag)
        cmd_sn: int = header[7]
        command = ScsiCommand(self, header[4], header[9], flags & COMMAND_ATTRIBUTE_MASK, tag, cmd_sn, immediate)
        transfer = None
        if flags & COMMAND_WRITE or ahs or data or immediate or not flags & FINAL:
            transfer = examine_command(self, command, header, ahs, data, placed)
        elif flags & COMMAND_READ:
            command.data_in_bytes = header[6]
        if not immediate:
            self.exp_cmd_sn = (cmd_sn + 1) & MASK
        tasks[tag] = command
        charge_bytes = command.data_in_bytes + command.data_out_bytes
        line = self.line
        total = line.charged_bytes + charge_bytes
        if (
            transfer is not None
            or line.occupied
            or total > line.memory_bytes
            or (command.attribute == ATTRIBUTE_ORDERED and self.collector.started)
        ):
            if transfer is not None and transfer.fault is not None:
                self.collector.advance(transfer)
            else:
                line.join(command, charge_bytes)
            return
        line.charged_bytes = total
        command.charged_bytes = charge_bytes
        self.events.append(command)

    def _check_tag(self, tag: int) -> None:
        """Make way for a new task of this tag, when there is no task of it that is still to be answered."""
        if tag == RESERVED_TAG:
            raise Rejected(RejectReason.INVALID_PDU_FIELD, "reserved task tag")
        if tag in self.task_management.by_tag or not self.tasks[tag].aborted:
            raise Rejected(RejectReason.TASK_IN_PROGRESS, f"task tag {tag:#x} is in use")
        self._lingering.add(self.tasks.pop(tag))

    def deliver(self, command: ScsiCommand) -> None:
        """Hand a command to the SCSI layer, at a time when the adapter may not be looking."""
        self.events.append(command)
        self.writer.announce()

    def is_delivered(self, command: ScsiCommand) -> bool:
        """Say whether the SCSI layer has this command."""
        return command.transfer is None and command not in self.line

    def deliver_write(self, transfer: WriteTransfer) -> None:
        """Deliver a write whose data is complete."""
        transfer.command.data_out = transfer.buffer
        self._end_transfer(transfer)
        self.deliver(transfer.command)
        self.line.give_back(0)

    def fail_write(self, transfer: WriteTransfer) -> None:
        """Answer a write that iSCSI itself has found wrong, before SCSI has seen it."""
        fault = transfer.fault
        assert fault is not None
        self._end_transfer(transfer)
        self.finish(transfer.command, CHECK_CONDITION, b"", make_fixed_sense(fault), None)
        self.line.give_back(0)

    def _end_transfer(self, transfer: WriteTransfer) -> None:
        """Count a transfer as collected, failed or given up."""
        command = transfer.command
        command.transfer = None
        if transfer.started:
            self.collector.started -= 1
            self.line.collected(command)
        else:
            self.line.leave(command)

    def abandon(self, command: ScsiCommand) -> set[int]:
        """End a task that was not delivered yet; return the tags of bursts of it that are still to come."""
        command.aborted = True
        tags: set[int] = set()
        transfer: WriteTransfer | None = command.transfer
        if transfer is not None:
            tags = self.collector.abandon(transfer)
            self._end_transfer(transfer)
        else:
            self.line.leave(command)
        del self.tasks[command.initiator_task_tag]
        self._drop(command)
        return tags

    # --- commands on their way out ---

    def finish(
        self, command: ScsiCommand, status: int, data_in: Buffer, sense: bytes, data_out_used: int | None
    ) -> None:
        """Answer a command; see `ScsiCommand.complete`."""
        assert not command.finished, "a command is completed once"
        command.finished = True
        if command is self.sampled:
            self.sampled = None
            self.on_sampled(command)
        tag = command.initiator_task_tag
        tasks = self.tasks
        if command.aborted or tasks.get(tag) is not command:
            self._finish_aborted(command)
            return
        del tasks[tag]
        max_cmd_sn = self.max_cmd_sn
        if command.immediate:
            self.immediate_commands -= 1
        else:
            max_cmd_sn = self.max_cmd_sn = (max_cmd_sn + 1) & MASK
        self.line.queued_bytes += command.charged_bytes
        length = len(data_in)
        if length:
            self.reads += 1
            self.read_bytes += length
        elif command.data_out_bytes:
            self.writes += 1
            self.written_bytes += command.data_out_bytes
        else:
            self.others += 1
        if status and status != CONDITION_MET:
            self.errors += 1
            self.on_error(status, sense)
        if (
            status
            or length != command.data_in_bytes
            or length > self._max_short_bytes
            or data_out_used is not None
            or (length and command.data_out_bytes)
        ):
            send_answer(self, command, status, data_in, sense, data_out_used)
            return
        # One PDU, and nothing left over: a write that ended well, or a read whose status goes with its only Data-In.
        # Packed here, without `PduWriter.send` and digests, because this is what most answers of a busy disk are.
        stat_sn = self.stat_sn
        self.stat_sn = (stat_sn + 1) & MASK
        exp_cmd_sn = self.exp_cmd_sn
        writer = self.writer
        if length:
            header = _pack_response(
                DATA_IN, FINAL | DATA_STATUS, GOOD, length, NO_LUN, tag, RESERVED_TAG, stat_sn, exp_cmd_sn, max_cmd_sn,
                0, 0, 0,
            )  # fmt: skip
            writer.out += (header, data_in, PADDING[length & 3]) if length & 3 else (header, data_in)
        else:
            writer.out.append(_pack_good(_GOOD_RESPONSE, tag, stat_sn, exp_cmd_sn, max_cmd_sn))
        if not writer.announced:
            writer.announce()
        elif writer.woken and writer.much:
            writer.wake()

    def _finish_aborted(self, command: ScsiCommand) -> None:
        if self.tasks.get(command.initiator_task_tag) is command:
            del self.tasks[command.initiator_task_tag]
            self._drop(command)
        elif command in self._lingering:
            self._lingering.remove(command)
            self._drop(command)
        elif command in self._orphans:
            self._orphans.remove(command)
            if not self._orphans:
                callbacks, self._when_drained = self._when_drained, []
                for callback in callbacks:
                    callback()

    def linger_aborted(self) -> None:
        """Free the tags of tasks that the SCSI layer has marked aborted and still works on."""
        for tag in [tag for tag, command in self.tasks.items() if command.aborted]:
            self._lingering.add(self.tasks.pop(tag))

    def _drop(self, command: ScsiCommand) -> None:
        """Give back what a command held that ends without an answer.

        Spec: RFC 7143 11.4.11: a window that was closed and opens with nothing to send is told by a NOP-In.
        """
        if command.immediate:
            self.immediate_commands -= 1
        else:
            closed = (self.max_cmd_sn + 1) & MASK == self.exp_cmd_sn
            self.max_cmd_sn = (self.max_cmd_sn + 1) & MASK
            if closed:
                self.send_nop_in(RESERVED_TAG)
        self.line.give_back(command.charged_bytes)

    # --- everything but SCSI commands and their data ---

    def _handle(self, header: Header, ahs: bytes, data: memoryview, placed: bool) -> None:
        opcode = header[0] & OPCODE_MASK
        if opcode == SCSI_COMMAND and not self.discovery:
            self._accept(header, ahs, data, placed, True)
            return
        request = REQUESTS.get(opcode)
        if self.discovery and (request is None or not request.in_discovery):
            raise Rejected(RejectReason.PROTOCOL_ERROR, f"opcode {opcode:#04x} in a Discovery session")
        if request is None:
            raise Rejected(RejectReason.COMMAND_NOT_SUPPORTED, f"opcode {opcode:#04x}")
        if ahs:
            raise Rejected(RejectReason.INVALID_PDU_FIELD, f"additional header with opcode {opcode:#04x}")
        request.handle(self, header, data)

    def send_nop_in(self, target_transfer_tag: int) -> None:
        """Send a NOP-In of our own: a ping when it has a tag, otherwise just the numbers."""
        nop = NopIn(NO_LUN, RESERVED_TAG, target_transfer_tag, self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
        self.writer.send(encode_nop_in(nop))

    def finish_task_management(self, function: TaskManagement, response: int) -> None:
        """Answer a task management function; see `TaskManagement.complete`."""
        self.task_management.finish(function, response)

    def _reject(self, header: Header, ahs: bytes, rejected: Rejected) -> None:
        """Send a Reject with the header that it is about (11.17), and count it."""
        segment = (REQUEST.pack(*header) + ahs)[: self.parameters.max_send_data_segment_length]
        reject = Reject(rejected.reason, self.take_stat_sn(), self.exp_cmd_sn, self.max_cmd_sn, 0)
        self.writer.send(encode_reject(reject, len(segment)), segment)
        self._errors += 1
        self.connection.report(f"rejected: {rejected}")
        if self._errors > self.options.max_pdu_errors:
            self.connection.fail("too many rejected PDUs")


def _ignore_error(_status: int, _sense: bytes) -> None:
    """Nobody counts."""


def _ignore(_command: ScsiCommand) -> None:
    """Nobody measures."""
