"""A region: a run of blocks on one local device or one external LU, as a part of a virtual device.

How this works: a region can serve once its device is ready and is what it was before. What it was is in the mapping
table; at first contact the region measures its device and has that recorded, and serves only when the record is
stable. Later, a device that is smaller than recorded, has other block lengths or (an external LU) another id blocks
the region rather than serve other data; one that grew changes nothing until an admin asks for it
(`daemon/growth.py`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Protocol, Self

from backends.devices.state import DeviceState
from backends.external.unit import ExternalLogicalUnit
from backends.mapping import MappingTable, RegionRow
from scsi.volume import Done, Fault, Volume, VolumeError

# learn(blocks, block_bytes, identifier, done): record what first contact found, stably.
Learn = Callable[[int, int, bytes, Done], None]


class RegionKind(enum.IntEnum):
    """Kinds, with the values that REPORT REGIONS sends."""

    LOCAL = 0
    EXTERNAL = 1


class RegionDevice(Volume, Protocol):
    """What a region lies on: `backends.devices.block.BlockDevice` or `backends.external.unit.ExternalLogicalUnit`."""

    @property
    def state(self) -> DeviceState: ...


class Region:
    """A run of blocks on a device.

    Attributes:
        number: unique in the daemon.
        kind: local or external.
        device: what it lies on.
        device_lba: its first block there.
        first_lba: its first block in the virtual device; set by that.
        blocks: its length; 0 until known.
        block_bytes: its block length; 0 until known.
        copied_percent: how much of a copy-in is done; 100 when none runs.
    """

    def __init__(
        self,
        number: int,
        device: RegionDevice,
        device_lba: int,
        learn: Learn,
        *,
        blocks: int = 0,
        block_bytes: int = 0,
        identifier: bytes = b"",
    ) -> None:
        """Make a region as the mapping table has it.

        Args:
            number: of the region.
            device: what it lies on.
            device_lba: its first block there.
            learn: called at first contact.
            blocks: capacity, configured or recorded; 0 for all to the end of the device, as first contact will find.
            block_bytes: recorded; 0 until first contact.
            identifier: id of the external LU, configured or recorded; b"" until first contact, and for a local region.
        """
        self.number = number
        self.kind = RegionKind.EXTERNAL if isinstance(device, ExternalLogicalUnit) else RegionKind.LOCAL
        self.device = device
        self.device_lba = device_lba
        self.first_lba = 0
        self.blocks = blocks
        self.block_bytes = block_bytes
        self.copied_percent = 100
        self._identifier = identifier
        self._learn = learn
        self._recording = False
        self._refusal: VolumeError | None = None

    @classmethod
    def from_row(cls, row: RegionRow, device: RegionDevice, table: MappingTable) -> Self:
        """Make the region of a row of the mapping table."""
        return cls(
            row.number,
            device,
            row.first_lba,
            partial(table.learn, row.number),
            blocks=row.blocks,
            block_bytes=row.block_bytes,
            identifier=bytes.fromhex(row.id),
        )

    @property
    def end_lba(self) -> int:
        """The block behind its last one, in the virtual device."""
        return self.first_lba + self.blocks

    @property
    def state(self) -> DeviceState:
        """Whether it can serve."""
        if self._refusal is not None:
            return DeviceState.BLOCKED
        if self.device.state is DeviceState.READY and not self.block_bytes:
            return DeviceState.PENDING
        return self.device.state

    @property
    def external_unit(self) -> ExternalLogicalUnit | None:
        """The external LU that it lies on, None for a local region."""
        return self.device if isinstance(self.device, ExternalLogicalUnit) else None

    @property
    def external_id(self) -> bytes:
        """Id of the external LU in 16 bytes, left-aligned, as on the wire; zeros for a local region, or until known."""
        unit = self.external_unit
        return (unit.id if unit else b"")[:16].ljust(16, b"\0")

    def refusal(self) -> VolumeError | None:
        """Say why it may not serve although its device might: None when only the device decides."""
        if self._refusal is not None:
            return self._refusal
        if not self.block_bytes:
            return self.device.fault() or VolumeError(Fault.BECOMING_READY, f"{self}: capacity is not recorded yet")
        return None

    def fault(self) -> VolumeError | None:
        """Say why it can not serve now, None when it can."""
        return self.refusal() or self.device.fault()

    def check(self, changed: Callable[[], None]) -> None:
        """Compare a device that is ready with the record, or make the record; `changed` when that is done later."""
        if self.device.state is not DeviceState.READY or self._recording:
            return
        problem = self._difference()
        self._refusal = VolumeError(Fault.BLOCKED, f"{self}: {problem}") if problem else None
        if problem or self.block_bytes:
            return
        self._recording = True
        blocks = self.blocks or self.device.blocks - self.device_lba
        block_bytes = self.device.block_bytes
        unit = self.external_unit

        def recorded(error: VolumeError | None) -> None:
            self._recording = False
            if error is None:
                self.blocks = blocks
                self.block_bytes = block_bytes
                self._identifier = unit.id if unit else b""
            else:
                self._refusal = error
            changed()

        self._learn(blocks, block_bytes, unit.id if unit else b"", recorded)

    def overlaps(self, other: Region) -> bool:
        """Tell whether the two have a block in common; with a length that is not known, whether they might."""
        if self.device is not other.device and not self._is_same_unit(other):
            return False
        end = self.device_lba + self.blocks if self.blocks else float("inf")
        other_end = other.device_lba + other.blocks if other.blocks else float("inf")
        return self.device_lba < other_end and other.device_lba < end

    def __str__(self) -> str:
        return f"region {self.number}"

    def _is_same_unit(self, other: Region) -> bool:
        mine, theirs = self.external_unit, other.external_unit
        if mine is None or theirs is None or mine.array_name != theirs.array_name:
            return False
        return mine.id == theirs.id if mine.id and theirs.id else mine.lun == theirs.lun

    def _difference(self) -> str:
        device, unit = self.device, self.external_unit
        if unit and self._identifier and unit.id != self._identifier:
            return f"the external LU has the id {unit.id.hex()}, and had {self._identifier.hex()}"
        if self.block_bytes and device.block_bytes != self.block_bytes:
            return f"the device has blocks of {device.block_bytes} bytes, and had {self.block_bytes}"
        if device.blocks < self.device_lba + max(self.blocks, 1):
            needed = f"{self.blocks} blocks from {self.device_lba}" if self.blocks else f"a block at {self.device_lba}"
            return f"the device has {device.blocks} blocks, and the region is {needed}"
        return ""
