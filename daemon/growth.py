"""A virtual device that grows with the device under its end: measured again when an admin asks for it.

A device that grew changes nothing by itself: hosts keep the size that they know. On request the last region takes what
its device has more of now, that is recorded, and the hosts are told (2A/09), who find the new size with a rescan.
"""

from __future__ import annotations

import msgspec

from config.errors import ConfigError, InUseError
from daemon.callbacks import answered
from daemon.daemon import Daemon


class Growth(msgspec.Struct):
    """How long a virtual device was and is, in bytes."""

    before_bytes: int
    size_bytes: int


async def grow(daemon: Daemon, name: str) -> Growth | None:
    """Let a virtual device have all that its last device has; None when there is no such virtual device.

    Raises:
        InUseError: it is in a pair, whose legs are of one size.
        ConfigError: it is not ready, its end is not that of a local device, or that can not be measured or recorded.
        NotServingError: the daemon is starting or stopping.
    """
    place = f"virtual device {name!r}"
    assembly = daemon.assembly
    async with daemon.reconfiguration.alone():
        device = assembly.virtual_devices.get(name)
        if device is None:
            return None
        pair = assembly.pairs.pair_of(device.naa)
        if pair is not None:
            raise InUseError(place, f"is in pair {pair.number}", "delete the pair first, and grow both sides")
        fault = device.fault()
        if fault is not None:
            raise ConfigError(place, f"is not ready: {fault}")
        region = device.regions[-1]
        row = assembly.table.region(region.number)
        under = assembly.devices.get(row.device) if row is not None and row.kind == "local" else None
        if row is None or under is None or row.wanted_blocks:
            raise ConfigError(
                place, "does not end with all the rest of a local device, and so has the size that it has"
            )
        error = await answered(under.measure)
        if error is not None:
            raise ConfigError(place, f"its device could not be measured: {error}")
        before = device.blocks
        blocks = under.blocks - region.device_lba
        if blocks > region.blocks:
            error = await answered(
                lambda done: assembly.table.learn(region.number, blocks, region.block_bytes, b"", done)
            )
            if error is not None:
                raise ConfigError(place, f"its size could not be recorded: {error}")
            region.blocks = blocks
            device.refresh()
            assembly.units.by_name()[name].capacity_changed()
        return Growth(before * device.block_bytes, device.blocks * device.block_bytes)
