"""The addresses that hosts log in to: each listens once, whichever targets answer there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from config import model
from config.errors import ListenError
from daemon.host_history import HostHistory
from daemon.hosts import PortalHosts
from daemon.inherited import InheritedSockets
from daemon.portal import Portal, SessionHandler
from scsi.iscsi.registry import SessionRegistry

Address = tuple[str, int]

LOGOUT_WITHIN_S = 30  # open-iscsi and libiscsi log out at once; this is for commands in progress

_log = logging.getLogger(__name__)


def addresses(config: model.Config) -> list[Address]:
    """List the addresses of all targets, each once."""
    return list(dict.fromkeys(model.split_portal(text) for target in config.targets for text in target.portals))


class Portals:
    """The portals of the daemon, by address.

    Args:
        config: in force, with its secrets.
        registry: the sessions of the daemon.
        handler: takes commands and sessions.
        inherited: sockets that the service manager listens on.

    Attributes:
        history: what came in by them and is over.
        draining: the addresses of those that admit no new sessions.
    """

    def __init__(
        self,
        config: model.Config,
        registry: SessionRegistry,
        handler: SessionHandler,
        inherited: InheritedSockets | None = None,
    ) -> None:
        self._inherited = inherited or InheritedSockets()
        self._config = config
        self._registry = registry
        self._handler = handler
        self.history = HostHistory()
        self._portals: dict[Address, Portal] = {}
        self._hosts: dict[Address, PortalHosts] = {}
        self.draining: set[Address] = set()

    def __iter__(self) -> Iterator[tuple[Address, Portal]]:
        return iter(list(self._portals.items()))

    def __len__(self) -> int:
        return len(self._portals)

    def find(self, address: Address) -> Portal | None:
        """Find the portal that listens on an address."""
        return self._portals.get(address)

    def use(self, config: model.Config) -> None:
        """Admit hosts as another configuration says, from now on."""
        self._config = config
        for hosts in self._hosts.values():
            hosts.use(config)

    async def open(self, address: Address) -> None:
        """Listen on an address.

        Raises:
            ListenError: that can not be.
        """
        hosts = PortalHosts(self._config, address, self.draining)
        portal = Portal(hosts, self._registry, self._handler, self.history)
        await self._listen(portal, address)
        self._portals[address] = portal
        self._hosts[address] = hosts
        _log.info("listening on %s", model.join_portal(*address), extra={"event": "portal_open"})

    def make_way(self, address: Address) -> None:
        """Take no more connections at an address; the sessions from there go on."""
        self._portals[address].stop_listening()

    async def resume(self, address: Address) -> None:
        """Listen again where `make_way` ended that.

        Raises:
            ListenError: that can not be.
        """
        await self._listen(self._portals[address], address)

    def drain(self, address: Address, within_s: int = LOGOUT_WITHIN_S) -> None:
        """Admit no new sessions at an address, and have those that came in there go.

        Hosts that try get the address of another portal, or are told to come later. The portal goes on listening for
        that: a refused connection would look like a broken network, and say less. Discovery does not name it. The log
        says when the last session has gone. A drain is not saved: after a restart the portal admits hosts.

        Args:
            address: of an open portal.
            within_s: hosts are asked to log out within this time, and dropped after it.
        """
        self.draining.add(address)
        self._portals[address].send_away(model.join_portal(*address), within_s)

    def undrain(self, address: Address) -> None:
        """Admit sessions again; those that have not gone yet stay."""
        self.draining.discard(address)
        self._portals[address].let_stay()

    async def close(self, address: Address) -> None:
        """Listen there no more, and end the sessions that came in there."""
        self.draining.discard(address)
        del self._hosts[address]
        await self._portals.pop(address).close()
        _log.info("not listening on %s any more", model.join_portal(*address), extra={"event": "portal_closed"})

    async def close_all(self) -> None:
        """Close every portal."""
        for address in list(self._portals):
            await self.close(address)

    async def _listen(self, portal: Portal, address: Address) -> None:
        await asyncio.sleep(0)  # uvloop gives a closed address back at the end of its turn
        try:
            await portal.listen(*address, self._inherited.take(address))
        except (OSError, UnicodeError) as error:  # a host name may be one that can not be looked up at all
            reason = error.strerror if isinstance(error, OSError) else error
            raise ListenError(f"portal {model.join_portal(*address)}", f"can not be listened on: {reason}") from None
