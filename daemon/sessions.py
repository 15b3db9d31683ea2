"""The sessions of hosts as I_T nexuses: made at login with the host's LUN map, lost at the end of the session.

When the configuration changes, each session is admitted once more, as if it logged in now: it gets the LUN map and the
rights that it would get, or it ends.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from backends.scheduler import Scheduler
from config import model
from daemon.hosts import Rights, lun_map
from daemon.limits import Limits
from scsi.access_states import TargetPortGroups
from scsi.iscsi.directory import Admission
from scsi.iscsi.errors import LoginRefused
from scsi.iscsi.events import ScsiCommand, SessionEnded, TaskManagement
from scsi.iscsi.session import Session
from scsi.logical_unit import LogicalUnit
from scsi.nexus import Limit, MappedUnit, Nexus
from scsi.target import TargetPort, execute_without_unit

MOST_TARGET_PORTS = 0xFFFF  # SPC-6: relative target port identifiers 1 to 65535

_log = logging.getLogger(__name__)


class Sessions:
    """Every session of the daemon, by target port; a `daemon.portal.SessionHandler`.

    Args:
        units: gives the logical units by the name of their virtual device.
        scheduler: the event loop.
        host_gone: told the InitiatorName of a host whose last session has ended and was not followed by a new one.
    """

    def __init__(
        self,
        units: Callable[[], Mapping[str, LogicalUnit]],
        scheduler: Scheduler,
        host_gone: Callable[[str], None],
    ) -> None:
        self._ports: dict[str, TargetPort] = {}
        self._numbers: dict[int, tuple[str, int]] = {}
        self._units = units
        self._scheduler = scheduler
        self._host_gone = host_gone
        self._limits = Limits(scheduler)
        self._ends: dict[Session, Callable[[], None]] = {}
        self._sessions_of: Counter[str] = Counter()

    def port(self, target_name: str) -> TargetPort:
        """Give what takes the commands for a target; it need not have sessions."""
        port = self._ports.get(target_name)
        if port is None:
            port = self._ports[target_name] = TargetPort(TargetPortGroups(partial(self._number, target_name)))
        return port

    def _number(self, target_name: str, tag: int) -> int:
        """Number a target port, as no other of the daemon is, and after a restart the same.

        Hosts tell paths to a unit apart by it, also those that come by several targets. So it is made of the name; two
        names that come to the same number share it out by who comes first.
        """
        name = (target_name, tag)
        number = zlib.crc32(f"{target_name},{tag}".encode()) % MOST_TARGET_PORTS + 1
        while self._numbers.setdefault(number, name) != name:
            number = number % MOST_TARGET_PORTS + 1
        return number

    def logged_in(self, session: Session, end: Callable[[], None]) -> Callable[[ScsiCommand], None]:
        """Make the nexus of a new session; give what executes its commands.

        Args:
            session: the new session.
            end: ends it.
        """
        if session.discovery:
            return execute_without_unit
        if session in self._ends:  # it has another connection now, and goes on
            self._ends[session] = end
            return self.port(session.target_name).execute
        rights: Rights = session.admission.context
        nexus = Nexus(
            session.initiator_name,
            session.isid,
            session.target_name,
            session.target_portal_group_tag,
            rights.array_control,
            {},
        )
        session.nexus = nexus
        self._ends[session] = end
        self._sessions_of[nexus.initiator_name] += 1
        port = self.port(session.target_name)
        port.groups.keep(rights.portal_groups)
        # What it was admitted to when its login began may have changed since.
        reason = self._rights_again(session)
        if reason:
            self._scheduler.call_soon(lambda: self.end(session, reason))
        else:
            nexus.lun_map = self._lun_map(session, self._units())
        port.nexus_created(nexus)
        _log.info("%r has logged in to %s", nexus.initiator_port, nexus.target_name, extra={"event": "session_begun"})
        return port.execute

    def manage(self, request: TaskManagement) -> None:
        """Carry out a task management function."""
        self.port(request.session.target_name).manage(request)

    def session_ended(self, event: SessionEnded) -> None:
        """Lose the nexus of a session."""
        session = event.session
        if session.discovery:
            return
        nexus: Nexus = session.nexus
        del self._ends[session]
        self.port(session.target_name).nexus_lost(nexus)
        self._sessions_of[nexus.initiator_name] -= 1
        _log.info(
            "the session of %r has ended: %s",
            nexus.initiator_port,
            event.reason.value,
            extra={"event": "session_ended"},
        )
        # Not at once: a login that takes this session's place is the next event.
        self._scheduler.call_soon(lambda: self._look_for_host(nexus.initiator_name))

    def readmit(self) -> None:
        """Give every session the LUN map and the rights that it would get if it logged in now, or end it."""
        units = self._units()
        for session in list(self._ends):
            reason = self._rights_again(session)
            if reason:
                self.end(session, reason)
            else:
                self.port(session.target_name).remap(session.nexus, self._lun_map(session, units))

    def _lun_map(self, session: Session, units: Mapping[str, LogicalUnit]) -> dict[bytes, MappedUnit]:
        def limit_of(lun: model.Lun) -> Limit | None:
            host, target = session.initiator_name, session.target_name
            return self._limits.of(host, target, lun.lun, lun.max_iops, lun.max_bytes_per_s)

        return lun_map(session.admission.context, units, limit_of)

    def _rights_again(self, session: Session) -> str:
        """Ask anew what a session may do; give why it may not go on, "" when it may."""
        before: Admission = session.admission
        rights: Rights = before.context
        try:
            now = rights.hosts.rights(session.initiator_name, session.target_name, rights.addresses)
        except LoginRefused as refusal:
            return str(refusal)
        if (now.context.acl is None) != (rights.acl is None):
            return "its ACL has come or gone"
        if now.target_portal_group_tag != session.target_portal_group_tag:
            return "its portal is in another group now"
        if now.chap is not None and before.chap is None:
            return "it has not proved itself, and has to"
        session.admission = now
        self.port(session.target_name).groups.keep(now.context.portal_groups)
        self.port(session.target_name).set_array_control(session.nexus, now.context.array_control)
        return ""

    def end(self, session: Session, reason: str) -> None:
        """End a session from this side; the host is told, and may log in again."""
        end = self._ends.get(session)
        if end is not None:
            _log.info(
                "ending the session of %r: %s", session.nexus.initiator_port, reason, extra={"event": "session_ending"}
            )
            end()

    def _look_for_host(self, initiator_name: str) -> None:
        if self._sessions_of[initiator_name] <= 0:
            del self._sessions_of[initiator_name]
            self._host_gone(initiator_name)
