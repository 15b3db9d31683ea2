"""One command of a host, as the transport hands it to the SCSI layer.

The iSCSI layer's `ScsiCommand` is this object for both layers: there is no second record per command on the fast path.
"""

from __future__ import annotations

from typing import Any, Protocol

from scsi.volume import Buffer


class Task(Protocol):
    """A command from its arrival to its status.

    Objects are told apart by identity and must be hashable that way.

    Attributes:
        session: where it came from; `session.nexus` is the I_T nexus.
        lun: raw LUN, 8 bytes.
        cdb: 16 bytes, zero-padded; longer for a CDB that is.
        attribute: `scsi.status.TaskAttribute` as a number.
        initiator_task_tag: what ABORT TASK names it by.
        data_out: all the data that the host sent with it; may be shorter or longer than the CDB asks for.
        data_out_bytes: what the host announced; more than `data_out` when the transport did not take so much.
        data_in_bytes: how much data the host has room for.
        logical_unit: for the SCSI layer, which keeps the `MappedUnit` there.
        aborted: set when its answer is not wanted any more.
    """

    @property
    def session(self) -> Any: ...  # the transport's own type, which knows nothing of Nexus
    @property
    def lun(self) -> bytes: ...
    @property
    def cdb(self) -> bytes: ...
    @property
    def attribute(self) -> int: ...
    @property
    def initiator_task_tag(self) -> int: ...
    @property
    def data_out(self) -> Buffer: ...
    @property
    def data_out_bytes(self) -> int: ...
    @property
    def data_in_bytes(self) -> int: ...

    logical_unit: Any
    aborted: bool

    def complete(
        self, status: int, data_in: Buffer = b"", sense: bytes = b"", data_out_used: int | None = None
    ) -> None:
        """End the command; called exactly once, for an aborted one too (no answer goes out).

        Args:
            status: SCSI status.
            data_in: all of the data for the host; the transport cuts it at what the host has room for.
            sense: sense data, with CHECK CONDITION.
            data_out_used: how many bytes the command is about, when that is not what the host announced (residuals).
        """
