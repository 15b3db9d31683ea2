"""What annexd has done, in numbers: one tree, made when it is asked for, out of counters that cost next to nothing.

Each logical unit, each LU of an array and each session counts for itself (`scsi.counters`, `scsi.iscsi.session`); this
module adds up. All counts go up only, until the thing that they are about is gone. The sessions of a host come and go:
`HostHistory` keeps what those that have ended did.

A time that is called busy is what all commands took together, in seconds, from a command's arrival (with its data) to
its answer: with N of them at a time it grows by N seconds a second. Divided by the number of commands it is the mean
latency. Latencies are sampled (`daemon.latency_sampler`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from backends.devices.block import BlockDevice
from backends.devices.state import DeviceState
from backends.external.array import ArrayState, ExternalArray
from backends.external.unit import ExternalLogicalUnit
from backends.pairs.pair import Pair
from daemon.daemon import Daemon
from daemon.host_history import HostStatistics
from daemon.pair_progress import progress_of
from daemon.traffic import Latency, Traffic, named_errors
from scsi.array_commands import PairFlag
from scsi.counters import Counters, Latencies
from scsi.logical_unit import LogicalUnit


class DeviceStatistics(msgspec.Struct, kw_only=True):
    """A local device; its traffic is that of the logical units on it."""

    ready: bool
    failed_flushes: int


class UnitStatistics(Traffic, kw_only=True):
    """A logical unit, or a LU of an array."""

    ready: bool


class ExternalUnitStatistics(UnitStatistics, kw_only=True):
    """A LU of an array; `fenced` says whether annex holds its reservation, `fence_wanted` whether it has to."""

    array: str
    lun: int
    fence_wanted: bool
    fenced: bool


class ArrayStatistics(Traffic, kw_only=True):
    """An array: the sum of its LUs. `queue` counts what annex has sent, or is about to, on the array's path."""

    ready: bool
    units: int
    units_ready: int
    fences_wanted: int = 0
    fences_held: int = 0


class PathStatistics(Traffic, kw_only=True):
    """A path to an array: what its LUs did by it, `logins` that worked, `failures` of logins and sessions."""

    array: str
    portal: str
    up: bool
    logins: int
    failures: int


class PairStatistics(Traffic, kw_only=True):
    """A pair: the traffic of its primary, what its own copies and comparisons have done, and how it stands.

    Attributes:
        copied_blocks, compared_blocks: from leg to leg, and on both; none of it is hosts' traffic.
        direction, doing, rate_bytes, seconds_left, stands_back: see `PairProgress`.
    """

    state: str
    fence_level: str
    fence_held: bool
    blocks: int
    out_of_sync_blocks: int
    copied_blocks: int = 0
    compared_blocks: int = 0
    blocked: bool
    direction: str
    in_sync_percent: int
    doing: str | None
    rate_bytes: float
    seconds_left: int | None
    stands_back: bool


class LoginStatistics(msgspec.Struct, kw_only=True):
    """Sessions, and what did not become one; `refused` counts by the name of the login status."""

    sessions: int
    discovery_sessions: int
    accepted: int
    refused: dict[str, int]
    protocol_faults: int


class Statistics(msgspec.Struct, kw_only=True):
    """All of it: by device, virtual device, InitiatorName, array, array/LUN, array, and number of the pair."""

    uptime_s: float
    logins: LoginStatistics
    devices: dict[str, DeviceStatistics]
    lus: dict[str, UnitStatistics]
    hosts: dict[str, HostStatistics]
    arrays: dict[str, ArrayStatistics]
    external_lus: dict[str, ExternalUnitStatistics]
    paths: dict[str, PathStatistics]
    pairs: dict[str, PairStatistics]
    acquisitions: int


def collect(daemon: Daemon, now: float) -> Statistics:
    """Give the statistics of a running daemon.

    Args:
        daemon: what they are about.
        now: on the event loop's clock.
    """
    assembly = daemon.assembly
    lus = {
        name: _unit(unit, ready=unit.volume.fault() is None, block_bytes=unit.volume.block_bytes)
        for name, unit in assembly.units.by_name().items()
    }
    external = {unit.name: _external_unit(daemon, unit) for array in assembly.arrays.values() for unit in array.units()}
    arrays = {name: _array(daemon, array, external.values()) for name, array in assembly.arrays.items()}
    return Statistics(
        uptime_s=round(now - daemon.started, 3),
        logins=_logins(daemon),
        devices={name: _device(device) for name, device in assembly.devices.items()},
        lus=lus,
        hosts=daemon.portals.history.hosts(),
        arrays=arrays,
        external_lus=external,
        paths={name: _path(daemon, name, row) for name, row in arrays.items()},
        pairs={str(pair.number): _pair(daemon, pair, lus) for pair in assembly.pairs.pairs()},
        acquisitions=len(assembly.acquisitions.all()),
    )


def _logins(daemon: Daemon) -> LoginStatistics:
    history = daemon.portals.history
    discovery = sum(session.discovery for session in daemon.registry)
    return LoginStatistics(
        sessions=len(daemon.registry) - discovery,
        discovery_sessions=discovery,
        accepted=history.accepted,
        refused=dict(history.refused),
        protocol_faults=history.protocol_faults,
    )


def _device(device: BlockDevice) -> DeviceStatistics:
    return DeviceStatistics(ready=device.state is DeviceState.READY, failed_flushes=device.failed_flushes)


def _unit(unit: LogicalUnit, *, ready: bool, block_bytes: int) -> UnitStatistics:
    counters = unit.counters
    return UnitStatistics(
        ready=ready,
        queue=unit.queue,
        others=counters.commands - counters.reads - counters.writes,
        **_traffic(counters, block_bytes),
    )


def _external_unit(daemon: Daemon, unit: ExternalLogicalUnit) -> ExternalUnitStatistics:
    counters = unit.counters
    fences = daemon.assembly.fences
    return ExternalUnitStatistics(
        array=unit.array_name,
        lun=unit.lun_number,
        ready=unit.state is DeviceState.READY,
        fence_wanted=fences.wanted(unit),
        fenced=fences.held(unit),
        others=counters.commands,
        **_traffic(counters, unit.block_bytes),
    )


def _traffic(counters: Counters, block_bytes: int) -> dict[str, Any]:
    return {
        "reads": counters.reads,
        "writes": counters.writes,
        "read_bytes": counters.read_blocks * block_bytes,
        "written_bytes": counters.written_blocks * block_bytes,
        "busy_s": counters.read_latencies.sum_s + counters.write_latencies.sum_s,
        "errors": named_errors(counters.errors),
        "read_latency": _latency(counters.read_latencies),
        "write_latency": _latency(counters.write_latencies),
    }


def _array(daemon: Daemon, array: ExternalArray, units: Iterable[ExternalUnitStatistics]) -> ArrayStatistics:
    mine = [unit for unit in units if unit.array == array.name]
    row = ArrayStatistics(
        ready=array.state is ArrayState.READY,
        units=len(mine),
        units_ready=sum(unit.ready for unit in mine),
        queue=daemon.assembly.link(array.name).queue,
        fences_wanted=sum(unit.fence_wanted for unit in mine),
        fences_held=sum(unit.fence_wanted and unit.fenced for unit in mine),
    )
    for unit in mine:
        row.add(unit)
    return row


def _path(daemon: Daemon, name: str, array: ArrayStatistics) -> PathStatistics:
    """Give an array's path; there is one, so what the array did went by it."""
    link = daemon.assembly.link(name)
    row = PathStatistics(
        array=name, portal=link.portal, up=link.up, logins=link.logins, failures=link.failures, queue=link.queue
    )
    row.add(array)
    return row


def _pair(daemon: Daemon, pair: Pair, lus: dict[str, UnitStatistics]) -> PairStatistics:
    report = pair.row()
    progress = progress_of(pair)
    row = PairStatistics(
        state=report.state.name,
        fence_level=report.fence_level.name.lower(),
        fence_held=bool(report.flags & PairFlag.FENCE_HELD),
        blocks=report.blocks,
        out_of_sync_blocks=report.out_of_sync_blocks,
        copied_blocks=pair.synchronizer.copied_blocks,
        compared_blocks=pair.synchronizer.compared_blocks,
        blocked=pair.blocked() is not None,
        direction=progress.direction,
        in_sync_percent=report.in_sync_percent,
        doing=progress.doing,
        rate_bytes=round(progress.rate_bytes),
        seconds_left=progress.seconds_left,
        stands_back=progress.stands_back,
    )
    primary = pair.units[pair.record.primary]
    found = daemon.assembly.units.unit(primary.logical_unit.naa) if primary is not None else None
    lu = lus.get(found.virtual_device.name) if found is not None else None
    if lu is not None:
        row.add(lu)
        row.queue = lu.queue
    return row


def _latency(latencies: Latencies) -> Latency:
    return Latency(counts=list(latencies.counts), sum_s=latencies.sum_s)
