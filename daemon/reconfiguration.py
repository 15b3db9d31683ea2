"""The configuration in force, and how it becomes another one while hosts are logged in.

How this works. One change at a time:

    1. the wanted configuration is checked as a whole, then against what is alive; nothing has been touched
    2. what is new and can fail is made: devices, arrays, virtual devices, portals, endpoints. A failure undoes it all,
       last first
    3. the file is written. A failure undoes it all, too
    4. what can not fail follows: hosts are shown what they are to see now, sessions that may not go on end, and what
       is gone from the configuration is taken down, from the hosts to the storage

So a change that does not work out has never been seen by any host.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from backends.mapping import MappingTable
from config import changes, checks, model, store
from config.changes import Change
from config.errors import ConfigError, NotSavedError, NotServingError, RevisionError
from daemon import credentials, refusals
from daemon.assembly import REMOVAL_LIMIT_S
from daemon.callbacks import in_time
from daemon.daemon import Daemon, Endpoint, Phase
from daemon.external_units import give_ids
from daemon.portals import Address, addresses

MOST_LOGGED_CHANGES = 100

Edit = Callable[[model.Config], model.Config]

_log = logging.getLogger(__name__)


class Applied(NamedTuple):
    """What a change came to: the revision that is in force after it, and what it changed."""

    revision: int
    changes: list[Change]


class Reconfiguration:
    """Changes a running daemon.

    Attributes:
        config: in force now; never to be changed in place.
        revision: how often it was changed since the start, counted from 1.
    """

    def __init__(
        self,
        config: model.Config,
        resolved: model.Config,
        daemon: Daemon,
        endpoints: Sequence[Endpoint] = (),
        file: Path | None = None,
    ) -> None:
        """Begin with what the daemon was made from.

        Args:
            config: checked.
            resolved: the same with its secrets (`daemon.credentials`).
            daemon: its parts.
            endpoints: that listen as `config` says.
            file: where changes are saved; None for a daemon that has none.
        """
        table = daemon.assembly.table
        self.config = _identified(config, table)
        self.revision = 1
        self.file = file
        self._resolved = _identified(resolved, table)
        self._ids_are_saved = not _lacks_ids(config)
        self._daemon = daemon
        self._endpoints = endpoints
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Applied]] = set()

    async def change(self, edit: Edit, *, dry_run: bool = False, expected_revision: int | None = None) -> Applied:
        """Make the configuration another one, and save it.

        Args:
            edit: gets a copy of the configuration in force and gives the wanted one. It is called on a thread, and
                looks at nothing else.
            dry_run: check everything and say what would change, and change nothing.
            expected_revision: refuse when another one is in force.

        Raises:
            ConfigError: it is not valid, or something of it can not be had.
            InUseError: what is to go is in use.
            NotServingError: the daemon is starting or stopping.
            RevisionError: see `expected_revision`.
            NotSavedError: the file can not be written.

        After any of these the old configuration is in force.
        """
        return await self._whole(self._change(edit, dry_run, expected_revision, self.file))

    async def reload(self) -> Applied:
        """Read the file again, and apply what differs; devices that could not be opened are tried again.

        Raises:
            ConfigError: see `change`; also when the file is bad.
        """
        assert self.file is not None
        async with self._lock:
            if self._daemon.phase is Phase.SERVING:
                await self._daemon.assembly.open_blocked()
        wanted = await asyncio.to_thread(store.load, self.file)
        applied = await self._whole(self._change(lambda _: wanted, False, None, None))
        self._ids_are_saved = not _lacks_ids(wanted)
        return applied

    async def settle(self) -> None:
        """Wait for a change under way, for the daemon's stop; with that no other begins."""
        assert self._daemon.phase is Phase.STOPPING
        async with self._lock:
            pass

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Keep changes out.

        Raises:
            NotServingError: the daemon is starting or stopping.
        """
        async with self._lock:
            if self._daemon.phase is not Phase.SERVING:
                raise NotServingError("annexd", f"is {self._daemon.phase.value}", "try again later")
            yield

    async def _whole(self, work: Coroutine[Any, Any, Applied]) -> Applied:
        """Do it in a task of its own: an asker that goes away does not stop it half-way."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return await asyncio.shield(task)

    def _task_done(self, task: asyncio.Task[Applied]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:  # whoever asked may be gone
            _log.debug("configuration: not changed: %s", task.exception())

    async def _change(self, edit: Edit, dry_run: bool, expected_revision: int | None, file: Path | None) -> Applied:
        async with self.alone():
            if expected_revision not in {None, self.revision}:
                raise RevisionError("revision", f"is {self.revision} by now, not {expected_revision}", "look again")
            old = self.config
            # A thread may take its time over a large document; the event loop may not.
            new, resolved, made = await asyncio.to_thread(_wanted, old, edit, self._daemon.assembly.table)
            refusals.check_alive(old, new, self._daemon.assembly)
            if dry_run or (new == old and resolved == self._resolved):
                return Applied(self.revision, made)
            async with AsyncExitStack() as undo:
                await self._prepare(old, resolved, undo)
                if file is not None:
                    if not self._ids_are_saved and _removed(old.virtual_devices, new.virtual_devices):
                        # So that the backup of what goes now brings it back as the disk that hosts knew.
                        await _save(file, old)
                    await _save(file, new)
                    self._ids_are_saved = True
                undo.pop_all()
            before, self.config, self._resolved = self._resolved, new, resolved
            self.revision += 1
            await self._follow(before, resolved)
            for change in made[:MOST_LOGGED_CHANGES]:
                _log.info("configuration: %s", change, extra={"event": "configuration_changed"})
            _log.info(
                "configuration: revision %d, %d changes",
                self.revision,
                len(made),
                extra={"event": "configuration_applied"},
            )
            return Applied(self.revision, made)

    async def _prepare(self, old: model.Config, new: model.Config, undo: AsyncExitStack) -> None:
        """Make what is new.

        Raises:
            ConfigError: one of it can not be had; what was made is in `undo`.
        """
        assembly, units = self._daemon.assembly, self._daemon.assembly.units
        # At once: by the next event a LU may have been seen.
        for virtual_device in _moved(new.virtual_devices, old.virtual_devices):
            undo.callback(give_ids(assembly, virtual_device, new))
        for name in _removed(old.virtual_devices, new.virtual_devices):
            naa = assembly.virtual_devices[name].naa
            units.leave(naa)
            undo.callback(units.stay, naa)
        for device in _moved(old.devices, new.devices):
            await assembly.remove_device(device.name)
            undo.push_async_callback(assembly.add_device, device)
        devices = _added(old.devices, new.devices) + _moved(new.devices, old.devices)
        arrays = _added(old.arrays, new.arrays)
        await asyncio.gather(*map(assembly.add_device, devices), *map(assembly.add_array, arrays))
        for device in devices:
            undo.push_async_callback(assembly.remove_device, device.name)
        for array in arrays:
            undo.push_async_callback(assembly.remove_array, array.name)
        await self._add_virtual_devices(new, _added(old.virtual_devices, new.virtual_devices), undo)
        await self._open_portals(addresses(new), undo)
        if (old.control, old.metrics) != (new.control, new.metrics):
            for endpoint in self._endpoints:
                await endpoint.listen(new)
                undo.push_async_callback(_tried, endpoint.listen, old)

    async def _add_virtual_devices(
        self, new: model.Config, wanted: Sequence[model.VirtualDevice], undo: AsyncExitStack
    ) -> None:
        assembly = self._daemon.assembly
        known = {row.name for row in assembly.table.rows()}
        # Side by side, so that one writing of the mapping table does for many.
        failures = await asyncio.gather(
            *(assembly.add_virtual_device(new, virtual_device) for virtual_device in wanted), return_exceptions=True
        )
        for virtual_device, failure in zip(wanted, failures, strict=True):
            if failure is None:
                name = virtual_device.name
                undo.push_async_callback(assembly.remove_virtual_device, name, forget=name not in known)
        for failure in failures:
            if failure is not None:
                raise failure

    async def _open_portals(self, wanted: Sequence[Address], undo: AsyncExitStack) -> None:
        portals = self._daemon.portals
        missing = [address for address in wanted if portals.find(address) is None]
        ports = {port for _, port in missing}
        for address, _ in portals:
            # 192.0.2.1:3260 keeps 0.0.0.0:3260 from being listened on.
            if address not in wanted and address[1] in ports:
                portals.make_way(address)
                undo.push_async_callback(_tried, portals.resume, address)
        for address in missing:
            await portals.open(address)
            undo.push_async_callback(portals.close, address)

    async def _follow(self, old: model.Config, new: model.Config) -> None:
        """Bring about what can not fail."""
        assembly, portals = self._daemon.assembly, self._daemon.portals
        for array in _moved(new.arrays, old.arrays):
            assembly.change_array(array)
        assembly.units.config = new
        portals.use(new)
        self._daemon.sessions.readmit()
        wanted = addresses(new)
        await asyncio.gather(
            *(
                in_time(REMOVAL_LIMIT_S, f"portal {model.join_portal(*address)}", portals.close(address))
                for address, _ in portals
                if address not in wanted
            )
        )
        virtual_devices = _removed(old.virtual_devices, new.virtual_devices)
        await asyncio.gather(*map(assembly.remove_virtual_device, virtual_devices))
        await asyncio.gather(*map(assembly.remove_array, _removed(old.arrays, new.arrays)))
        gone = _removed(old.devices, new.devices)
        await asyncio.gather(*map(assembly.remove_device, gone))
        if gone:
            # What has another name now could not be opened while it had the old one.
            await assembly.open_blocked()


_Argument = TypeVar("_Argument")
_Named = TypeVar("_Named", model.Device, model.Array, model.VirtualDevice)


def _added(old: Iterable[_Named], new: Iterable[_Named]) -> list[_Named]:
    names = {entry.name for entry in old}
    return [entry for entry in new if entry.name not in names]


def _removed(old: Iterable[_Named], new: Iterable[_Named]) -> list[str]:
    return [entry.name for entry in _added(new, old)]


def _moved(here: Iterable[_Named], there: Iterable[_Named]) -> list[_Named]:
    """List the entries of `here` that are there as well, and say something else."""
    others = {entry.name: entry for entry in there}
    return [entry for entry in here if others.get(entry.name, entry) != entry]


def _wanted(old: model.Config, edit: Edit, table: MappingTable) -> tuple[model.Config, model.Config, list[Change]]:
    """Give what an edit makes of a configuration, checked; the same with its secrets; and how it differs.

    Raises:
        ConfigError: it is not valid.
    """
    new = _typed(edit(_copy(old)))
    ids = {virtual_device.name: virtual_device.naa for virtual_device in old.virtual_devices}
    for virtual_device in new.virtual_devices:
        virtual_device.naa = virtual_device.naa or ids.get(virtual_device.name)
    refusals.check_references(old, new)
    checks.check(new)
    made = changes.difference(old, new)
    new = _identified(new, table)
    return new, credentials.resolve(new), made


def _identified(config: model.Config, table: MappingTable) -> model.Config:
    """Give a copy in which each virtual device has its id: that of its row, or a new one."""
    config = _copy(config)
    for virtual_device in config.virtual_devices:
        if virtual_device.naa is None:
            row = table.by_name(virtual_device.name)
            virtual_device.naa = row.naa if row is not None else table.new_id()
    return config


def _lacks_ids(config: model.Config) -> bool:
    return any(virtual_device.naa is None for virtual_device in config.virtual_devices)


def _copy(config: model.Config) -> model.Config:
    return msgspec.convert(msgspec.to_builtins(config), model.Config)


def _typed(config: model.Config) -> model.Config:
    """Give a copy of what an edit gave, in which every value has the type that the model says.

    Raises:
        ConfigError: one has not.
    """
    try:
        return _copy(config)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        raise ConfigError(where.rstrip("`").lstrip(".") or "configuration", problem) from None


async def _save(file: Path, config: model.Config) -> None:
    try:
        await asyncio.to_thread(store.save, file, config)
    except ConfigError as error:
        _log.error(
            "not changed, the old configuration stays in force: %s", error, extra={"event": "configuration_not_saved"}
        )  # the asker may be gone by now
        raise NotSavedError(error.place, error.problem, error.remedy) from None


async def _tried(step: Callable[[_Argument], Awaitable[None]], argument: _Argument) -> None:
    """Do a step of an undo; when it fails the others are done all the same."""
    try:
        await step(argument)
    except ConfigError as error:
        _log.error("while a change was undone: %s", error, extra={"event": "configuration_undo_failed"})
