"""One running annexd, as the control API, the metrics and the signals see it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

from config import model
from daemon.assembly import Assembly
from daemon.portals import Portals
from daemon.sessions import Sessions
from scsi.iscsi.registry import SessionRegistry

if TYPE_CHECKING:  # it changes what is here
    from daemon.reconfiguration import Reconfiguration


class Phase(enum.Enum):
    """Where the daemon stands in its life."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


class Daemon:
    """The parts of a running daemon.

    Attributes:
        assembly: devices, arrays, virtual devices, units, pairs, acquisitions.
        registry: the iSCSI sessions, by TSIH.
        sessions: the same as I_T nexuses.
        portals: the addresses that hosts log in to.
        reconfiguration: changes all of this.
        phase: where it stands in its life.
        started: when it was made, on the event loop's clock.
    """

    reconfiguration: Reconfiguration

    def __init__(
        self, assembly: Assembly, registry: SessionRegistry, sessions: Sessions, portals: Portals, started: float
    ) -> None:
        self.assembly = assembly
        self.registry = registry
        self.sessions = sessions
        self.portals = portals
        self.started = started
        self.phase = Phase.STARTING

    @property
    def config(self) -> model.Config:
        """The configuration in force."""
        return self.reconfiguration.config


class Endpoint(Protocol):
    """A server of the daemon that is not for hosts: the control API, the metrics."""

    async def listen(self, config: model.Config) -> None:
        """Listen where its section of `config` says; where it listened before and does not any more, stop that.

        A request under way, which may be the one that changed the section, is answered all the same.

        Raises:
            ConfigError: that can not be; then it listens where it did.
        """

    async def close(self) -> None:
        """Answer what is under way, and listen nowhere."""
