"""The sessions of hosts as I_T nexuses: made at login with the host's LUN map, lost at the end of the session."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from backends.scheduler import Scheduler
from daemon.hosts import Rights, lun_map
from scsi.iscsi.events import ScsiCommand, SessionEnded, TaskManagement
from scsi.iscsi.session import Session
from scsi.logical_unit import LogicalUnit
from scsi.nexus import Nexus
from scsi.target import TargetPort, execute_without_unit

_log = logging.getLogger(__name__)


class Sessions:
    """Every session of the daemon, by target port; a `daemon.portal.SessionHandler`.

    Args:
        target_names: of the configuration.
        units: logical units by the name of their virtual device.
        scheduler: the event loop.
        host_gone: told the InitiatorName of a host whose last session has ended and was not followed by a new one.
    """

    def __init__(
        self,
        target_names: Iterable[str],
        units: Mapping[str, LogicalUnit],
        scheduler: Scheduler,
        host_gone: Callable[[str], None],
    ) -> None:
        self._ports = {name: TargetPort() for name in target_names}
        self._units = units
        self._scheduler = scheduler
        self._host_gone = host_gone
        self._sessions_of: Counter[str] = Counter()

    def logged_in(self, session: Session) -> Callable[[ScsiCommand], None]:
        """Make the nexus of a new session; give what executes its commands."""
        if session.discovery:
            return execute_without_unit
        rights: Rights = session.admission.context
        nexus = Nexus(
            session.initiator_name,
            session.isid,
            session.target_name,
            session.target_portal_group_tag,
            rights.array_control,
            lun_map(rights, self._units),
        )
        session.nexus = nexus
        self._sessions_of[nexus.initiator_name] += 1
        port = self._ports[session.target_name]
        port.nexus_created(nexus)
        _log.info("%r has logged in to %s", nexus.initiator_port, nexus.target_name)
        return port.execute

    def manage(self, request: TaskManagement) -> None:
        """Carry out a task management function."""
        self._ports[request.session.target_name].manage(request)

    def session_ended(self, event: SessionEnded) -> None:
        """Lose the nexus of a session."""
        session = event.session
        if session.discovery:
            return
        nexus: Nexus = session.nexus
        self._ports[session.target_name].nexus_lost(nexus)
        self._sessions_of[nexus.initiator_name] -= 1
        _log.info("the session of %r has ended: %s", nexus.initiator_port, event.reason.value)
        # Not at once: a login that takes this session's place is the next event.
        self._scheduler.call_soon(lambda: self._look_for_host(nexus.initiator_name))

    def _look_for_host(self, initiator_name: str) -> None:
        if self._sessions_of[initiator_name] <= 0:
            del self._sessions_of[initiator_name]
            self._host_gone(initiator_name)
