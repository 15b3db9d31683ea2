"""One SCSI command on its way to another target, from `InitiatorConnection.submit` to its end.

A task is also its own answer. Whoever sends one derives a class from it that says what to do with the answer, or takes
`CallbackTask`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable

Buffer = bytes | bytearray | memoryview


class Undelivered(enum.Enum):
    """Why a command ended without a SCSI status."""

    NOT_SENT = "not sent"  # nothing of it reached the wire: it is certain that it was not done
    ABORTED = "aborted"  # the target has no such task any more and sent no status: done or not, it will not act later
    TIMED_OUT = "timed out"  # as ABORTED, after its time was over
    LINK_LOST = "link lost"  # the connection ended first: done, not done, or still going to be done
    MALFORMED = "malformed answer"  # its answer contradicts itself: done or not


class Task(ABC):
    """One command, to be submitted once.

    Attributes:
        lun: 8 raw bytes.
        cdb: up to 16 bytes.
        data_out: all that the command writes; not changed by anyone until it has ended. Not together with
            `data_in_bytes`.
        data_in_bytes: how much it reads at most.
        timeout_s: so long after it was submitted it is aborted.
        deadline: the same on the connection's clock; 0.0 until it is submitted.
        place: where to put what is read, `data_in_bytes` long; None for memory of its own.
        initiator_task_tag: names it on the wire; 0 until it is sent.
        cmd_sn: its place in the session's order.
        data_in: at the end, what was read: a view of exactly what came.
        status: the SCSI status, -1 when `undelivered` says why there is none.
        sense: sense data as it came, b"" for none.
        residual: bytes of the expected transfer that the target did not want or have; negative: it had more.
        undelivered: why there is no status, else None.
        detail: words for the log, with `undelivered`.
    """

    __slots__ = (
        "aborting",
        "cdb",
        "cmd_sn",
        "data_in",
        "data_in_bytes",
        "data_out",
        "data_sn",
        "deadline",
        "detail",
        "initiator_task_tag",
        "lun",
        "place",
        "received_bytes",
        "residual",
        "sense",
        "sent_bytes",
        "status",
        "timeout_s",
        "undelivered",
        "view",
    )

    def __init__(
        self,
        lun: bytes,
        cdb: bytes,
        data_out: Buffer,
        data_in_bytes: int,
        timeout_s: float,
        place: memoryview | None = None,
    ) -> None:
        self.lun = lun
        self.cdb = cdb
        self.data_out = data_out
        self.data_in_bytes = data_in_bytes
        self.timeout_s = timeout_s
        self.deadline = 0.0
        self.place = place  # made at the first Data-In when the caller has none
        self.initiator_task_tag = 0
        self.cmd_sn = 0
        self.data_in: Buffer = b""
        self.status = -1
        self.sense = b""
        self.residual = 0
        self.undelivered: Undelivered | None = None
        self.detail = ""
        self.data_sn = 0  # the next DataSN or R2TSN that the target must use
        self.received_bytes = 0
        self.sent_bytes = 0
        self.view: memoryview | None = None  # of data_out
        self.aborting = False

    @abstractmethod
    def ended(self) -> None:
        """Take the answer: called once, possibly before `submit` returns."""

    def undeliver(self, why: Undelivered, detail: str) -> None:
        """End without a SCSI status."""
        self.undelivered = why
        self.detail = detail
        self.view = None
        self.ended()


class CallbackTask(Task):
    """A command whose answer goes to a function, which gets the task itself."""

    __slots__ = ("_done",)

    def __init__(
        self,
        lun: bytes,
        cdb: bytes,
        data_out: Buffer,
        data_in_bytes: int,
        timeout_s: float,
        done: Callable[[Task], None],
        place: memoryview | None = None,
    ) -> None:
        super().__init__(lun, cdb, data_out, data_in_bytes, timeout_s, place)
        self._done = done

    def ended(self) -> None:
        """Hand it over."""
        self._done(self)
