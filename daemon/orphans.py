"""Orphans: rows of the mapping table whose virtual device the configuration does not have any more.

A virtual device that was taken out of the file while annexd was down keeps its row, for the file may have been wrong:
once its name stands there again it is the disk that hosts knew. Until then it holds no blocks and no device, and hosts
do not see it; only its name, its id and its numbers are taken. An admin who does not want it back has it forgotten.
"""

from __future__ import annotations

import logging

import msgspec

from backends.mapping import VirtualDeviceRow
from config.errors import ConfigError, InUseError, NotSavedError
from daemon.assembly import Assembly
from daemon.daemon import Daemon

_log = logging.getLogger(__name__)


class Orphan(msgspec.Struct):
    """One of them: `regions` in words, `pair` the number of the pair that it is a leg of."""

    name: str
    number: int
    naa: str
    regions: list[str]
    pair: int | None


def orphans(assembly: Assembly) -> list[Orphan]:
    """List them."""
    return [
        Orphan(row.name, row.number, row.naa, list(map(str, row.regions)), _pair(assembly, row))
        for row in assembly.table.rows()
        if row.name not in assembly.virtual_devices
    ]


def log_orphans(assembly: Assembly) -> None:
    """Tell of each at the start."""
    for orphan in orphans(assembly):
        _log.warning(
            "virtual device %s (naa.%s) is not in the configuration any more; its ids are kept for it",
            orphan.name,
            orphan.naa,
            extra={"event": "vdev_orphaned"},
        )


async def forget(daemon: Daemon, name: str) -> bool:
    """Drop an orphan's row: its name and its id are free, its numbers never used again. Tell whether there was one.

    Raises:
        InUseError: it is a leg of a pair.
        NotServingError: the daemon is starting or stopping.
        NotSavedError: it is forgotten, but comes back with the next start.
    """
    assembly = daemon.assembly
    async with daemon.reconfiguration.alone():
        row = assembly.table.by_name(name)
        if row is None or name in assembly.virtual_devices:
            return False
        pair = _pair(assembly, row)
        if pair is not None:
            raise InUseError(f"virtual device {name!r}", f"is in pair {pair}", "delete the pair first")
        try:
            await assembly.forget(row)
        except ConfigError as error:
            raise NotSavedError(error.place, error.problem, error.remedy) from None
        return True


def _pair(assembly: Assembly, row: VirtualDeviceRow) -> int | None:
    pair = assembly.pairs.pair_of(row.naa_bytes)
    return pair.number if pair is not None else None
