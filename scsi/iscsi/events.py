"""What a target connection tells the layers above: the events, and the SCSI command, which is one for all layers."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from scsi.iscsi.errors import LoginStatus

if TYPE_CHECKING:
    from scsi.iscsi.session import Session

Buffer = bytes | bytearray | memoryview


class EndReason(enum.Enum):
    """Why a session ended: an I_T nexus loss in each case, REINSTATED being one that the same host caused."""

    LOGOUT = "logout"
    CONNECTION_LOST = "connection lost"
    REINSTATED = "reinstated by a new login"
    PROTOCOL_ERROR = "protocol error"
    TIMED_OUT = "no answer to a ping"
    TARGET_RESET = "target cold reset"
    ADMINISTRATIVE = "ended by the target's admin"


class ScsiCommand:
    """One SCSI command, with its data when it writes, from its delivery to its answer.

    Attributes:
        session: the session it came on; `session.nexus` is the I_T nexus.
        lun: 8 raw bytes.
        cdb: 16 bytes, or longer with an extended CDB.
        attribute: task attribute (`pdu.ATTRIBUTE_…`).
        initiator_task_tag: names the task within the session.
        cmd_sn: its place in the session's order.
        immediate: it was sent outside of that order.
        data_out: what the host sent, complete; may be shorter than `data_out_bytes` only where that is beyond
            `TargetOptions.max_data_out_bytes`.
        data_out_bytes: expected data transfer length of a write, bytes; 0 when it is none.
        data_in_bytes: expected length of a read, bytes; 0 when it is none.
        logical_unit: free for the SCSI layer.
        aborted: set by whoever aborts the task; its answer is dropped then. `complete` is to be called nevertheless,
            when nothing can touch the medium on its behalf any more.
        finished: `complete` was called.
    """

    __slots__ = (
        "aborted",
        "attribute",
        "cdb",
        "charged_bytes",
        "cmd_sn",
        "data_in_bytes",
        "data_out",
        "data_out_bytes",
        "finished",
        "immediate",
        "initiator_task_tag",
        "logical_unit",
        "lun",
        "session",
        "transfer",
    )

    def __init__(
        self,
        session: Session,
        lun: bytes,
        cdb: bytes,
        attribute: int,
        initiator_task_tag: int,
        cmd_sn: int,
        immediate: bool,
    ) -> None:
        self.session = session
        self.lun = lun
        self.cdb = cdb
        self.attribute = attribute
        self.initiator_task_tag = initiator_task_tag
        self.cmd_sn = cmd_sn
        self.immediate = immediate
        self.data_out: Buffer = b""
        self.data_out_bytes = 0
        self.data_in_bytes = 0
        self.logical_unit: Any = None
        self.aborted = False
        self.finished = False
        self.charged_bytes = 0
        self.transfer: Any = None

    def complete(
        self,
        status: int,
        data_in: Buffer = b"",
        sense: bytes = b"",
        data_out_used: int | None = None,
    ) -> None:
        """Answer the command; exactly once, from the event loop's thread, at any time after its delivery.

        Args:
            status: SAM status code.
            data_in: what a read returns; cut to `data_in_bytes`, and not changed by the caller any more.
            sense: sense data, with CHECK CONDITION.
            data_out_used: how many bytes the command wanted of the host, when other than `data_out_bytes`.
        """
        self.session.finish(self, status, data_in, sense, data_out_used)


class TaskManagement:
    """A task management function whose effects on SCSI tasks are the SCSI layer's.

    Attributes:
        session: the session it came on.
        function: `pdu.ABORT_TASK` and so on.
        lun: the logical unit it addresses, 8 raw bytes; means nothing to the target resets.
        referenced: the command that ABORT TASK names, which was delivered and is not answered yet; otherwise None.
        initiator_task_tag: names this function within the session.
        response: what `complete` was told, or None.
    """

    __slots__ = ("deadline", "function", "initiator_task_tag", "lun", "referenced", "response", "session", "unanswered")

    def __init__(
        self, session: Session, function: int, lun: bytes, initiator_task_tag: int, referenced: ScsiCommand | None
    ) -> None:
        self.session = session
        self.function = function
        self.lun = lun
        self.referenced = referenced
        self.initiator_task_tag = initiator_task_tag
        self.response: int | None = None
        self.unanswered: set[int] = set()  # target transfer tags of aborted tasks whose data is still to come
        self.deadline: float | None = None  # when to wait for them no longer

    def complete(self, response: int) -> None:
        """Say how it went; exactly once, after the affected tasks have been marked aborted or have been answered.

        Args:
            response: `pdu.FUNCTION_COMPLETE` and so on.
        """
        self.session.finish_task_management(self, response)


class LoggedIn:
    """A session can be used now, by this connection: give it its nexus, unless it goes on with the one that it has.

    It goes on when a login has given it a new connection (RFC 7143 6.3.4). For a Discovery session nothing is to do.

    Attributes:
        session: the session.
    """

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session


class SessionEnded:
    """A session that was announced by `LoggedIn` is over: its nexus is lost and its tasks are to be aborted.

    It may be another session than that of the connection which reports it: a new login ends the old session of the same
    host, and that is told before the new one is.

    Attributes:
        session: the session that ended; commands of it that are not complete yet are marked aborted.
        reason: why.
    """

    __slots__ = ("reason", "session")

    def __init__(self, session: Session, reason: EndReason) -> None:
        self.session = session
        self.reason = reason


class ProtocolFault:
    """Something for the log: what the peer did wrong, and what it got for it.

    Attributes:
        text: one line, printable, quoting nothing long that the peer sent.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class LoginFailed(ProtocolFault):
    """A login was answered with a status, and the connection ends.

    Attributes:
        status: what the initiator was told.
        initiator_name: what it called itself, as far as that came and is a name; else "".
    """

    __slots__ = ("initiator_name", "status")

    def __init__(self, status: LoginStatus, initiator_name: str, text: str) -> None:
        self.status = status
        self.initiator_name = initiator_name
        super().__init__(text)


Event = LoginFailed | ScsiCommand | TaskManagement | LoggedIn | SessionEnded | ProtocolFault
