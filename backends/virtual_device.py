"""A virtual device: regions in a row, seen as one volume.

How this works: a request is cut where one region ends and the next begins; each part goes to its region's device, and
the request completes, once, when all parts have. Nearly every request lies in one region, and then nothing is cut,
copied or counted. When parts fail the error that tells the host most is reported, with its block as the host numbers
it.

A device that is away fails the requests that reach it, not those to other regions; `state` and `fault()` are about
the whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from backends.claims import claim_all
from backends.devices.block import BlockDevice
from backends.devices.state import DeviceState, worst
from backends.external.unit import ExternalLogicalUnit
from backends.regions import Region
from backends.split_requests import Joined, Part, SplitRead, common_deallocation, shifted, shifted_read
from scsi.volume import (
    AllocationDone,
    Buffer,
    ClaimDone,
    Deallocation,
    Done,
    Fault,
    ReadDone,
    Volume,
    VolumeError,
    write_then_read,
)


class WriteGate(Protocol):
    """Asked before each write of a virtual device."""

    def admit(self, lba: int, blocks: int, go: Callable[[], None]) -> bool:
        """True: write now. False: `go` is called once, later, when the write may be made."""


class VirtualDevice:
    """A volume made of regions.

    Attributes:
        name: in the configuration.
        number: unique in the daemon, for ever.
        naa: its id, 16 bytes.
        regions: in order.
        block_bytes, blocks, physical_block_exponent, write_cache, read_only, max_transfer_blocks, deallocation,
            claimable: see `Volume`; `blocks` is 0 until the length of every region is known.
        read: see `Volume`. It is the device's own when that is all there is, which spares each read a call; so it is
            not to be kept, only called.
    """

    def __init__(self, name: str, number: int, naa: bytes, regions: Sequence[Region]) -> None:
        assert regions
        self.name = name
        self.number = number
        self.naa = naa
        self.regions = list(regions)
        self.block_bytes = 512
        self.blocks = 0
        self.physical_block_exponent = 0
        self.write_cache = True
        self.read_only = False
        self.max_transfer_blocks = 0
        self.deallocation: Deallocation | None = None
        self._starts: list[int] = [0]
        self._refusal: VolumeError | None = None
        # With one region that begins where its device does, requests pass through as they are.
        self._whole: Volume | None = None
        self.read: Callable[[int, int, ReadDone], None] = self._read
        self._gates: list[WriteGate] = []
        self._made_up_for: dict[str, int] = {}  # failed flushes, by name of the local device
        self._listeners: list[Callable[[VirtualDevice], None]] = []
        self._last_state = DeviceState.PENDING
        self._watcher = _DeviceWatcher(self.refresh)
        for region in regions:
            self._watcher.watch(region.device)
        self.refresh()

    def close(self) -> None:
        """Take no more notice of what becomes of the devices under it; for one that is deleted."""
        for region in self.regions:
            self._watcher.unwatch(region.device)

    @property
    def state(self) -> DeviceState:
        """The worst state of its regions; BLOCKED when they do not fit together."""
        if self._refusal is not None and self._refusal.fault is Fault.BLOCKED:
            return DeviceState.BLOCKED
        return worst(region.state for region in self.regions)

    @property
    def claimable(self) -> bool:
        """Tell whether each of its regions can be kept from others."""
        return all(region.device.claimable for region in self.regions)

    def fault(self) -> VolumeError | None:
        """Say why it can not serve as a whole, None when it can."""
        for region in self.regions:
            fault = region.fault()
            if fault is not None:
                return fault
        return self._refusal

    def listen(self, callback: Callable[[VirtualDevice], None]) -> None:
        """Call back after each change of `state`, and when the capacity becomes known."""
        self._listeners.append(callback)

    def unlisten(self, callback: Callable[[VirtualDevice], None]) -> None:
        """Call `callback` back no more."""
        self._listeners.remove(callback)

    def external_units(self) -> list[ExternalLogicalUnit]:
        """List the external LUs under it, each once."""
        units = (region.external_unit for region in self.regions)
        return list({id(unit): unit for unit in units if unit is not None}.values())

    def regions_of(self, lba: int, blocks: int) -> list[Region]:
        """List the regions that a range touches."""
        return [region for region in self.regions if region.first_lba < lba + blocks and lba < region.end_lba]

    def shares_storage_with(self, other: VirtualDevice) -> bool:
        """Tell whether a write to one could change what is read from the other."""
        return any(mine.overlaps(theirs) for mine in self.regions for theirs in other.regions)

    def add_gate(self, gate: WriteGate) -> None:
        """Ask `gate` before each write from now on."""
        self._gates.append(gate)

    def remove_gate(self, gate: WriteGate) -> None:
        """Ask `gate` no more; it lets its waiting writes go itself."""
        self._gates.remove(gate)

    def _read(self, lba: int, blocks: int, done: ReadDone) -> None:
        if self._refusal is not None:
            done(self._refusal)
            return
        assert 0 <= lba <= lba + blocks <= self.blocks
        region = self.regions[bisect_right(self._starts, lba) - 1]
        if lba + blocks <= region.end_lba:
            shift = region.device_lba - region.first_lba
            region.device.read(lba + shift, blocks, shifted_read(done, shift))
        else:
            SplitRead(self._parts(lba, blocks), done).start()

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        """Write whole blocks, once every gate admits it."""
        if self._gates:
            blocks = len(data) // self.block_bytes
            self._ask_gates(lba, blocks, lambda: self._write(lba, data, fua, done), [])
        elif self._whole is not None and self._refusal is None:
            self._whole.write(lba, data, fua, done)
        else:
            self._write(lba, data, fua, done)

    def write_and_read(self, lba: int, data: Buffer, done: ReadDone) -> None:
        """Write whole blocks, have them stable, and read them again."""
        write_then_read(self, lba, data, done)

    def write_same(self, lba: int, block: Buffer, blocks: int, done: Done) -> None:
        """Write one block's data to many blocks, once every gate admits it."""

        def change(device: Volume, first: int, count: int, part_done: Done) -> None:
            device.write_same(first, block, count, part_done)

        self._ask_gates(lba, blocks, lambda: self._change(lba, blocks, change, done), [])

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        """Have blocks read as zeroes and give their storage back, once every gate admits it."""

        def change(device: Volume, first: int, count: int, part_done: Done) -> None:
            device.unmap(first, count, part_done)

        self._ask_gates(lba, blocks, lambda: self._change(lba, blocks, change, done), [])

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        """Say which blocks have storage, no further than to the end of a region."""
        if self._refusal is not None:
            done(self._refusal)
            return
        region = self.regions[bisect_right(self._starts, lba) - 1]
        shift = region.device_lba - region.first_lba
        blocks = min(blocks, region.end_lba - lba)
        region.device.allocation(lba + shift, blocks, shifted_read(done, shift))

    def claim(self, lba: int, blocks: int, done: ClaimDone) -> None:
        """Have each region claim its part."""
        if self._refusal is not None:
            done(self._refusal)
            return
        parts = []
        for region, first, count in self._parts(lba, blocks):
            shift = region.device_lba - region.first_lba
            parts.append(partial(region.device.claim, first + shift, count))
        claim_all(parts, done)

    def flush(self, done: Done) -> None:
        """Flush each device under it, once each."""
        if self._refusal is not None:
            done(self._refusal)
        elif (failed := self._failed_flush()) is not None:
            done(failed)
        else:
            devices = list({id(region.device): region.device for region in self.regions}.values())
            # Looked at again at the end: the device may have flushed twice meanwhile, first without success.
            joined = Joined(len(devices), lambda error: done(error or self._failed_flush()))
            for device in devices:
                device.flush(joined.part_done)

    def forget_failed_flush(self) -> None:
        """Let flushes work again after a failed one (see `backends.devices.block`).

        Whoever calls this has written again, or given up, every write of this virtual device since its last good flush.
        """
        self._made_up_for = {device.name: device.failed_flushes for device in self._local_devices()}

    def _failed_flush(self) -> VolumeError | None:
        for device in self._local_devices():
            failed = device.failed_flush(self._made_up_for.get(device.name, 0))
            if failed is not None:
                return failed
        return None

    def _local_devices(self) -> list[BlockDevice]:
        return [region.device for region in self.regions if isinstance(region.device, BlockDevice)]

    def refresh(self) -> None:
        """Look at the regions again, and tell the listeners what changed."""
        for region in self.regions:
            region.check(self.refresh)
        before = (self._last_state, self.blocks)
        self._refusal = self._measure()
        self.read = self._read if self._refusal is not None or self._whole is None else self._whole.read
        self._last_state = self.state
        if (self._last_state, self.blocks) != before:
            for callback in tuple(self._listeners):
                callback(self)

    def _measure(self) -> VolumeError | None:
        for region in self.regions:
            refusal = region.refusal()
            if refusal is not None:
                return refusal
        lengths = {region.block_bytes for region in self.regions}
        if len(lengths) != 1:
            mixed = " and ".join(map(str, sorted(lengths)))
            return VolumeError(Fault.BLOCKED, f"virtual device {self.number}: its regions have blocks of {mixed} bytes")
        self.block_bytes = lengths.pop()
        self._starts = []
        end = 0
        for region in self.regions:
            self._starts.append(end)
            region.first_lba = end
            end = region.end_lba
        self.blocks = end
        devices = [region.device for region in self.regions]
        self.physical_block_exponent = max(device.physical_block_exponent for device in devices)
        self.write_cache = any(device.write_cache for device in devices)
        self.read_only = any(device.read_only for device in devices)
        limits = [device.max_transfer_blocks for device in devices if device.max_transfer_blocks]
        self.max_transfer_blocks = min(limits, default=0)
        self.deallocation = common_deallocation(
            (region.device.deallocation, region.device_lba - region.first_lba) for region in self.regions
        )
        self._whole = devices[0] if len(devices) == 1 and not self.regions[0].device_lba else None
        return None

    def _ask_gates(self, lba: int, blocks: int, go: Callable[[], None], asked: list[WriteGate]) -> None:
        # A gate that came while the write waited at another one is asked too: it must not land behind its back.
        while (gate := next((gate for gate in self._gates if gate not in asked), None)) is not None:
            asked.append(gate)
            if not gate.admit(lba, blocks, lambda: self._ask_gates(lba, blocks, go, asked)):
                return
        go()

    def _write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        if self._refusal is not None:
            done(self._refusal)
            return
        blocks, rest = divmod(len(data), self.block_bytes)
        assert rest == 0
        assert 0 <= lba <= lba + blocks <= self.blocks
        if self._whole is not None:
            self._whole.write(lba, data, fua, done)
            return
        region = self.regions[bisect_right(self._starts, lba) - 1]
        if lba + blocks <= region.end_lba:
            shift = region.device_lba - region.first_lba
            region.device.write(lba + shift, data, fua, shifted(done, shift))
            return
        parts = self._parts(lba, blocks)
        joined = Joined(len(parts), done)
        view = memoryview(data)
        for region, first, count in parts:
            size = count * self.block_bytes
            shift = region.device_lba - region.first_lba
            region.device.write(first + shift, view[:size], fua, shifted(joined.part_done, shift))
            view = view[size:]

    def _change(self, lba: int, blocks: int, change: Callable[[Volume, int, int, Done], None], done: Done) -> None:
        """Have each device change its part of a range."""
        if self._refusal is not None:
            done(self._refusal)
            return
        assert 0 <= lba < lba + blocks <= self.blocks
        parts = self._parts(lba, blocks)
        joined = Joined(len(parts), done)
        for region, first, count in parts:
            shift = region.device_lba - region.first_lba
            change(region.device, first + shift, count, shifted(joined.part_done, shift))

    def _parts(self, lba: int, blocks: int) -> list[Part]:
        """Cut a range at the regions."""
        parts = []
        for region in self.regions_of(lba, blocks):
            first = max(lba, region.first_lba)
            parts.append(Part(region, first, min(lba + blocks, region.end_lba) - first))
        return parts


class _DeviceWatcher:
    """Passes on that a device or an external LU came or went, once for each."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._watched: list[object] = []

    def watch(self, device: object) -> None:
        """Begin with a device; again means nothing."""
        if device in self._watched:
            return
        self._watched.append(device)
        if isinstance(device, ExternalLogicalUnit):
            device.listen(self)
        elif isinstance(device, BlockDevice):
            device.listen(self._device_changed)

    def unwatch(self, device: object) -> None:
        """End with a device; again means nothing."""
        if device not in self._watched:
            return
        self._watched.remove(device)
        if isinstance(device, ExternalLogicalUnit):
            device.unlisten(self)
        elif isinstance(device, BlockDevice):
            device.unlisten(self._device_changed)

    def _device_changed(self, _: BlockDevice) -> None:
        self._changed()

    def unit_ready(self, _: ExternalLogicalUnit) -> None:
        self._changed()

    def unit_lost(self, _: ExternalLogicalUnit) -> None:
        self._changed()

    def unit_lapsed(self, _: ExternalLogicalUnit, __: str) -> None:
        """Nothing changes for a reader or writer: whoever holds a fence is told by its keeper."""
