"""What the control API shows of a running daemon: one row per thing, made when it is asked for."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from backends.acquisitions.acquisition import Acquisition
from backends.devices.block import BlockDevice
from backends.external.array import ArrayState, ExternalArray
from backends.pairs.pair import Pair
from backends.pairs.synchronizing import Waiting
from backends.regions import Region
from backends.virtual_device import VirtualDevice
from config import __version__, model, references
from daemon.control.edits import redacted
from daemon.control.errors import UnknownError
from daemon.daemon import Daemon
from daemon.pair_progress import Direction, progress_of
from scsi.array_commands import PairFlag, PairState

MIB = 1 << 20


class Problem(msgspec.Struct):
    """Something that is not well: where, by the shell's path, and what."""

    path: str
    problem: str


class Status(msgspec.Struct):
    """The daemon at a glance."""

    version: str
    state: str
    uptime_s: float
    revision: int
    counts: dict[str, int]
    problems: list[Problem]


class DeviceRow(msgspec.Struct):
    """A local device: its entry, and how it is."""

    name: str
    path: str
    state: str
    fault: str | None
    size_bytes: int
    block_bytes: int
    read_only: bool
    used_by: list[str]


class ExternalUnitRow(msgspec.Struct):
    """A LU of an external array."""

    lun: int
    id: str
    vendor: str
    product: str
    state: str
    fault: str | None
    size_bytes: int
    block_bytes: int


class RegionRow(msgspec.Struct):
    """A region of a virtual device, as it lies on its device."""

    kind: str
    device: str | None
    array: str | None
    lun: int | None
    id: str | None
    first_lba: int
    blocks: int
    state: str
    fault: str | None


class VirtualDeviceRow(msgspec.Struct):
    """A virtual device: the entry of the mapping table, and how it is."""

    name: str
    number: int
    naa: str
    regions: list[RegionRow]
    state: str
    fault: str | None
    size_bytes: int
    block_bytes: int
    used_by: list[str]
    pair: int | None


class PairRow(msgspec.Struct):
    """A pair; `primary` and `secondary` are names of virtual devices, or ids of those that are gone.

    Attributes:
        fault: why it is not well: it is blocked, in PSUE (then `last_error`), or waits for a leg.
        direction, doing, compared_percent, seconds_left, stands_back: see `PairProgress`.
        rate_mib_s: of what it is doing; 0.0 when it does nothing.
        pace_mib_s: limit of that, 0 for none.
        least_pace_mib_s: so fast at least, while hosts are busy.
        waiting_for: what keeps a copy or a comparison that is due from going on.
        last_error: what went wrong last, whether or not it is mended.
        group: that it is in, None for none.
    """

    number: int
    label: str
    primary: str
    secondary: str
    state: str
    fence_level: str
    fence_held: bool
    copied_percent: int
    blocks: int
    out_of_sync_blocks: int
    flags: list[str]
    fault: str | None
    direction: Direction
    doing: Literal["copying", "comparing"] | None
    compared_percent: int | None
    rate_mib_s: float
    seconds_left: int | None
    stands_back: bool
    pace_mib_s: int
    least_pace_mib_s: int
    waiting_for: str | None
    last_error: str | None
    group: str | None


class AcquisitionRow(msgspec.Struct):
    """A read in two commands; `identifier` is the host's own number, after the host's name."""

    identifier: str
    host: str
    number: int
    state: str
    vdev: str
    lba: int
    blocks: int
    handed_over_blocks: int
    left_s: int


def status(daemon: Daemon, now: float) -> Status:
    """Give the daemon at a glance."""
    assembly = daemon.assembly
    groups: dict[str, list[Any]] = {
        "devices": [device_row(daemon, device) for device in assembly.devices.values()],
        "arrays": [array_row(daemon, array) for array in assembly.arrays.values()],
        "vdevs": [virtual_device_row(daemon, device) for device in assembly.virtual_devices.values()],
        "pairs": [pair_row(daemon, pair) for pair in assembly.pairs.pairs()],
    }
    problems = [
        Problem(f"/{group}/{name}", fault)
        for group, rows in groups.items()
        for name, fault in (_name_and_fault(row) for row in rows)
        if fault
    ]
    counts = {group: len(rows) for group, rows in groups.items()} | {
        "targets": len(daemon.config.targets),
        "portals": len(daemon.portals),
        "groups": len(assembly.pairs.groups.by_name),
        "sessions": len(daemon.registry),
        "acquisitions": len(assembly.acquisitions.all()),
    }
    uptime_s = round(now - daemon.started, 3)
    return Status(__version__, daemon.phase.value, uptime_s, daemon.reconfiguration.revision, counts, problems)


def device_row(daemon: Daemon, device: BlockDevice) -> DeviceRow:
    """Show a local device."""
    return DeviceRow(
        device.name, device.path, device.state.name.lower(), _words(device.fault()),
        device.blocks * device.block_bytes, device.block_bytes, device.read_only,
        [f"/vdevs/{name}" for name in references.device_users(daemon.config, device.name)],
    )  # fmt: skip


def array_row(daemon: Daemon, array: ExternalArray) -> dict[str, Any]:
    """Show an external array: its entry without secrets, how it is, and its LUs."""
    entry = next((entry for entry in daemon.config.arrays if entry.name == array.name), None)
    row: dict[str, Any] = redacted(entry) if entry is not None else {"name": array.name}
    return row | {
        "state": array.state.value,
        "fault": None if array.state is ArrayState.READY else array.reason,
        "used_by": [f"/vdevs/{name}" for name in references.array_users(daemon.config, array.name)],
        "luns": [
            ExternalUnitRow(
                unit.lun_number, unit.id.hex(), unit.vendor, unit.product, unit.state.name.lower(),
                _words(unit.fault()), unit.blocks * unit.block_bytes, unit.block_bytes,
            )
            for unit in array.units()
        ],
    }  # fmt: skip


def virtual_device_row(daemon: Daemon, device: VirtualDevice) -> VirtualDeviceRow:
    """Show a virtual device."""
    pair = daemon.assembly.pairs.pair_of(device.naa)
    return VirtualDeviceRow(
        device.name, device.number, device.naa.hex(), [_region_row(region) for region in device.regions],
        device.state.name.lower(), _words(device.fault()), device.blocks * device.block_bytes, device.block_bytes,
        references.virtual_device_users(daemon.config, device.name), pair.number if pair else None,
    )  # fmt: skip


def pair_row(daemon: Daemon, pair: Pair) -> PairRow:
    """Show a pair."""
    row = daemon.assembly.pairs.row(pair)
    group = daemon.assembly.pairs.groups.of_pair(pair.number)
    blocked = pair.blocked()
    progress = progress_of(pair)
    last_error = _with_names(daemon, pair, pair.last_error) or None
    waiting = None if blocked is not None else pair.synchronizer.waiting()
    waiting_for = _waiting_words(daemon, pair, waiting)
    fault = waiting_for if waiting is not None and waiting.leg is not None else None
    if blocked is not None or row.state is PairState.PSUE:
        fault = _words(blocked) or last_error or "a leg has failed, before annexd was started"
    return PairRow(
        row.number, row.label, vdev_name(daemon, row.primary_naa), vdev_name(daemon, row.secondary_naa),
        row.state.name, row.fence_level.name.lower(), bool(row.flags & PairFlag.FENCE_HELD), row.in_sync_percent,
        row.blocks, row.out_of_sync_blocks,
        [flag.name.lower() for flag in PairFlag if flag in row.flags and flag.name],
        fault,
        progress.direction, progress.doing, progress.compared_percent, round(progress.rate_bytes / MIB, 2),
        progress.seconds_left, progress.stands_back, pair.record.pace_mib_s, pair.record.least_pace_mib_s,
        waiting_for, last_error, group.name if group is not None else None,
    )  # fmt: skip


def _waiting_words(daemon: Daemon, pair: Pair, waiting: Waiting | None) -> str | None:
    if waiting is None or waiting.leg is None:
        return waiting and waiting.why
    return f"/vdevs/{vdev_name(daemon, pair.naa(waiting.leg))}: {waiting.why}"


def _with_names(daemon: Daemon, pair: Pair, text: str) -> str:
    """Put the names of virtual devices where the pair, which does not know them, says their ids."""
    for leg in (0, 1):
        naa = pair.naa(leg)
        text = text.replace(naa.hex(), vdev_name(daemon, naa))
    return text


def acquisition_row(daemon: Daemon, acquisition: Acquisition) -> AcquisitionRow:
    """Show an acquisition."""
    row = acquisition.row()
    host = acquisition.subject.host
    return AcquisitionRow(
        f"{host},{row.identifier}", host, row.identifier, row.state.name.lower(), vdev_name(daemon, row.vdev_naa),
        row.lba, row.blocks, row.handed_over_blocks, row.left_s,
    )  # fmt: skip


def target_row(daemon: Daemon, target: model.Target) -> dict[str, Any]:
    """Show a target: its entry without secrets, and how many sessions it has."""
    sessions = sum(1 for session in daemon.registry if not session.discovery and session.target_name == target.name)
    row: dict[str, Any] = redacted(target)
    return row | {"sessions": sessions, "portals": [portal_row(daemon, target, portal) for portal in target.portals]}


def portal_row(daemon: Daemon, target: model.Target, portal: str) -> dict[str, Any]:
    """Show a portal of a target, with its portal group and the access state of that."""
    address = model.split_portal(portal)
    tag = model.portal_group_tag(target, address)
    return {
        "portal": model.join_portal(*address),
        "draining": address in daemon.portals.draining,
        "group": tag,
        "access": daemon.sessions.port(target.name).groups.of(tag).state.name.lower(),
    }


def vdev_name(daemon: Daemon, naa: bytes) -> str:
    """Give the name of a virtual device; its id when it is gone."""
    unit = daemon.assembly.units.unit(naa)
    return unit.virtual_device.name if unit is not None else f"naa.{naa.hex()}"


def pair_by_number(daemon: Daemon, number: str) -> Pair:
    """Find a pair.

    Raises:
        UnknownError: there is none.
    """
    pair = daemon.assembly.pairs.by_number(int(number)) if number.isascii() and number.isdigit() else None
    if pair is None:
        raise UnknownError(f"/pairs/{number}", "there is no such pair")
    return pair


def acquisition_by_identifier(daemon: Daemon, identifier: str) -> Acquisition:
    """Find an acquisition.

    Raises:
        UnknownError: there is none.
    """
    for acquisition in daemon.assembly.acquisitions.all():
        if acquisition_row(daemon, acquisition).identifier == identifier:
            return acquisition
    raise UnknownError(f"/acquisitions/{identifier}", "there is no such acquisition")


def _region_row(region: Region) -> RegionRow:
    unit = region.external_unit
    return RegionRow(
        region.kind.name.lower(),
        region.device.name if isinstance(region.device, BlockDevice) else None,
        unit.array_name if unit is not None else None,
        unit.lun_number if unit is not None else None,
        unit.id.hex() if unit is not None else None,
        region.device_lba, region.blocks, region.state.name.lower(), _words(region.fault()),
    )  # fmt: skip


def _name_and_fault(row: Any) -> tuple[str, str | None]:
    if isinstance(row, dict):
        return row["name"], row["fault"]
    return str(row.number if isinstance(row, PairRow) else row.name), row.fault


def _words(fault: Exception | None) -> str | None:
    return None if fault is None else str(fault)
