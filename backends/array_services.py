"""What ARRAY IN and ARRAY OUT do: reports on virtual devices, regions, pairs and acquisitions, and commands on them.

`DaemonArrayServices` implements `scsi.array_services.ArrayServices` on the book of pairs, the acquisitions and the
units of the daemon. Its own business is who may see what: every id resolves inside the LUN map of the nexus that asks,
and what lies outside of it is not there.

Spec: annex vendor-specific SCSI commands, version 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from backends.acquisitions.acquisition import Subject
from backends.acquisitions.book import Acquisitions
from backends.pairs.book import PairBook
from backends.regions import Region
from backends.virtual_device import VirtualDevice
from scsi.array_commands import (
    VERSION,
    Acquire,
    AcquisitionRow,
    ArrayOut,
    Capabilities,
    Feature,
    PairCreate,
    PairRow,
    RegionKind,
    RegionRow,
    VirtualDeviceFlag,
    VirtualDeviceRow,
)
from scsi.array_services import CommandDone, Transferred
from scsi.commands import Allow
from scsi.errors import (
    LbaOutOfRange,
    NoSuchAcquisition,
    NoSuchPair,
    NoSuchRegion,
    NoSuchVirtualDevice,
    ReservationConflict,
    ScsiError,
    StatusError,
)
from scsi.logical_unit import LogicalUnit
from scsi.nexus import Nexus
from scsi.sense import error_of

FEATURES = Feature.PAIRS | Feature.ACQUISITIONS | Feature.REVERSE_AND_SWAP | Feature.VERIFY
READ_ALLOW = Allow.WRITE_EXCLUSIVE  # the reservation rule of READ


class ServedUnit(Protocol):
    """A logical unit and the virtual device that it sits on."""

    @property
    def logical_unit(self) -> LogicalUnit: ...
    @property
    def virtual_device(self) -> VirtualDevice: ...


class ServedUnits(Protocol):
    """All logical units of the daemon; see `backends.pairs.unit_directory.UnitDirectory`."""

    def unit(self, naa: bytes) -> ServedUnit | None:
        """Find the unit with this 16-byte NAA id."""


class DaemonArrayServices:
    """The services behind the array commands of every logical unit."""

    def __init__(self, units: ServedUnits, pairs: PairBook, acquisitions: Acquisitions) -> None:
        self._units = units
        self._pairs = pairs
        self._acquisitions = acquisitions

    # --- Reports ------------------------------------------------------------------------------------------------------

    def capabilities(self, asker: Nexus) -> Capabilities:
        """Say what the array can do, and its limits; the same for every host."""
        options = self._acquisitions.options
        return Capabilities(
            VERSION,
            FEATURES,
            self._pairs.options.most_pairs,
            options.most_blocks,
            options.most_per_host,
            options.default_lifetime_s,
            options.most_transfer_bytes,
        )

    def virtual_devices(self, asker: Nexus) -> list[VirtualDeviceRow]:
        """List the virtual devices whose LUs the asker sees, each once, by number."""
        rows = [self._virtual_device_row(lun, unit.virtual_device) for lun, unit in self._visible(asker)]
        return sorted(rows)

    def regions(self, asker: Nexus, vdev_number: int) -> list[RegionRow]:
        """List the regions of a virtual device.

        Raises:
            NoSuchVirtualDevice: the asker sees none by that number.
        """
        for _, unit in self._visible(asker):
            if unit.virtual_device.number == vdev_number:
                return [_region_row(region) for region in unit.virtual_device.regions]
        raise NoSuchVirtualDevice(f"number {vdev_number}")

    def pairs(self, asker: Nexus, pair_number: int) -> list[PairRow]:
        """List one pair, or with 0 all, that have a LU which the asker sees.

        Raises:
            NoSuchPair: the asker sees none by that number.
        """
        seen = {unit.virtual_device.naa for _, unit in self._visible(asker)}
        rows = [
            row
            for row in map(self._pairs.row, self._pairs.pairs())
            if pair_number in {0, row.number} and seen & {row.primary_naa, row.secondary_naa}
        ]
        if pair_number and not rows:
            raise NoSuchPair(f"number {pair_number}")
        return rows

    def acquisitions(self, asker: Nexus) -> list[AcquisitionRow]:
        """List the acquisitions of the asking host, those of its other sessions too."""
        return self._acquisitions.rows(asker.initiator_name)

    # --- Pairs --------------------------------------------------------------------------------------------------------

    def pair_create(self, asker: Nexus, addressed_naa: bytes, parameters: PairCreate, done: CommandDone) -> None:
        """See `PairBook.create`."""
        primary = self._units.unit(addressed_naa)
        if primary is None:
            done(NoSuchVirtualDevice("the addressed logical unit is being removed"))
        else:
            self._pairs.create(asker, primary, parameters, done)

    def pair_command(
        self, asker: Nexus, addressed_naa: bytes, action: ArrayOut, pair_number: int, flags: int, done: CommandDone
    ) -> None:
        """See `PairBook.command`; a pair of which the asker does not see both LUs is none."""
        addressed = self._units.unit(addressed_naa)
        pair = self._pairs.by_number(pair_number) if pair_number else self._pairs.pair_of(addressed_naa)
        if addressed is None or pair is None:
            done(NoSuchPair(f"number {pair_number}"))
        else:
            self._pairs.command(asker, pair, action, flags, addressed, done)

    # --- Acquisitions -------------------------------------------------------------------------------------------------

    def acquire(
        self, asker: Nexus, identifier: int, parameters: Acquire, *, immediate: bool, done: CommandDone
    ) -> None:
        """Check, and begin; see `Acquisition.begin`."""
        try:
            subject = self._subject(asker, identifier, parameters, immediate)
            self._acquisitions.begin(subject, done)
        except (ScsiError, StatusError) as refusal:
            done(refusal)

    def transfer(self, asker: Nexus, identifier: int, first_block: int, allocation_bytes: int) -> Transferred:
        """Give acquired data to the host that had it acquired.

        Raises:
            ScsiError: see `Acquisitions.find` and `Acquisitions.transfer`.
            ReservationConflict: a READ of the virtual device would get that.
        """
        acquisition = self._acquisitions.find(asker.initiator_name, identifier, lambda naa: _sees(asker, naa))
        unit = self._find(asker, acquisition.subject.vdev_naa)
        if unit is None:
            # The host's own, but this session is not shown the virtual device, or it was taken from the host since.
            raise NoSuchAcquisition(f"id {identifier}")
        _check_reservation(asker, unit)
        return self._acquisitions.transfer(acquisition, first_block, allocation_bytes)

    def end_acquisition(self, asker: Nexus, identifier: int, done: CommandDone) -> None:
        """End an acquisition of the asking host; `done` after the array has answered the release."""
        try:
            acquisition = self._acquisitions.find(asker.initiator_name, identifier, lambda naa: _sees(asker, naa))
        except ScsiError as refusal:
            done(refusal)
        else:
            acquisition.end(lambda: done(None))

    def _subject(self, asker: Nexus, identifier: int, parameters: Acquire, immediate: bool) -> Subject:
        """Check everything about what is to be acquired, but for limits.

        Raises:
            ScsiError: the refusal.
            StatusError: likewise.
        """
        unit = self._find(asker, parameters.vdev_naa)
        if unit is None:
            raise NoSuchVirtualDevice(parameters.vdev_naa.hex())
        _check_reservation(asker, unit)
        fault = unit.logical_unit.volume.fault()
        if fault is not None:
            raise error_of(fault)
        named = unit.virtual_device
        lba, end_lba = parameters.lba, parameters.lba + parameters.blocks
        if end_lba > named.blocks:
            raise LbaOutOfRange(information=max(lba, named.blocks))
        if parameters.region and not any(
            region.number == parameters.region and region.first_lba <= lba and end_lba <= region.end_lba
            for region in named.regions
        ):
            raise NoSuchRegion(f"region {parameters.region} for blocks {lba} to {end_lba - 1}")
        device = self._device_to_read(unit)
        units = (region.external_unit for region in device.regions_of(lba, parameters.blocks))
        return Subject(
            asker.initiator_name,
            identifier,
            parameters.vdev_naa,
            device,
            lba,
            parameters.blocks,
            tuple({id(external): external for external in units if external is not None}.values()),
            parameters.lifetime_s or self._acquisitions.options.default_lifetime_s,
            immediate,
        )

    def _device_to_read(self, unit: ServedUnit) -> VirtualDevice:
        """Find where the blocks are that a host of this unit reads: for a pair's primary, at the current leg.

        A write through the primary goes to that leg as to the other one, so the gate of its device sees all of them.
        """
        pair = self._pairs.pair_of(unit.virtual_device.naa)
        if pair is None or pair.leg_of(unit.virtual_device.naa) != pair.record.primary:
            return unit.virtual_device
        current = self._units.unit(pair.naa(pair.record.current))
        if current is not None and (current.virtual_device.fault() is None or not pair.in_sync()):
            return current.virtual_device
        other = self._units.unit(pair.naa(1 - pair.record.current))
        return unit.virtual_device if other is None else other.virtual_device

    # --- Who sees what ------------------------------------------------------------------------------------------------

    def _visible(self, asker: Nexus) -> Iterator[tuple[bytes, ServedUnit]]:
        """Go through the units in a nexus's LUN map, each once, with the lowest LUN that it has there."""
        passed = set()
        for lun, mapped in sorted(asker.lun_map.items(), key=lambda entry: entry[0]):
            naa = mapped.logical_unit.naa
            unit = None if naa in passed else self._units.unit(naa)
            passed.add(naa)
            if unit is not None:
                yield lun, unit

    def _find(self, asker: Nexus, naa: bytes) -> ServedUnit | None:
        return self._units.unit(naa) if _sees(asker, naa) else None

    def _virtual_device_row(self, lun: bytes, device: VirtualDevice) -> VirtualDeviceRow:
        flags = VirtualDeviceFlag(0)
        for region in device.regions:
            external = region.external_unit is not None
            flags |= VirtualDeviceFlag.EXTERNAL_REGIONS if external else VirtualDeviceFlag.LOCAL_REGIONS
        pair = self._pairs.pair_of(device.naa)
        if pair is not None:
            primary = pair.leg_of(device.naa) == pair.record.primary
            flags |= VirtualDeviceFlag.PRIMARY if primary else VirtualDeviceFlag.SECONDARY
        return VirtualDeviceRow(
            device.number,
            flags,
            device.state,
            len(device.regions),
            lun,
            device.naa,
            device.blocks,
            device.block_bytes,
        )


def _region_row(region: Region) -> RegionRow:
    return RegionRow(
        region.number,
        RegionKind(region.kind),
        region.state,
        region.copied_percent,
        region.first_lba,
        region.blocks,
        region.device_lba,
        region.external_id,
    )


def _sees(asker: Nexus, naa: bytes) -> bool:
    return any(mapped.logical_unit.naa == naa for mapped in asker.lun_map.values())


def _check_reservation(asker: Nexus, unit: ServedUnit) -> None:
    if unit.logical_unit.reservations.conflicts(asker, READ_ALLOW):
        raise ReservationConflict
