"""Everything that a configuration asks for, put together: from the state directory up to the logical units.

What is made here stands still: nothing is sent and no device is opened before `start`. Each part knows only those below
it, so the order here is the order of docs/ARCHITECTURE.md, bottom up, and `close` goes through it top down.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from typing import Any

from backends.acquisitions.book import Acquisitions
from backends.array_services import DaemonArrayServices
from backends.devices.block import BlockDevice
from backends.devices.state import DeviceState
from backends.external.array import ExternalArray
from backends.external.fence import FenceKeeper
from backends.mapping import MappingTable, RegionRow, VirtualDeviceRow
from backends.pairs.book import PairBook
from backends.pairs.slot_file import DamagedError
from backends.regions import Region, RegionDevice
from backends.state_directory import StateDirectory, StateError
from backends.virtual_device import VirtualDevice
from backends.workers import Workers
from config import model
from daemon.array_link import ArrayLink
from daemon.event_loop import LoopScheduler
from daemon.units import Units
from scsi.iscsi.chap import Credentials
from scsi.iscsi.initiator_options import InitiatorOptions
from scsi.volume import VolumeError

WORKER_THREADS = 8
RECORDING_LIMIT_S = 5.0

_log = logging.getLogger(__name__)


class Assembly:
    """The parts of one daemon.

    Attributes:
        config: what they were made from.
        units: the logical units.
        acquisitions: the reads in two commands under way.
    """

    def __init__(self, config: model.Config, state: StateDirectory, scheduler: LoopScheduler) -> None:
        """Make all parts; this blocks while it reads the state directory.

        Raises:
            StateError: what the state directory holds is damaged, or contradicts the configuration.
        """
        self.config = config
        self._state = state
        self._scheduler = scheduler
        self._workers = Workers(scheduler, WORKER_THREADS)
        table = MappingTable(state, self._workers)
        rows = table.define([(wanted.name, _regions(config, wanted)) for wanted in config.virtual_devices])
        self._devices = {
            device.name: BlockDevice(device.name, device.path, scheduler, self._workers) for device in config.devices
        }
        self._arrays = {array.name: self._make_array(array) for array in config.arrays}
        self.virtual_devices = [self._make_virtual_device(row, table) for row in rows]
        self.units = Units(config)
        for virtual_device in self.virtual_devices:
            self.units.add(virtual_device)
        fences = FenceKeeper(scheduler)
        self._pairs = PairBook(scheduler, self._workers, state.path / "pairs", fences, self.units)
        self.acquisitions = Acquisitions(scheduler, fences)
        services = DaemonArrayServices(self.units, self._pairs, self.acquisitions)
        for unit in self.units.units():
            unit.logical_unit.array_services = services
        try:
            self._pairs.load()
        except (DamagedError, OSError) as error:
            raise StateError(state.path / "pairs", str(error)) from error

    async def start(self) -> None:
        """Open every device and connect every array; return when each of them has worked or failed once."""
        tried = [asyncio.get_running_loop().create_future() for _ in (*self._devices, *self._arrays)]
        calls = [_resolver(future) for future in tried]
        for device, call in zip(self._devices.values(), calls, strict=False):
            device.open(_opened(device, call))
        for array, call in zip(self._arrays.values(), calls[len(self._devices) :], strict=True):
            array.start()
            array.when_settled(call)
        await asyncio.gather(*tried)
        await self._recorded()

    async def close(self) -> None:
        """Stop all of it: acquisitions ended, pairs flushed, their marks closed, fences let go, arrays logged out."""
        await _finished(self.acquisitions.close)
        await _finished(self._pairs.close)
        for array in self._arrays.values():
            await _finished(array.close)
        for device in self._devices.values():
            await _finished(device.close)
        self._workers.close()

    def _make_array(self, array: model.Array) -> ExternalArray:
        host, port = model.split_portal(array.portal)
        options = InitiatorOptions(
            initiator_name=self._state.initiator_name,
            target_name=array.target,
            isid=_isid(array.name),
            chap=_credentials(array.chap),
            mutual_chap=_credentials(array.mutual_chap),
            header_digest=array.header_digest,
            data_digest=array.data_digest,
        )
        link = ArrayLink(array.name, host, port, options)
        return ExternalArray(array.name, link, self._scheduler, array.command_timeout_s)

    def _make_virtual_device(self, row: VirtualDeviceRow, table: MappingTable) -> VirtualDevice:
        regions = [Region.from_row(region, self._device_of(region), table) for region in row.regions]
        return VirtualDevice(row.name, row.number, row.naa_bytes, regions)

    def _device_of(self, region: RegionRow) -> RegionDevice:
        if region.kind == "local":
            return self._devices[region.device]
        array = self._arrays[region.array]
        return array.expect(_raw_lun(region.lun), bytes.fromhex(region.id))

    async def _recorded(self) -> None:
        """Wait until what first contact with the devices has found is in the mapping table."""
        changed = asyncio.Event()
        for virtual_device in self.virtual_devices:
            virtual_device.listen(lambda _: changed.set())
        try:
            async with asyncio.timeout(RECORDING_LIMIT_S):
                while any(_is_recording(virtual_device) for virtual_device in self.virtual_devices):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            _log.warning("the mapping table is still being written; LUs without a capacity wait for it")


def _regions(config: model.Config, wanted: model.VirtualDevice) -> list[RegionRow]:
    """Give the rows that the mapping table is to have for a virtual device."""
    paths = {device.name: device.path for device in config.devices}
    return [
        RegionRow(
            kind="local" if region.device is not None else "external",
            device=region.device or "",
            path=paths.get(region.device or "", ""),
            array=region.array or "",
            lun=region.lun or 0,
            first_lba=region.first_lba,
            wanted_blocks=region.blocks or 0,
            id=(region.id or "").lower(),
        )
        for region in wanted.regions
    ]


def _is_recording(virtual_device: VirtualDevice) -> bool:
    return any(
        region.state is DeviceState.PENDING and region.device.state is DeviceState.READY
        for region in virtual_device.regions
    )


def _opened(device: BlockDevice, call: Callable[[], None]) -> Callable[[VolumeError | None], None]:
    def opened(error: VolumeError | None) -> None:
        if error is not None:
            _log.error("device %s: %s", device.name, error)
        call()

    return opened


def _raw_lun(lun: int) -> bytes:
    """Give the 8 bytes of a LUN. Spec: SAM-5 4.7.7.1 peripheral device addressing, 4.7.7.2 flat space addressing."""
    first = lun if lun < 256 else 0x4000 | lun
    return first.to_bytes(2, "big") + bytes(6)


def _isid(array_name: str) -> bytes:
    """Give the ISID of the path to an array: the same after every restart, since reservations belong to it.

    Spec: RFC 7143 11.12.5 "ISID", format 10b, random.
    """
    return b"\x80" + hashlib.sha256(array_name.encode()).digest()[:5]


def _credentials(chap: model.Chap | None) -> Credentials | None:
    return Credentials(chap.name, chap.secret.encode()) if chap else None


def _resolver(future: asyncio.Future[Any]) -> Callable[[], None]:
    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    return resolve


async def _finished(begin: Callable[[Callable[[], None]], None]) -> None:
    """Begin something that calls back when it is done, and wait for that."""
    finished = asyncio.get_running_loop().create_future()
    begin(_resolver(finished))
    await finished
