"""Both layers of the target in memory: a scripted initiator, a session, a target port, a logical unit, a volume."""

from __future__ import annotations

from scsi.iscsi.events import Event, LoggedIn, ScsiCommand, SessionEnded, TaskManagement
from scsi.iscsi.options import TargetOptions
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit, Nexus
from scsi.target import TargetPort
from tests.support.commands import LUN_0, NAA
from tests.support.iscsi_peer import Pdu, Peer
from tests.support.memory_volume import MemoryVolume

SCSI_RESPONSE, DATA_IN, STATUS_BIT = 0x21, 0x25, 0x01


class TargetStack:
    """One session in full feature phase with LUN 0, whose unit attention has been taken.

    Attributes:
        peer: the initiator; `peer.send` returns what the target sends at once.
        volume: under the logical unit; hold its operations to complete them in any order.
        unit: LUN 0.
        port: the target port.
    """

    def __init__(self, options: TargetOptions | None = None, **login_keys: str) -> None:
        self.volume = MemoryVolume()
        self.unit = LogicalUnit(self.volume, NAA)
        self.port = TargetPort()
        self.peer = Peer(options=options)
        self.peer.handle = self._act
        self.peer.log_in(**login_keys)
        self.peer.send(self.peer.command_pdu(bytes(6)))  # TEST UNIT READY, which gets 29/00
        self.peer.received.clear()

    def _act(self, event: Event) -> None:
        """Do with an event of the connection what the daemon does with it."""
        match event:
            case ScsiCommand():
                self.port.execute(event)
            case TaskManagement():
                self.port.manage(event)
            case LoggedIn():
                session = event.session
                session.nexus = Nexus(
                    session.initiator_name, session.isid, session.target_name, 1, False, {LUN_0: MappedUnit(self.unit)}
                )
                self.port.nexus_created(session.nexus)
            case SessionEnded():
                self.port.nexus_lost(event.session.nexus)

    def release(self, index: int = 0) -> list[Pdu]:
        """Let a held operation of the volume complete; return what the target sends because of it."""
        self.volume.release(index)
        return self.peer.look()

    def final_pdus(self) -> list[int]:
        """Return the task tags of all statuses of commands so far, in the order in which they came."""
        return [pdu.task_tag for pdu in self.peer.received if _has_status(pdu)]


def _has_status(pdu: Pdu) -> bool:
    return pdu.opcode == SCSI_RESPONSE or (pdu.opcode == DATA_IN and bool(pdu.flags & STATUS_BIT))
