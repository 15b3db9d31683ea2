"""A volume in memory that does what a test tells it: fail here, complete later, lose its cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from backends.devices.state import DeviceState
from scsi.volume import (
    OWN_BLOCKS,
    Allocation,
    AllocationDone,
    Buffer,
    ClaimDone,
    Deallocation,
    Done,
    Fault,
    ReadDone,
    VolumeError,
    write_then_read,
)


@dataclass
class Operation:
    """One read, write or flush as it came in; `finish` belongs to `MemoryVolume`.

    Attributes:
        name: "read", "write", "flush", or "unmap", which is a write to everything else.
        lba: first block; 0 for a flush.
        blocks: how many; 0 for a flush.
        data: of a write, as it was when it came in; b"" otherwise.
        fua: of a write.
    """

    name: str
    lba: int
    blocks: int
    data: bytes
    fua: bool
    finish: Callable[[VolumeError | None], None]

    def __str__(self) -> str:
        return self.name if self.name == "flush" else f"{self.name} {self.lba}+{self.blocks}{' fua' * self.fua}"


@dataclass
class PlannedFault:
    """An error for the operations that touch a range; `left` counts down to 0, None never does."""

    operation: str
    error: VolumeError
    first_lba: int
    end_lba: float
    left: int | None

    def hits(self, operation: Operation) -> bool:
        name = "write" if operation.name == "unmap" else operation.name
        if self.left == 0 or self.operation not in (operation.name, name, "any"):
            return False
        touches = operation.lba < self.end_lba and operation.lba + operation.blocks > self.first_lba
        return touches or operation.name == "flush"


class MemoryVolume:
    """A `scsi.volume.Volume` over a bytearray.

    Operations complete before the call returns, unless `hold` says otherwise; a held write lands, and a held read
    looks, when it is released, so any order of completions can be played. With `write_cache` a write is volatile
    until flushed or FUA.

    Attributes:
        data: the content as a reader sees it; `stable` as it would be after a power cut.
        journal: every operation in the order it came in (also those that failed).
        held: operations waiting for `release`.
        hold: True: hold all from now on; a callable: hold the operations for which it is true.
        unready: what `fault()` gives; while it is not None every operation fails with it.
        claimable: see `Volume`.
        deallocation: see `Volume`; with it, blocks that were unmapped and not written since have no storage.
    """

    def __init__(
        self, blocks: int = 2048, block_bytes: int = 512, *, write_cache: bool = False, read_only: bool = False
    ) -> None:
        self.blocks = blocks
        self.block_bytes = block_bytes
        self.physical_block_exponent = 0
        self.write_cache = write_cache
        self.read_only = read_only
        self.max_transfer_blocks = 0
        self.deallocation: Deallocation | None = None
        self.claimable = True
        self.data = bytearray(blocks * block_bytes)
        self.stable = bytearray(blocks * block_bytes)
        self.journal: list[Operation] = []
        self.held: list[Operation] = []
        self.hold: bool | Callable[[Operation], bool] = False
        self.unready: VolumeError | None = None
        self._faults: list[PlannedFault] = []
        self._unmapped: set[int] = set()
        self._unflushed: list[tuple[int, bytes]] = []

    @property
    def state(self) -> DeviceState:
        """As of a device: READY unless `unready`."""
        if self.unready is None:
            return DeviceState.READY
        return DeviceState.BLOCKED if self.unready.fault is Fault.BLOCKED else DeviceState.PENDING

    def fault(self) -> VolumeError | None:
        return self.unready

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        offset, count = self._place(lba, blocks)

        def finish(error: VolumeError | None) -> None:
            done(error or bytes(self.data[offset : offset + count]))

        self._begin(Operation("read", lba, blocks, b"", False, finish))

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        blocks, rest = divmod(len(data), self.block_bytes)
        assert rest == 0
        offset, _ = self._place(lba, blocks)

        def finish(error: VolumeError | None) -> None:
            if error is None:
                self._land(offset, bytes(data), stable=fua or not self.write_cache)
                self._unmapped.difference_update(range(lba, lba + blocks))
            done(error)

        self._begin(Operation("write", lba, blocks, bytes(data), fua, finish))

    def write_and_read(self, lba: int, data: Buffer, done: ReadDone) -> None:
        write_then_read(self, lba, data, done)

    def write_same(self, lba: int, block: Buffer, blocks: int, done: Done) -> None:
        assert blocks
        assert len(block) == self.block_bytes
        self.write(lba, bytes(block) * blocks, False, done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        assert blocks
        offset, count = self._place(lba, blocks)

        def finish(error: VolumeError | None) -> None:
            if error is None:
                self._land(offset, bytes(count), stable=not self.write_cache)
                if self.deallocation is not None:
                    self._unmapped.update(range(lba, lba + blocks))
            done(error)

        self._begin(Operation("unmap", lba, blocks, bytes(count), False, finish))

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        self._place(lba, blocks)
        runs: list[Allocation] = []
        for at in range(lba, lba + blocks):
            mapped = at not in self._unmapped
            if runs and runs[-1].mapped is mapped:
                runs[-1] = Allocation(runs[-1].blocks + 1, mapped)
            else:
                runs.append(Allocation(1, mapped))
        done(self.unready or runs)

    def claim(self, lba: int, blocks: int, done: ClaimDone) -> None:
        self._place(lba, blocks)
        done(self.unready or OWN_BLOCKS)

    def flush(self, done: Done) -> None:
        def finish(error: VolumeError | None) -> None:
            if error is None:
                self.stable[:] = self.data
                self._unflushed.clear()
            done(error)

        self._begin(Operation("flush", 0, 0, b"", False, finish))

    def fail(
        self,
        operation: str,
        fault: Fault,
        first_lba: int = 0,
        blocks: int | None = None,
        *,
        times: int | None = None,
        lba: int | None = None,
    ) -> None:
        """Make operations that touch a range fail.

        Args:
            operation: "read", "write", "flush" or "any".
            fault: the reason that they get.
            first_lba: where the range begins.
            blocks: its length, None for all to the end.
            times: how many operations fail, None for all.
            lba: the bad block that the error names.
        """
        end = float("inf") if blocks is None else first_lba + blocks
        self._faults.append(PlannedFault(operation, VolumeError(fault, "planned", lba), first_lba, end, times))

    def heal(self) -> None:
        """Forget every planned fault."""
        self._faults.clear()

    def release(self, index: int = 0, error: VolumeError | None = None) -> Operation:
        """Complete one held operation, the oldest by default, or make it fail with `error`."""
        operation = self.held.pop(index)
        operation.finish(error or self._error(operation))
        return operation

    def release_all(self) -> None:
        """Complete the held operations in order, and those that come while that is done; hold nothing any more."""
        self.hold = False
        while self.held:
            self.release()

    def power_cut(self, rng: random.Random | None = None) -> None:
        """Lose what is not stable: held operations end with LINK_LOST, writes not flushed are undone.

        Args:
            rng: with it each unflushed write survives or not by chance, as in a drive's cache; without it none does.
        """
        survivors = [write for write in self._unflushed if rng and rng.random() < 0.5]
        self._unflushed.clear()
        self.data[:] = self.stable
        for offset, data in survivors:
            self._land(offset, data, stable=True)
        held, self.held = self.held, []
        for operation in held:
            operation.finish(VolumeError(Fault.LINK_LOST, "power cut"))

    def operations(self) -> list[str]:
        """Give the journal in words, as "write 8+8 fua"."""
        return [str(operation) for operation in self.journal]

    def _place(self, lba: int, blocks: int) -> tuple[int, int]:
        assert lba >= 0
        assert blocks >= 0
        assert lba + blocks <= self.blocks, f"{lba}+{blocks} is past the end, {self.blocks}"
        return lba * self.block_bytes, blocks * self.block_bytes

    def _begin(self, operation: Operation) -> None:
        self.journal.append(operation)
        if self.hold(operation) if callable(self.hold) else self.hold:
            self.held.append(operation)
        else:
            operation.finish(self._error(operation))

    def _error(self, operation: Operation) -> VolumeError | None:
        if self.unready:
            return self.unready
        if operation.name in {"write", "unmap"} and self.read_only:
            return VolumeError(Fault.WRITE_PROTECTED, "read-only")
        for planned in self._faults:
            if planned.hits(operation):
                if planned.left is not None:
                    planned.left -= 1
                return planned.error
        return None

    def _land(self, offset: int, data: bytes, *, stable: bool) -> None:
        self.data[offset : offset + len(data)] = data
        if stable:
            self.stable[offset : offset + len(data)] = data
        else:
            self._unflushed.append((offset, data))
