"""One run of annexd: start, serve until told to stop, stop in bounded time."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from backends.state_directory import StateDirectory
from backends.virtual_device import VirtualDevice
from config import model
from config.errors import ConfigError
from daemon.assembly import Assembly
from daemon.event_loop import LoopScheduler
from daemon.hosts import PortalHosts
from daemon.portal import Portal
from daemon.sessions import Sessions
from scsi.iscsi.registry import SessionRegistry

STOP_LIMIT_S = 30.0  # a device or an array that does not answer must not keep a service from stopping

_log = logging.getLogger(__name__)


class Service:
    """The daemon with one configuration.

    Args:
        config: checked.
        announce: print a line per LUN and then `ready` to standard output, once hosts can log in.

    Raises:
        StateError: the state directory can not be used; found out before anything is started.
    """

    def __init__(self, config: model.Config, *, announce: bool) -> None:
        self._config = config
        self._announce = announce
        self._state = StateDirectory(Path(config.state_directory))

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; give the exit code.

        Raises:
            StateError: what the state directory holds is damaged, or contradicts the configuration.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            return await self._serve(stop)
        finally:
            self._state.close()

    async def _serve(self, stop: asyncio.Event) -> int:
        assembly = Assembly(self._config, self._state, LoopScheduler(asyncio.get_running_loop()))
        portals: list[Portal] = []
        try:
            if await _ended_before(stop, assembly.start()):
                await self._listen(assembly, portals)
                if self._announce:
                    self._print_luns(assembly)
                _log.info("serving %d logical units", len(assembly.virtual_devices))
                await stop.wait()
            _log.info("stopping")
        finally:
            await self._stop(assembly, portals)
        return 0

    async def _listen(self, assembly: Assembly, portals: list[Portal]) -> None:
        """Listen on each address of the configuration; those that do are put to `portals` one by one.

        Raises:
            ConfigError: an address can not be listened on.
        """
        registry = SessionRegistry()
        sessions = Sessions(
            [target.name for target in self._config.targets],
            assembly.units.by_name(),
            LoopScheduler(asyncio.get_running_loop()),
            assembly.acquisitions.host_gone,
        )
        for host, port in dict.fromkeys(
            model.split_portal(text) for target in self._config.targets for text in target.portals
        ):
            portal = Portal(PortalHosts(self._config, (host, port)), registry, sessions)
            try:
                await portal.listen(host, port)
            except OSError as error:
                raise ConfigError(f"portal {host}:{port}", f"can not be listened on: {error.strerror}") from None
            portals.append(portal)

    async def _stop(self, assembly: Assembly, portals: list[Portal]) -> None:
        """End the sessions, then what they used; give up on what does not end."""
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                for portal in portals:
                    await portal.close()
                await assembly.close()
        except TimeoutError:
            _log.error("not everything ended within %d s; dirty marks are kept for the next start", STOP_LIMIT_S)

    def _print_luns(self, assembly: Assembly) -> None:
        """Print a line per LUN of the first target, and the line that says that hosts can log in."""
        devices = {virtual_device.name: virtual_device for virtual_device in assembly.virtual_devices}
        lines = [f"LUN {lun.lun}: {_words(devices[lun.virtual_device])}" for lun in self._config.targets[0].luns]
        sys.stdout.write("\n".join([*lines, "ready"]) + "\n")
        sys.stdout.flush()


def _words(device: VirtualDevice) -> str:
    size = (
        f"{device.blocks} blocks of {device.block_bytes} bytes" if device.blocks else "not available yet, see the log"
    )
    return f"{device.name}, naa.{device.naa.hex()}, {size}"


async def _ended_before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work`; tell whether it ended, or was given up because `stop` was set first."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            return True
        return False
    finally:
        working.cancel()
        stopping.cancel()
