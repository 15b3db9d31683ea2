"""The logical units of the daemon, and the virtual devices under them: a `backends.pairs.unit_directory`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from backends.devices.state import DeviceState
from backends.virtual_device import VirtualDevice
from config import model
from daemon import hosts
from scsi.logical_unit import LogicalUnit
from scsi.saved_parameters import SavedParameters
from scsi.unit_attention import INQUIRY_DATA_CHANGED


class Unit(NamedTuple):
    """A logical unit and the virtual device that it sits on."""

    logical_unit: LogicalUnit
    virtual_device: VirtualDevice


class _Changes:
    """Tells the hosts of a unit when it serves with another size or other commands than before."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._blocks = unit.virtual_device.blocks
        self._commands = _commands(unit.virtual_device)

    def changed(self, device: VirtualDevice) -> None:
        if device.state is not DeviceState.READY:
            return
        if device.blocks != self._blocks:
            known, self._blocks = self._blocks, device.blocks
            if known:
                self._unit.logical_unit.capacity_changed()
        if _commands(device) != self._commands:
            self._commands = _commands(device)
            self._unit.logical_unit.establish_unit_attention(*INQUIRY_DATA_CHANGED)


def _commands(device: VirtualDevice) -> tuple[bool, bool]:
    """Say which commands there are: those that unmap, and those that need blocks to be claimed."""
    return device.deallocation is not None, device.claimable


class Units:
    """One logical unit per virtual device, found by the NAA id that both have."""

    def __init__(self, config: model.Config) -> None:
        self.config = config  # in force: who is shown what
        self._by_naa: dict[bytes, Unit] = {}
        self._leaving: set[bytes] = set()

    def add(self, virtual_device: VirtualDevice, saved: SavedParameters) -> Unit:
        """Put a logical unit on a virtual device; `saved` is what it keeps across restarts."""
        unit = Unit(LogicalUnit(virtual_device, virtual_device.naa, saved=saved), virtual_device)
        virtual_device.listen(_Changes(unit).changed)
        self._by_naa[virtual_device.naa] = unit
        return unit

    def leave(self, naa: bytes) -> None:
        """Let a unit that is about to be deleted not be found by its id any more: no pair is formed of it now."""
        self._leaving.add(naa)

    def stay(self, naa: bytes) -> None:
        """Let a unit be found again that was about to be deleted."""
        self._leaving.discard(naa)

    def remove(self, naa: bytes) -> None:
        """Forget a unit that no host is shown."""
        del self._by_naa[naa]
        self._leaving.discard(naa)

    def by_name(self) -> Mapping[str, LogicalUnit]:
        """Give the logical units by the name of their virtual device."""
        return {unit.virtual_device.name: unit.logical_unit for unit in self._by_naa.values()}

    def unit(self, naa: bytes) -> Unit | None:
        """Find the unit with this NAA id."""
        return None if naa in self._leaving else self._by_naa.get(naa)

    def units(self) -> Iterable[Unit]:
        """List every unit, in the order in which they were made."""
        return [unit for naa, unit in self._by_naa.items() if naa not in self._leaving]

    def read_write_hosts(self, naa: bytes) -> frozenset[str]:
        """Name the hosts to which an explicit ACL maps the unit read-write."""
        unit = self._by_naa.get(naa)
        return hosts.read_write_hosts(self.config, unit.virtual_device.name) if unit else frozenset()

    def traffic(self, naas: Sequence[bytes]) -> Callable[[], int]:
        """Give what counts the reads and writes of hosts on these units, and on all others on the same devices."""
        units = [unit for naa in naas if (unit := self._by_naa.get(naa)) is not None]
        devices = {id(region.device) for unit in units for region in unit.virtual_device.regions}
        counters = [
            unit.logical_unit.counters
            for unit in self._by_naa.values()
            if any(id(region.device) in devices for region in unit.virtual_device.regions)
        ]
        return lambda: sum(counter.reads + counter.writes for counter in counters)
