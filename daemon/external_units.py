"""What an admin says of external LUs while annexd runs: that a new size is meant, and which LU is expected.

A LU whose size has changed is blocked, for it may be another volume than the one that was recorded. `accept_size` takes
the size that it has now. A region that is to reach to the end, and is the last of its virtual device, grows with it,
and hosts are told (2A/09); blocks in the middle of a virtual device do not move, so other regions stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from backends.external.array import ExternalArray
from backends.external.unit import ExternalLogicalUnit
from backends.regions import Region
from backends.virtual_device import VirtualDevice
from config import model
from config.errors import ConfigError, InUseError, NotSavedError
from daemon.assembly import Assembly
from daemon.callbacks import answered
from daemon.daemon import Daemon
from daemon.region_rows import region_rows

_log = logging.getLogger(__name__)


class _Part(NamedTuple):
    """A region that lies on a LU, of a virtual device."""

    region: Region
    virtual_device: VirtualDevice


async def accept_size(daemon: Daemon, array: ExternalArray, unit: ExternalLogicalUnit) -> bool:
    """Take the size that a LU has now for its own; tell whether it is another one than before.

    Raises:
        InUseError: a virtual device on it is in a pair.
        ConfigError: it has no longer all the blocks that are mapped, or blocks of another length.
        NotServingError: the daemon is starting or stopping.
        NotSavedError: the mapping table can not be written; nothing has changed.
    """
    assembly = daemon.assembly
    async with daemon.reconfiguration.alone():
        blocks, block_bytes = found = unit.other_size or (unit.blocks, unit.block_bytes)
        parts = _parts(assembly, unit)
        for part in parts:
            _check(assembly, part, unit, blocks, block_bytes)
        growing = [part for part in parts if _grows(assembly, part, blocks)]
        if unit.other_size is None and not growing:
            return False
        with ExitStack() as held:
            for part in parts:  # no pair may be formed meanwhile
                assembly.units.leave(part.virtual_device.naa)
                held.callback(assembly.units.stay, part.virtual_device.naa)
            await _record(assembly, growing, blocks)
        for part in growing:
            part.region.blocks = blocks - part.region.device_lba
        array.accept_size(unit, *found)
        for part in growing:
            part.virtual_device.refresh()
        _log.info(
            "%s: its size is %d blocks of %d bytes from now on",
            unit.name,
            blocks,
            block_bytes,
            extra={"event": "external_lu_size_accepted"},
        )
        return True


def _parts(assembly: Assembly, unit: ExternalLogicalUnit) -> list[_Part]:
    return [
        _Part(region, virtual_device)
        for virtual_device in assembly.virtual_devices.values()
        for region in virtual_device.regions
        if region.external_unit is unit
    ]


def _check(assembly: Assembly, part: _Part, unit: ExternalLogicalUnit, blocks: int, block_bytes: int) -> None:
    region, virtual_device = part
    place = f"virtual device {virtual_device.name!r}"
    pair = assembly.pairs.pair_of(virtual_device.naa)
    if pair is not None:
        raise InUseError(place, f"is in pair {pair.number}", "delete the pair first")
    if assembly.pairs.forming:
        raise InUseError(place, "a pair is being formed or ended just now", "try again")
    if region.block_bytes not in {0, block_bytes}:
        problem = f"has blocks of {region.block_bytes} bytes, and {unit.name} now has blocks of {block_bytes}"
        raise ConfigError(place, problem, "give the LU its old block length at the array")
    end = region.device_lba + max(region.blocks, 1)
    if end > blocks:
        problem = f"has the blocks of {unit.name} up to {end}, and there are {blocks} now"
        raise ConfigError(place, problem, "give the LU its old size at the array, or delete the virtual device")


def _grows(assembly: Assembly, part: _Part, blocks: int) -> bool:
    region, virtual_device = part
    row = assembly.table.region(region.number)
    assert row is not None
    is_last = virtual_device.regions[-1] is region
    return is_last and not row.wanted_blocks and 0 < region.blocks < blocks - region.device_lba


async def _record(assembly: Assembly, growing: list[_Part], blocks: int) -> None:
    table = assembly.table
    for region, virtual_device in growing:
        number, wanted = region.number, blocks - region.device_lba
        error = await answered(lambda done, number=number, wanted=wanted: table.resize(number, wanted, done))  # type: ignore[misc] # mypy takes no types of a lambda's defaults
        if error is not None:
            for other, _ in growing:
                table.resize(other.number, other.blocks, lambda _: None)
            raise NotSavedError(f"virtual device {virtual_device.name!r}", f"could not be recorded: {error}")


# --- Which LU is expected ---


def check_ids(assembly: Assembly, virtual_device: model.VirtualDevice, config: model.Config) -> None:
    """Check that the ids may be given that a configuration has for LUs that were never seen.

    Raises:
        ConfigError: another LU was seen meanwhile, or the LU belongs to another virtual device.
    """
    place = f"virtual device {virtual_device.name!r}"
    for unit, identifier in _unnamed(assembly, virtual_device, config):
        other = assembly.arrays[unit.array_name].find(identifier)
        if unit.reachable and unit.id != identifier:
            raise ConfigError(place, f"the LU at {unit.name} has the id {unit.id.hex()}, not {identifier.hex()}")
        if other not in {None, unit}:
            users = [part.virtual_device.name for part in _parts(assembly, other)]
            if users:
                raise InUseError(place, f"LU {identifier.hex()} of the array is part of virtual device {users[0]!r}")


def give_ids(assembly: Assembly, virtual_device: model.VirtualDevice, config: model.Config) -> Callable[[], None]:
    """Expect the LUs with the ids that a configuration gives; give what undoes it. `check_ids` has passed them."""
    undo = ExitStack()
    for unit, identifier in _unnamed(assembly, virtual_device, config):
        if unit.id != identifier:
            array = assembly.arrays[unit.array_name]
            undo.callback(_take_back, array, unit, unit.id)
            array.identify(unit, identifier)
    return undo.close


def _take_back(array: ExternalArray, unit: ExternalLogicalUnit, before: bytes) -> None:
    if not unit.reachable:  # else it was found meanwhile
        array.identify(unit, before)


def _unnamed(
    assembly: Assembly, virtual_device: model.VirtualDevice, config: model.Config
) -> list[tuple[ExternalLogicalUnit, bytes]]:
    """List the LUs under a virtual device that have no id on record, with the one that the configuration gives."""
    device = assembly.virtual_devices[virtual_device.name]
    row = assembly.table.by_name(virtual_device.name)
    assert row is not None
    wanted = region_rows(config, virtual_device)
    return [
        (region.external_unit, bytes.fromhex(want.id))
        for region, known, want in zip(device.regions, row.regions, wanted, strict=True)
        if region.external_unit is not None and want.id and not known.id
    ]
