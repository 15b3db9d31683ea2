"""One run of annexd: start, serve until told to stop, stop in bounded time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from backends.state_directory import StateDirectory
from backends.virtual_device import VirtualDevice
from config import __version__, model
from daemon import credentials, inherited, notify, readiness
from daemon.assembly import Assembly
from daemon.control.server import ControlServer
from daemon.daemon import Daemon, Endpoint, Phase
from daemon.event_loop import LoopScheduler
from daemon.metrics_server import MetricsServer
from daemon.orphans import log_orphans
from daemon.portals import Portals, addresses
from daemon.reconfiguration import Reconfiguration
from daemon.reloads import Reloads
from daemon.sessions import Sessions
from scsi.iscsi.registry import SessionRegistry

STOP_LIMIT_S = 30.0  # a device or an array that does not answer must not keep a service from stopping

_log = logging.getLogger(__name__)


class Service:
    """The daemon with one configuration.

    Args:
        config: checked.
        file: where it stands, and changes are saved; None for `annexd try`, which has none.
        announce: print a line per LUN and then `ready` to standard output, once hosts can log in.

    Raises:
        StateError: the state directory can not be used; found out before anything is started.
        ConfigError: the service manager has handed over what is no portal.
    """

    def __init__(self, config: model.Config, *, file: Path | None, announce: bool) -> None:
        self._config = config
        self._file = file
        self._announce = announce
        self._inherited = inherited.from_environment()
        self._state = StateDirectory(Path(config.state_directory))

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; give the exit code.

        Raises:
            StateError: what the state directory holds is damaged, or contradicts the configuration.
            ConfigError: a credential is not there; ListenError: an address can not be listened on.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        _log.info("annexd %s is starting, process %d", __version__, os.getpid(), extra={"event": "daemon_starting"})
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            return await self._serve(stop)
        finally:
            self._state.close()
            self._inherited.close()

    async def _serve(self, stop: asyncio.Event) -> int:
        endpoints: list[Endpoint] = []
        daemon = self._make(endpoints)

        def status() -> str:
            if daemon.phase is Phase.STOPPING:
                return "stopping"
            return readiness.status(daemon.assembly, len(daemon.portals))

        reloads = Reloads(daemon.reconfiguration, status)
        heartbeat = notify.Heartbeat(LoopScheduler(asyncio.get_running_loop()), status)
        if self._file is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloads.begin)
        try:
            for endpoint in endpoints:
                await endpoint.listen(self._config)
            if await _ended_before(stop, daemon.assembly.start()):
                for address in addresses(self._config):
                    await daemon.portals.open(address)
                for words in self._inherited.unmatched(addresses(self._config)):
                    _log.error("%s", words, extra={"event": "socket_unmatched"})
                daemon.phase = Phase.SERVING
                if self._announce:
                    self._print_luns(daemon.assembly)
                _log.info(
                    "serving %d logical units", len(daemon.assembly.virtual_devices), extra={"event": "daemon_ready"}
                )
                log_orphans(daemon.assembly)
                notify.ready(status())
                heartbeat.start()
                reloads.allow()
                await stop.wait()
            _log.info("stopping", extra={"event": "daemon_stopping"})
        finally:
            daemon.phase = Phase.STOPPING
            notify.stopping()
            await self._stop(daemon, endpoints)
            heartbeat.close()
            _log.info("stopped", extra={"event": "daemon_stopped"})
        return 0

    def _make(self, endpoints: list[Endpoint]) -> Daemon:
        """Make the parts of the daemon, and put those that are not for hosts to `endpoints`; nothing listens yet.

        Raises:
            StateError: see `run`.
            ConfigError: a credential is not there.
        """
        loop = asyncio.get_running_loop()
        scheduler = LoopScheduler(loop)
        resolved = credentials.resolve(self._config)
        assembly = Assembly(resolved, self._state, scheduler)
        registry = SessionRegistry()
        sessions = Sessions(assembly.units.by_name, scheduler, assembly.acquisitions.host_gone)
        portals = Portals(resolved, registry, sessions, self._inherited)
        daemon = Daemon(assembly, registry, sessions, portals, loop.time())
        if self._file is not None or self._config.control is not None:  # not `annexd try` by itself
            endpoints.append(ControlServer(daemon))
        endpoints.append(MetricsServer(daemon))
        daemon.reconfiguration = Reconfiguration(self._config, resolved, daemon, endpoints, self._file)
        return daemon

    async def _stop(self, daemon: Daemon, endpoints: list[Endpoint]) -> None:
        """End the sessions, then what they used; give up on what does not end."""
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await daemon.reconfiguration.settle()
                await daemon.portals.close_all()
                for endpoint in endpoints:
                    await endpoint.close()
                await daemon.assembly.close()
        except TimeoutError:
            _log.error(
                "not everything ended within %d s; dirty marks are kept for the next start",
                STOP_LIMIT_S,
                extra={"event": "daemon_stop_incomplete"},
            )

    def _print_luns(self, assembly: Assembly) -> None:
        """Print a line per LUN of the first target, and the line that says that hosts can log in."""
        devices = assembly.virtual_devices
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
