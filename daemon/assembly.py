"""Everything that a configuration asks for, put together: from the state directory up to the logical units.

What is made here stands still: nothing is sent and no device is opened before `start`. Each part knows only those below
it, so the order here is the order of docs/ARCHITECTURE.md, bottom up, and `close` goes through it top down.

While the daemon runs, parts come and go one by one (`add_…`, `remove_…`); that each of them may is for the caller to
have checked (`daemon.reconfiguration`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

from backends.acquisitions.book import Acquisitions
from backends.array_services import DaemonArrayServices
from backends.devices.block import BlockDevice
from backends.devices.state import DeviceState
from backends.external.array import ExternalArray
from backends.external.fence import FenceKeeper
from backends.mapping import MappingTable, RegionRow, VirtualDeviceRow
from backends.pairs.book import PairBook
from backends.pairs.slot_file import DamagedError
from backends.pairs.stable_file import OsDirectory
from backends.redo_log import RedoLogs
from backends.regions import Region, RegionDevice
from backends.state_directory import StateDirectory, StateError
from backends.unit_records import UnitRecords
from backends.virtual_device import VirtualDevice
from backends.workers import Workers
from config import model
from config.errors import ConfigError
from daemon.array_link import ArrayLink
from daemon.arrays import LinkedArray
from daemon.callbacks import answered, finished, in_time
from daemon.event_loop import LoopScheduler
from daemon.region_rows import raw_lun, region_rows
from daemon.units import Units

WORKER_THREADS = 8
RECORDING_LIMIT_S = 5.0
FIRST_TRY_LIMIT_S = 3.0  # how long a change waits for a new device or array to have worked or failed once
REMOVAL_LIMIT_S = 10.0  # what does not answer is left to end by itself

_log = logging.getLogger(__name__)


class Assembly:
    """The parts of one daemon.

    Attributes:
        table: the mapping table.
        devices, arrays, virtual_devices: by name.
        units: the logical units.
        fences: the reservations on external LUs.
        pairs: the book of all pairs.
        acquisitions: the reads in two commands under way.
    """

    def __init__(self, config: model.Config, state: StateDirectory, scheduler: LoopScheduler) -> None:
        """Make all parts; this blocks while it reads the state directory.

        Args:
            config: checked, with its secrets.
            state: ids, the mapping table and pairs.
            scheduler: the event loop.

        Raises:
            StateError: what the state directory holds is damaged, or contradicts the configuration.
        """
        self._state = state
        self._scheduler = scheduler
        self._workers = Workers(scheduler, WORKER_THREADS)
        self.table = MappingTable(state, self._workers)
        rows = self.table.define(
            [(wanted.name, region_rows(config, wanted)) for wanted in config.virtual_devices],
            {wanted.name: wanted.naa for wanted in config.virtual_devices if wanted.naa},
        )
        self.devices = {device.name: self._make_device(device) for device in config.devices}
        self.fences = fences = FenceKeeper(scheduler)
        self._links = {array.name: self._make_array(array) for array in config.arrays}
        self.arrays = {name: linked.array for name, linked in self._links.items()}
        self.virtual_devices: dict[str, VirtualDevice] = {}
        self._records = UnitRecords(state, self._workers)
        self._redo_logs = self._read_redo_logs()
        self.units = Units(config)
        self.pairs = PairBook(scheduler, self._workers, state.path / "pairs", fences, self.units)
        self.acquisitions = Acquisitions(scheduler, fences)
        self._services = DaemonArrayServices(self.units, self.pairs, self.acquisitions)
        for row in rows:
            self._put(row)
        try:
            self.pairs.load()
        except (DamagedError, OSError) as error:
            raise StateError(state.path / "pairs", str(error)) from error

    async def start(self) -> None:
        """Open every device and connect every array; return when each of them has worked or failed once."""
        await asyncio.gather(*map(_open, self.devices.values()), *map(_connect, self.arrays.values()))
        await self._recorded(self.virtual_devices.values())
        for logical_unit in self.units.by_name().values():
            logical_unit.atomic_writes.replay()
            logical_unit.sanitizer.resume()

    async def close(self) -> None:
        """Stop all of it: acquisitions ended, pairs flushed, their marks closed, fences let go, arrays logged out."""
        await finished(self.acquisitions.close)
        await finished(self.pairs.close)
        for array in self.arrays.values():
            await finished(array.close)
        for device in self.devices.values():
            await finished(device.close)
        self._workers.close()

    def link(self, name: str) -> ArrayLink:
        """Give the path to an array."""
        return self._links[name].link

    # --- While the daemon runs ---

    async def add_device(self, config: model.Device) -> None:
        """Make a device and open it; one that can not be opened is there all the same, blocked."""
        device = self.devices[config.name] = self._make_device(config)
        await in_time(FIRST_TRY_LIMIT_S, f"device {config.name}", _open(device))

    async def open_blocked(self) -> None:
        """Open once more what could not be opened, or is gone."""
        blocked = [device for device in self.devices.values() if device.state is DeviceState.BLOCKED]
        if blocked:
            await asyncio.gather(
                *(in_time(FIRST_TRY_LIMIT_S, f"device {device.name}", _open(device)) for device in blocked)
            )
            await self._recorded(self.virtual_devices.values())

    async def remove_device(self, name: str) -> None:
        """Close a device that nothing lies on."""
        await in_time(REMOVAL_LIMIT_S, f"device {name}", finished(self.devices.pop(name).close))

    async def add_array(self, config: model.Array) -> None:
        """Make an array and connect to it; one that is away is there all the same, and tried again."""
        linked = self._links[config.name] = self._make_array(config)
        self.arrays[config.name] = linked.array
        await in_time(FIRST_TRY_LIMIT_S, f"array {config.name}", _connect(linked.array))

    def change_array(self, config: model.Array) -> None:
        """Reach an array as another entry of its name says."""
        self._links[config.name].change(config)

    async def remove_array(self, name: str) -> None:
        """Log out of an array that nothing lies on."""
        del self._links[name]
        await in_time(REMOVAL_LIMIT_S, f"array {name}", finished(self.arrays.pop(name).close))

    async def add_virtual_device(self, config: model.Config, wanted: model.VirtualDevice) -> None:
        """Make a virtual device and its logical unit, with the ids that the mapping table gives them.

        Raises:
            ConfigError: the mapping table can not be written; then there is none.
        """
        name = wanted.name
        known = self.table.by_name(name) is not None
        rows: list[VirtualDeviceRow] = []
        regions, naa = region_rows(config, wanted), wanted.naa or ""
        error = await answered(lambda done: rows.append(self.table.add(name, regions, done, naa)))
        if error is not None:
            if not known:
                await self._forget(name)
            raise ConfigError(f"virtual device {name!r}", f"could not be recorded: {error}")
        await self._recorded([self._put(rows[0])])

    async def remove_virtual_device(self, name: str, *, forget: bool = True) -> None:
        """Take down a virtual device that no host is shown.

        Args:
            name: of the virtual device.
            forget: drop its row of the mapping table, so that its number and its id are never used again.
        """
        device = self.virtual_devices[name]
        unit = self.units.by_name()[name]
        # An aborted write that still runs below must not land in what may lie on these blocks next.
        await in_time(REMOVAL_LIMIT_S, f"virtual device {name}", finished(unit.drain))
        del self.virtual_devices[name]
        self.units.remove(device.naa)
        device.close()
        others = {unit for other in self.virtual_devices.values() for unit in other.external_units()}
        for external in device.external_units():
            if external not in others:
                self.arrays[external.array_name].unexpect(external)
        if forget:
            await self._forget(name)
            await self._forget_record(device.naa)

    async def forget(self, row: VirtualDeviceRow) -> None:
        """Drop the row of a virtual device that is not there.

        Raises:
            ConfigError: the mapping table can not be written; the row is gone all the same until the next start.
        """
        error = await answered(lambda done: self.table.forget(row.name, done))
        if error is not None:
            raise ConfigError(f"virtual device {row.name!r}", f"could not be forgotten for good: {error}")
        await self._forget_record(row.naa_bytes)

    # --- Inside ---

    async def _forget(self, name: str) -> None:
        error = await answered(lambda done: self.table.forget(name, done))
        if error is not None:
            _log.error(
                "virtual device %s is deleted, and the mapping table still has it: %s",
                name,
                error,
                extra={"event": "mapping_not_stored"},
            )

    async def _forget_record(self, naa: bytes) -> None:
        # Waited for: the id may come back with the next change, and what that saves must stay.
        remove = partial(self._records.forget, naa)
        error = await answered(lambda done: self._workers.submit(remove, done))
        if error is not None:
            _log.error("of a deleted virtual device there is a record left: %s", error, extra={"event": "record_left"})

    def _read_redo_logs(self) -> RedoLogs:
        path = self._state.path / "redo"
        try:
            return RedoLogs(OsDirectory(path), self._workers)
        except OSError as error:
            raise StateError(path, str(error)) from error

    def _make_device(self, config: model.Device) -> BlockDevice:
        return BlockDevice(config.name, config.path, self._scheduler, self._workers)

    def _make_array(self, config: model.Array) -> LinkedArray:
        return LinkedArray(config, self._state.initiator_name, self._scheduler, self.fences)

    def _put(self, row: VirtualDeviceRow) -> VirtualDevice:
        """Make the virtual device of a row, and the logical unit on it."""
        regions = [Region.from_row(region, self._device_of(region), self.table) for region in row.regions]
        device = self.virtual_devices[row.name] = VirtualDevice(row.name, row.number, row.naa_bytes, regions)
        record = self._records.of(row.naa_bytes)
        try:
            unit = self.units.add(device, record)
        except ValueError as error:
            raise record.damaged(str(error)) from error
        unit.logical_unit.array_services = self._services
        unit.logical_unit.use_redo_log(self._redo_logs.of(row.naa_bytes))
        return device

    def _device_of(self, region: RegionRow) -> RegionDevice:
        if region.kind == "local":
            return self.devices[region.device]
        return self.arrays[region.array].expect(raw_lun(region.lun), bytes.fromhex(region.id))

    async def _recorded(self, devices: Iterable[VirtualDevice]) -> None:
        """Wait until what first contact with the devices has found is in the mapping table."""
        changed = asyncio.Event()
        devices = list(devices)

        def look(_: VirtualDevice) -> None:
            changed.set()

        for virtual_device in devices:
            virtual_device.listen(look)
        try:
            async with asyncio.timeout(RECORDING_LIMIT_S):
                while any(_is_recording(virtual_device) for virtual_device in devices):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            _log.warning(
                "the mapping table is still being written; LUs without a capacity wait for it",
                extra={"event": "mapping_slow"},
            )
        finally:
            for virtual_device in devices:
                virtual_device.unlisten(look)


def _is_recording(virtual_device: VirtualDevice) -> bool:
    return any(
        region.state is DeviceState.PENDING and region.device.state is DeviceState.READY
        for region in virtual_device.regions
    )


async def _open(device: BlockDevice) -> None:
    error = await answered(device.open)
    if error is not None:
        _log.error("device %s: %s", device.name, error, extra={"event": "device_unusable"})


async def _connect(array: ExternalArray) -> None:
    array.start()
    await finished(array.when_settled)
