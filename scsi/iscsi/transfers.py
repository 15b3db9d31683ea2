"""Data of writes: Data-Out collected into one buffer per command, asked for with R2Ts.

How a write collects its data: immediate data comes inside the command, unsolicited Data-Out may follow (up to
FirstBurstLength), and the rest is asked for with R2Ts, each naming a burst of at most MaxBurstLength. Because
DataPDUInOrder and DataSequenceInOrder are always Yes, all of it comes in one ascending run, so a single offset says
what is there. A write that goes wrong (wrong amount, bad digest) swallows its data until the F bit of the last burst
that was asked for, and is answered only then.

Spec: RFC 7143 4.2.5 "Data Transfer Overview", 11.7 and 11.8; errors 11.4.7.2.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from scsi.iscsi.errors import ConnectionFault
from scsi.iscsi.pdu import RESERVED_TAG, Header
from scsi.iscsi.task_pdus import DataOut, ReadyToTransfer, decode_data_out, encode_r2t

if TYPE_CHECKING:
    from scsi.iscsi.events import ScsiCommand
    from scsi.iscsi.session import Session

Buffer = bytes | bytearray | memoryview

# Sense (key, ASC, ASCQ) of what iSCSI itself finds wrong with a command's data (11.4.7.2).
UNEXPECTED_UNSOLICITED_DATA: Final = (0x0B, 0x0C, 0x0C)
INCORRECT_AMOUNT_OF_DATA: Final = (0x0B, 0x0C, 0x0D)
PROTOCOL_SERVICE_CRC_ERROR: Final = (0x0B, 0x47, 0x05)


def make_fixed_sense(fault: tuple[int, int, int]) -> bytes:
    """Return fixed format sense data, 18 bytes, for one of the faults above."""
    key, asc, ascq = fault
    return bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0))


class Burst:
    """One R2T whose data is not all there yet.

    Attributes:
        transfer: the write that it is part of.
        target_transfer_tag: names it.
        end: offset behind its last byte.
        data_sn: number of its next Data-Out.
    """

    __slots__ = ("data_sn", "end", "target_transfer_tag", "transfer")

    def __init__(self, transfer: WriteTransfer, target_transfer_tag: int, end: int) -> None:
        self.transfer = transfer
        self.target_transfer_tag = target_transfer_tag
        self.end = end
        self.data_sn = 0


class WriteTransfer:
    """The data of one write that did not come whole with its command.

    Attributes:
        command: the write.
        capacity: how many of its bytes are taken; beyond `max_data_out_bytes` nothing is asked for.
        received: how many are there, or have been swallowed.
        requested: offset behind the last byte that was asked for, or that may come unsolicited.
        unsolicited: unsolicited Data-Out is still to come, up to `requested`.
        unsolicited_sn: number of its next Data-Out.
        bursts: what was asked for and is not there yet, in order.
        r2t_sn: number of the next R2T.
        started: the memory is granted; before that only unsolicited data is taken.
        fault: what went wrong; its data is swallowed from then on.
        abandoned: the task was aborted; the rest of its bursts is swallowed, and nobody waits for it but a TMF.
    """

    __slots__ = (
        "abandoned",
        "buffer",
        "bursts",
        "capacity",
        "command",
        "fault",
        "r2t_sn",
        "received",
        "requested",
        "started",
        "unsolicited",
        "unsolicited_sn",
    )

    def __init__(self, command: ScsiCommand, capacity: int, requested: int, unsolicited: bool) -> None:
        self.command = command
        self.capacity = capacity
        self.received = 0
        self.requested = requested
        self.unsolicited = unsolicited
        self.unsolicited_sn = 0
        self.bursts: deque[Burst] = deque()
        self.r2t_sn = 0
        self.started = False
        self.fault: tuple[int, int, int] | None = None
        self.abandoned = False
        self.buffer = bytearray()

    def start(self) -> None:
        """Take the granted memory; nothing is allocated before there is something to put into it."""
        self.started = True
        if self.buffer:
            self._grow(self.capacity)

    def take(self, data: Buffer) -> None:
        """Copy the next bytes in."""
        end = self.received + len(data)
        if self.fault is None and not self.abandoned:
            if end > len(self.buffer):
                self._grow(self.capacity if self.started else self.requested)
            self.buffer[self.received : end] = data
        self.received = end

    def place(self, length: int) -> memoryview | None:
        """Return the memory of the next bytes, or None when they are not wanted or the memory may still move."""
        if self.fault is not None or self.abandoned or not self.started:
            return None
        if not self.buffer:
            self._grow(self.capacity)
        return memoryview(self.buffer)[self.received : self.received + length]

    def _grow(self, length: int) -> None:
        # A new object instead of extend: the old one may be exported, and exported bytearrays can not be resized.
        grown = bytearray(length)
        grown[: len(self.buffer)] = self.buffer
        self.buffer = grown

    @property
    def waiting(self) -> bool:
        """Whether data is still to come that was allowed or asked for."""
        return self.unsolicited or bool(self.bursts)

    def fail(self, fault: tuple[int, int, int]) -> None:
        """Remember the first thing that went wrong."""
        if self.fault is None:
            self.fault = fault
            self.buffer = bytearray()


class DataCollector:
    """All writes of one session that collect data, and their R2Ts.

    Attributes:
        started: how many of them have been granted memory.
        stray_pdus: Data-Out that answered an R2T which was never sent.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._bursts: dict[int, Burst] = {}
        self._next_tag = 1
        self.started = 0
        self.stray_pdus = 0

    def allocate_tag(self) -> int:
        """Return a TargetTransferTag that is in no use."""
        tag = self._next_tag
        self._next_tag = (tag + 1) % RESERVED_TAG
        return tag

    @property
    def outstanding_bursts(self) -> int:
        """How many R2Ts have not been answered in full, those of aborted writes included."""
        return len(self._bursts)

    def clear(self) -> None:
        """Forget everything: the connection is gone, and what was asked for will not come."""
        self._bursts.clear()
        self.started = 0

    def destination(self, header: Header) -> memoryview | None:
        """Name the memory for a Data-Out's data, when there is nothing wrong with it."""
        data_out = decode_data_out(header)
        transfer = self._find(data_out)
        if transfer is None or data_out.buffer_offset != transfer.received:
            return None
        end = transfer.bursts[0].end if transfer.bursts else transfer.requested
        if transfer.received + data_out.data_bytes > end:
            return None
        return transfer.place(data_out.data_bytes)

    def receive(self, header: Header, data: memoryview, placed: bool) -> None:
        """Take one Data-Out.

        Raises:
            ConnectionFault: it does not fit to what it says it belongs to.
        """
        data_out = decode_data_out(header)
        transfer = self._find(data_out)
        if transfer is None:
            return
        burst = self._check(data_out, transfer)
        end = burst.end if burst else transfer.requested
        if transfer.received + len(data) > end:
            transfer.fail(INCORRECT_AMOUNT_OF_DATA)
            transfer.received = end
        elif placed:
            transfer.received += len(data)
        else:
            transfer.take(data)
        if data_out.final:
            self._end_sequence(transfer, burst, end)

    def receive_damaged(self, header: Header) -> None:
        """Take a Data-Out whose data can not be used: the write fails, at the end of what it has asked for.

        Raises:
            ConnectionFault: as `receive`.
        """
        data_out = decode_data_out(header)
        transfer = self._find(data_out)
        if transfer is None:
            return
        burst = self._check(data_out, transfer)
        end = burst.end if burst else transfer.requested
        transfer.received = min(transfer.received + data_out.data_bytes, end)
        transfer.fail(PROTOCOL_SERVICE_CRC_ERROR)
        if data_out.final:
            self._end_sequence(transfer, burst, end)

    def _find(self, data_out: DataOut) -> WriteTransfer | None:
        """Return the write that a Data-Out belongs to, or None when it is to be dropped.

        Data for a task that was aborted, rejected or ignored may be on its way still, so that alone is no fault. A tag
        that was never given out is one.
        """
        tag = data_out.target_transfer_tag
        if tag != RESERVED_TAG:
            burst = self._bursts.get(tag)
            if burst is None:
                if (self._next_tag - tag) % RESERVED_TAG > RESERVED_TAG // 2:
                    self.stray_pdus += 1
                return None
            return burst.transfer
        command = self._session.tasks.get(data_out.initiator_task_tag)
        transfer: WriteTransfer | None = command.transfer if command is not None else None
        if transfer is not None and not transfer.unsolicited:
            transfer.fail(UNEXPECTED_UNSOLICITED_DATA)
            if not transfer.waiting:
                self._session.fail_write(transfer)
            return None
        return transfer

    def _check(self, data_out: DataOut, transfer: WriteTransfer) -> Burst | None:
        """Return the burst that this Data-Out continues, None for unsolicited data.

        A Data-Out of the wrong task, unit or place means that the two sides no longer agree on what is being
        transferred; with ErrorRecoveryLevel 0 there is no way back from that (RFC 7143 7.1, 7.9).
        """
        command = transfer.command
        burst: Burst | None = None
        if data_out.target_transfer_tag != RESERVED_TAG:
            burst = transfer.bursts[0]
            if burst.target_transfer_tag != data_out.target_transfer_tag:
                raise ConnectionFault("Data-Out answers R2Ts out of order")
            if data_out.initiator_task_tag != command.initiator_task_tag or data_out.lun != command.lun:
                raise ConnectionFault("Data-Out has the task tag or LUN of another command than its R2T")
            expected_sn = burst.data_sn
            burst.data_sn += 1
        else:
            expected_sn = transfer.unsolicited_sn
            transfer.unsolicited_sn += 1
        if data_out.data_sn != expected_sn and transfer.fault is None:
            # A PDU in between is lost, as far as the numbers tell, and nothing asks for it again (7.9).
            self._session.connection.report(f"Data-Out with DataSN {data_out.data_sn} instead of {expected_sn}")
            transfer.fail(PROTOCOL_SERVICE_CRC_ERROR)
        if data_out.buffer_offset != transfer.received and transfer.fault is None:
            raise ConnectionFault(f"Data-Out at offset {data_out.buffer_offset} instead of {transfer.received}")
        return burst

    def _end_sequence(self, transfer: WriteTransfer, burst: Burst | None, end: int) -> None:
        if burst is not None:
            transfer.bursts.popleft()
            del self._bursts[burst.target_transfer_tag]
            if transfer.abandoned:
                self._session.task_management.data_ended(burst.target_transfer_tag)
                return
        else:
            transfer.unsolicited = False
        if transfer.received != end:
            if burst is None and transfer.capacity <= end:
                transfer.requested = transfer.received  # less than could come unsolicited; the rest is asked for
            else:
                transfer.fail(INCORRECT_AMOUNT_OF_DATA)
                transfer.received = end
        self.advance(transfer)

    def start(self, transfer: WriteTransfer) -> None:
        """Grant a write its memory, and ask for its data."""
        self.started += 1
        transfer.start()
        self.advance(transfer)

    def advance(self, transfer: WriteTransfer) -> None:
        """Do what a write needs next: ask for data, be delivered, or be answered with its fault."""
        if transfer.fault is not None:
            if not transfer.waiting:
                self._session.fail_write(transfer)
        elif transfer.received == transfer.capacity:
            if transfer.started and not transfer.waiting:
                self._session.deliver_write(transfer)
        elif transfer.started and not transfer.unsolicited:
            self._request(transfer)

    def _request(self, transfer: WriteTransfer) -> None:
        """Send as many R2Ts as may be in flight at once."""
        session = self._session
        parameters = session.parameters
        command = transfer.command
        while len(transfer.bursts) < parameters.max_outstanding_r2t and transfer.requested < transfer.capacity:
            offset = transfer.requested
            length = min(parameters.max_burst_length, transfer.capacity - offset)
            tag = self.allocate_tag()
            burst = Burst(transfer, tag, offset + length)
            transfer.bursts.append(burst)
            self._bursts[tag] = burst
            transfer.requested = offset + length
            session.writer.send(
                encode_r2t(
                    ReadyToTransfer(
                        command.lun,
                        command.initiator_task_tag,
                        tag,
                        session.stat_sn,
                        session.exp_cmd_sn,
                        session.max_cmd_sn,
                        transfer.r2t_sn,
                        offset,
                        length,
                    )
                )
            )
            transfer.r2t_sn += 1

    def abandon(self, transfer: WriteTransfer) -> set[int]:
        """Give a write up, and return the tags of the bursts that its host will still send or has sent."""
        transfer.abandoned = True
        transfer.unsolicited = False
        transfer.buffer = bytearray()
        return {burst.target_transfer_tag for burst in transfer.bursts}

    def forget(self, tags: set[int]) -> None:
        """Wait no longer for these bursts; what comes of them is dropped."""
        for tag in tags:
            self._bursts.pop(tag, None)
