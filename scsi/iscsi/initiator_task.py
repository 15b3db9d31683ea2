"""One SCSI command on its way to another target, from `InitiatorConnection.submit` to its end.

A task is also its own answer: it is what the caller's `done` gets, and the only object made for a command.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

Buffer = bytes | bytearray | memoryview


class Undelivered(enum.Enum):
    """Why a command ended without a SCSI status."""

    NOT_SENT = "not sent"  # nothing of it reached the wire: it is certain that it was not done
    ABORTED = "aborted"  # the target has no such task any more and sent no status: done or not, it will not act later
    TIMED_OUT = "timed out"  # as ABORTED, after its time was over
    LINK_LOST = "link lost"  # the connection ended first: done, not done, or still going to be done
    MALFORMED = "malformed answer"  # its answer contradicts itself: done or not


class Task:
    """One command.

    Attributes:
        lun: 8 raw bytes.
        cdb: up to 16 bytes.
        data_out: all that the command writes; not changed by anyone until `done`.
        data_in_bytes: how much it may read.
        done: called once with the task itself.
        deadline: when it is aborted, on the connection's clock.
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
        "done",
        "initiator_task_tag",
        "lun",
        "place",
        "received_bytes",
        "residual",
        "sense",
        "sent_bytes",
        "status",
        "undelivered",
        "view",
    )

    def __init__(
        self,
        lun: bytes,
        cdb: bytes,
        data_out: Buffer,
        data_in_bytes: int,
        done: Callable[[Task], None],
        deadline: float,
        place: memoryview | None,
    ) -> None:
        self.lun = lun
        self.cdb = cdb
        self.data_out = data_out
        self.data_in_bytes = data_in_bytes
        self.done = done
        self.deadline = deadline
        self.place = place  # where Data-In goes; made at the first Data-In when the caller has none
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
