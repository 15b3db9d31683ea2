"""What of annexd does not serve just now, and why, in words: for the service manager's status line.

annexd is ready when hosts can log in and it is known of each pair whether it is verified: whether the array has
confirmed its fences (I6). One that is not waits for its array, and its LUs answer NOT READY until then, or what its
other leg knows.

After a fence has lapsed, as a stop of annexd makes it do, a pair compares its sides in whole (I10), which takes hours.
Ready does not wait for that: the fences are taken again before a write is acknowledged, and until the sides are known
to be equal, reads come from the current one only, which has every acknowledged write. The status says so.
"""

from __future__ import annotations

from backends.devices.state import DeviceState
from backends.pairs.copying import Comparison
from backends.pairs.pair import Pair
from daemon.assembly import Assembly
from scsi.array_commands import PairState

MOST_NAMED = 3  # the status is one line


def status(assembly: Assembly, portals: int) -> str:
    """Give the status of a daemon that serves.

    Args:
        assembly: its parts.
        portals: how many addresses it listens on.
    """
    serving = f"serving {_number(len(assembly.virtual_devices), 'logical unit')} on {_number(portals, 'portal')}"
    lacking = waiting(assembly) + comparing(assembly)
    more = [f"{len(lacking) - MOST_NAMED} more"] if len(lacking) > MOST_NAMED else []
    return "; ".join([serving, *lacking[:MOST_NAMED], *more])


def waiting(assembly: Assembly) -> list[str]:
    """List what waits, or needs an admin: pairs first, then the logical units that are in none of those."""
    lacking = [(pair, words) for pair in assembly.pairs.pairs() if (words := _of_pair(pair))]
    named = {unit.logical_unit.naa for pair, _ in lacking for unit in pair.units if unit is not None}
    return [words for _, words in lacking] + [
        f"logical unit {name}: {fault.detail or fault.fault.value}"
        for name, device in assembly.virtual_devices.items()
        if device.naa not in named and (fault := device.fault()) is not None
    ]


def comparing(assembly: Assembly) -> list[str]:
    """List the pairs that serve from one side until they have compared both."""
    return [
        f"pair {pair.number} compares its sides, {100 * _compared_blocks(pair) // max(pair.record.blocks, 1)} % done"
        for pair in assembly.pairs.pairs()
        if pair.record.unverified and pair.state is PairState.PAIR and not _of_pair(pair)
    ]


def _compared_blocks(pair: Pair) -> int:
    walk = pair.synchronizer.walk
    return walk.done_blocks if isinstance(walk, Comparison) else 0


def _of_pair(pair: Pair) -> str:
    """Say what a pair waits for, "" when it is verified."""
    if pair.damaged:
        return f"pair {pair.number}: its record is damaged, delete it"
    if None in pair.units:
        return f"pair {pair.number}: a virtual device of it is not configured"
    external = [unit for units in pair.fences.units for unit in units]
    away = sorted({unit.array_name for unit in external if unit.state is not DeviceState.READY})
    if away:
        return f"pair {pair.number} waits for array {', '.join(away)}"
    if pair.fences.lapsed:
        unfenced = sorted({unit.array_name for unit in external})
        return f"pair {pair.number} waits for its fence at array {', '.join(unfenced)}"
    for unit in pair.units:
        fault = unit.virtual_device.fault() if unit is not None else None
        if fault is not None:
            return f"pair {pair.number}: {fault.detail or fault.fault.value}"
    return ""


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
