"""An I_T nexus as the SCSI layer sees it: who asks, and which logical units it is shown.

The object is the identity: reservations, unit attentions and acquisitions compare nexuses with `is`. For iSCSI one is
made per session, when it logs in, and it ends with the session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from scsi.access_states import TargetPortGroups

if TYPE_CHECKING:  # logical_unit.py needs this module at run time
    from scsi.errors import ScsiError
    from scsi.logical_unit import LogicalUnit
    from scsi.tasks import Task

LUN_BYTES = 8


class Limit(Protocol):
    """What bounds the reads and writes of a host at a logical unit."""

    def admit(self, task: Task, size_bytes: int, go: Callable[[], None]) -> bool:
        """True: go now. False: `go` is called once, later, unless the task is withdrawn."""

    def withdraw(self, task: Task) -> None:
        """Forget a task that waits."""


class MappedUnit(NamedTuple):
    """A logical unit as one host is shown it.

    Attributes:
        logical_unit: which.
        read_only: its writes are refused with WRITE PROTECTED.
        limit: bounds what the host does there, None for no bound.
    """

    logical_unit: LogicalUnit
    read_only: bool = False
    limit: Limit | None = None


class Nexus:
    """One initiator port talking to one target port.

    Attributes:
        initiator_name: iSCSI name of the host.
        isid: the initiator's part of the session id, 6 bytes; name and ISID together are the initiator port.
        target_name: iSCSI name of the target.
        target_portal_group_tag: the target port is the target name together with this.
        port_group: the target port group that the target port is; its access state decides what is done.
        array_control: whether ARRAY OUT is there for this host.
        lun_map: raw LUN of 8 bytes → what is mapped there. Change it through `TargetPort.remap`, which raises the
            unit attentions that go with it.
        attentions: pending unit attentions and deferred errors by logical unit; none of the unit on the fast path. Kept
            by `scsi.unit_attention`.
    """

    __slots__ = (
        "array_control",
        "attentions",
        "initiator_name",
        "isid",
        "lun_map",
        "port_group",
        "target_name",
        "target_portal_group_tag",
    )

    def __init__(
        self,
        initiator_name: str,
        isid: bytes,
        target_name: str,
        target_portal_group_tag: int,
        array_control: bool,
        lun_map: dict[bytes, MappedUnit],
    ) -> None:
        self.initiator_name = initiator_name
        self.isid = isid
        self.target_name = target_name
        self.target_portal_group_tag = target_portal_group_tag
        self.port_group = TargetPortGroups().of(target_portal_group_tag)  # until a target port has the nexus
        self.array_control = array_control
        self.lun_map = lun_map
        self.attentions: dict[LogicalUnit, list[ScsiError]] = {}

    @property
    def initiator_port(self) -> str:
        """Name of the initiator port as RFC 7143 4.2.7 and SPC's SCSI name strings write it."""
        return f"{self.initiator_name},i,0x{self.isid.hex()}"

    @property
    def target_port(self) -> str:
        """Name of the target port, written likewise."""
        return self.target_port_of(self.target_portal_group_tag)

    def target_port_of(self, tag: int) -> str:
        """Name the target port that another portal group of the same target is."""
        return f"{self.target_name},t,0x{tag:04x}"

    def __repr__(self) -> str:
        return f"<Nexus {self.initiator_port!r} to {self.target_name!r},t,0x{self.target_portal_group_tag:04x}>"
