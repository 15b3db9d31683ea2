"""One SCSI command to an external LU, repeated until there is an answer that means something to whoever waits.

How an answer is taken:

    GOOD, nothing missing            done
    BUSY, TASK SET FULL              again after a pause that doubles, until the time is over
    UNIT ATTENTION                   told to the unit, then again; if another LU may be there now, when it is known
    ABORTED COMMAND, TASK ABORTED    again, a few times: the array says that it dropped the command
    RESERVATION CONFLICT             told to the unit, and an error
    the link died                    a read waits for the unit to come back, for a bounded time; of a write it is not
                                     known whether it was done, or still will be: an error, and the unit has to reset
                                     the LU before anything newer goes there (pairs.md F13)
    not sent at all                  a read waits as above; a write fails as one that comes while the array is away
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from backends.external.sense import Sense, decode_sense
from scsi.iscsi.initiator_task import Task, Undelivered
from scsi.status import SenseKey, Status
from scsi.volume import Buffer, Done, Fault, ReadDone, VolumeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.external.unit import ExternalLogicalUnit
    from scsi.counters import Latencies

MAX_ATTEMPTS: Final = 16  # of what the array refuses for reasons that pass: unit attentions, aborted commands
FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 1.0
SHORTEST_TIMEOUT_S: Final = 1.0
_GOOD: Final = Status.GOOD.value
NO_SENSE: Final = (0, 0, 0)
_SAMPLED: Final = 15  # one command in 16 is measured


class Operation(Task):
    """A command that does not touch the medium; `done` gets the answer with its data, or the error.

    It is the task that is sent first; for each repetition there is another one.

    Attributes:
        unit: where it goes.
        attempts: how often it was refused for a reason that passes.
        parked: it has waited for a lost link.
        begun: when it was sent for the first time, if its latency is measured; else 0.0.
    """

    __slots__ = ("_done", "attempts", "begun", "parked", "unit")
    read_fault: ClassVar = Fault.HARDWARE  # what a medium error is for this kind of command

    def __init__(
        self,
        unit: ExternalLogicalUnit,
        cdb: bytes,
        done: Callable[..., None],
        data_out: Buffer = b"",
        data_in_bytes: int = 0,
        place: memoryview | None = None,
    ) -> None:
        super().__init__(unit.lun, cdb, data_out, data_in_bytes, unit.command_timeout_s, place)
        self.unit = unit
        self.attempts = 0
        self.parked = False
        self.begun = 0.0
        self._done = done

    def start(self) -> None:
        """Send it for the first time."""
        self.unit.path.submit(self)

    def again(self) -> None:
        """Send it once more, in what is left of its time."""
        unit = self.unit
        unit.path.submit(_Repetition(self, max(self.deadline - unit.scheduler.now(), SHORTEST_TIMEOUT_S)))

    def ended(self) -> None:
        """Take the answer to the first sending."""
        self.answered(self)

    def answered(self, answer: Task) -> None:
        """Take one answer of the array."""
        if answer.status == _GOOD:
            self.succeeded(answer)
            return
        if not self.deadline:  # it has never been sent
            self.deadline = self.unit.scheduler.now() + self.timeout_s
        if answer.undelivered is not None:
            self._undelivered(answer.undelivered, answer.detail)
        elif answer.status == Status.CHECK_CONDITION:
            self._checked(answer, decode_sense(answer.sense))
        elif answer.status == Status.RESERVATION_CONFLICT:
            self.conflicted()
        elif answer.status in {Status.BUSY, Status.TASK_SET_FULL}:
            self._pause(Fault.BUSY, f"status {Status(answer.status).name}")
        elif answer.status == Status.TASK_ABORTED:
            self._retry(Fault.HARDWARE, "task aborted")
        else:
            self.fail(Fault.HARDWARE, f"status {answer.status:02X}h")
        key, asc, ascq = decode_sense(answer.sense)[:3] if answer.undelivered is None and answer.sense else NO_SENSE
        self.unit.counters.count_error((answer.status or 0, key, asc, ascq))

    def measure(self, latencies: Latencies, commands: int) -> None:
        """Take note of how long it took, if that was to be measured; `commands` of its kind have ended by now."""
        if self.begun:
            latencies.add(self.unit.scheduler.now() - self.begun, latencies.stand_for(commands))

    def succeeded(self, answer: Task) -> None:
        """Take an answer that says GOOD."""
        self.unit.counters.commands += 1
        self._done(answer)

    def fail(self, fault: Fault, detail: str, lba: int | None = None) -> None:
        """End with an error."""
        self._done(VolumeError(fault, f"{self.unit.name}: {detail}", lba))

    def conflicted(self) -> None:
        """Take RESERVATION CONFLICT."""
        self.unit.conflicted()
        self.fail(Fault.RESERVATION_CONFLICT, "reservation conflict")

    def link_lost(self, detail: str) -> None:
        """Learn that the link died with the command in flight."""
        self.fail(Fault.LINK_LOST, detail)

    def not_sent(self, detail: str) -> None:
        """Learn that there was no link to send it on."""
        self.fail(Fault.BECOMING_READY, detail)

    def resume(self) -> None:
        """Go on after a pause."""
        self.again()

    def _checked(self, answer: Task, sense: Sense) -> None:
        key, asc, ascq = sense[:3]
        if key == SenseKey.UNIT_ATTENTION:
            self.unit.attention(asc, ascq)
            self._retry(Fault.BUSY, str(sense))
        elif key == SenseKey.ABORTED_COMMAND:
            self._retry(Fault.HARDWARE, str(sense))
        elif key == SenseKey.RECOVERED_ERROR:
            self.succeeded(answer)
        else:
            self.fail(self._fault_of(key, asc, ascq), str(sense), sense.information)

    def _fault_of(self, key: int, asc: int, ascq: int) -> Fault:
        if key == SenseKey.NOT_READY:
            return Fault.BECOMING_READY
        if key == SenseKey.MEDIUM_ERROR:
            return self.read_fault
        if key == SenseKey.DATA_PROTECT:
            return Fault.NO_SPACE if (asc, ascq) == (0x27, 0x07) else Fault.WRITE_PROTECTED
        if (key, asc) == (SenseKey.ILLEGAL_REQUEST, 0x25):  # no LU there any more
            self.unit.gone()
            return Fault.BECOMING_READY
        return Fault.HARDWARE

    def _undelivered(self, why: Undelivered, detail: str) -> None:
        if why is Undelivered.LINK_LOST:
            self.link_lost(detail)
        elif why is Undelivered.NOT_SENT:
            self.not_sent(detail)
        elif why is Undelivered.ABORTED:
            self._retry(Fault.TIMED_OUT, detail)
        elif why is Undelivered.TIMED_OUT:
            self.fail(Fault.TIMED_OUT, detail)
        else:
            self.fail(Fault.HARDWARE, detail)

    def _retry(self, fault: Fault, detail: str) -> None:
        self.attempts += 1
        if self.attempts >= MAX_ATTEMPTS:
            self.fail(fault, f"{detail}, {self.attempts} times")
        else:
            self.resume()

    def _pause(self, fault: Fault, detail: str) -> None:
        scheduler = self.unit.scheduler
        pause_s = min(FIRST_PAUSE_S * 2 ** min(self.attempts, 10), LONGEST_PAUSE_S)
        self.attempts += 1
        if scheduler.now() + pause_s >= self.deadline:
            self.fail(fault, detail)
        else:
            scheduler.call_later(pause_s, self.resume)


class _Repetition(Task):
    """One more sending of an operation."""

    __slots__ = ("_operation",)

    def __init__(self, operation: Operation, timeout_s: float) -> None:
        super().__init__(
            operation.unit.lun, operation.cdb, operation.data_out, operation.data_in_bytes, timeout_s, operation.place
        )
        self._operation = operation

    def ended(self) -> None:
        """Hand the answer over."""
        self._operation.answered(self)


class DataOperation(Operation):
    """What reads or writes the medium: it goes out only while the unit is ready, and known to be the one it was."""

    __slots__ = ()

    def start(self) -> None:
        """Send it for the first time, at once or when it is known who is there."""
        unit = self.unit
        unit.operations += 1
        if unit.operations & _SAMPLED == 1:
            self.begun = unit.scheduler.now()
        if unit.doubted:
            self.deadline = unit.scheduler.now() + unit.command_timeout_s
            unit.hold(self)
        else:
            unit.path.submit(self)

    def resume(self) -> None:
        """Go on after a pause, in which the unit may have gone, or another may have come to its place."""
        if self.unit.fault() is not None:
            self.not_sent("the array went away")
        elif self.unit.doubted:
            self.unit.hold(self)
        else:
            self.again()


class ReadOperation(DataOperation):
    """A READ; `done` is a `ReadDone`."""

    __slots__ = ()
    read_fault: ClassVar = Fault.READ_ERROR
    _done: ReadDone

    def succeeded(self, answer: Task) -> None:
        """Hand over the data, provided that all of it came."""
        data = answer.data_in
        unit = self.unit
        counters = unit.counters
        counters.reads += 1
        counters.read_blocks += len(data) // unit.block_bytes
        self.measure(counters.read_latencies, counters.reads)
        if len(data) == self.data_in_bytes:
            self._done(data)
        else:
            self.fail(Fault.READ_ERROR, f"{len(data)} of {self.data_in_bytes} bytes came")

    def link_lost(self, detail: str) -> None:
        """Wait for the link: reading again does no harm."""
        self.unit.park(self, Fault.LINK_LOST, detail)

    def not_sent(self, detail: str) -> None:
        """Wait for the link."""
        self.unit.park(self, Fault.BECOMING_READY, detail)


class WriteOperation(DataOperation):
    """A WRITE; `done` is a `Done`."""

    __slots__ = ()
    read_fault: ClassVar = Fault.WRITE_ERROR
    _done: Done

    def blocks(self) -> int:
        """Give how many blocks it writes."""
        return len(self.data_out) // self.unit.block_bytes

    def succeeded(self, answer: Task) -> None:
        """End, provided that all data was taken."""
        counters = self.unit.counters
        counters.writes += 1
        counters.written_blocks += self.blocks()
        self.measure(counters.write_latencies, counters.writes)
        if answer.residual:
            self.fail(Fault.WRITE_ERROR, f"{answer.residual} bytes were not taken")
        else:
            self._done(None)

    def link_lost(self, detail: str) -> None:
        """End with an error, and see that nothing newer meets this write."""
        self.unit.reset_needed = True
        self.fail(Fault.LINK_LOST, detail)


class FlushOperation(DataOperation):
    """A SYNCHRONIZE CACHE; `done` is a `Done`.

    After a loss of the link it is not repeated: what it covers may be gone with the array's power.
    """

    __slots__ = ()
    read_fault: ClassVar = Fault.WRITE_ERROR
    _done: Done

    def succeeded(self, answer: Task) -> None:
        """End."""
        self.unit.counters.commands += 1
        self._done(None)

    def _checked(self, answer: Task, sense: Sense) -> None:
        if sense[:3] == (SenseKey.ILLEGAL_REQUEST, 0x20, 0) and not self.unit.cache_known:
            self._done(None)  # no such command, and no word of a cache: there is nothing to flush
        else:
            super()._checked(answer, sense)
