"""What the LUs of a pair sit on: the pair as it looks from one leg; and what stands in for a missing leg."""

from __future__ import annotations

from typing import Protocol

from backends.pairs.mirror import Mirror
from backends.pairs.mirror_claim import MirrorClaim
from backends.pairs.mirror_flush import Flushes
from backends.pairs.mirrored_changes import MirroredSame, MirroredUnmap, MirroredWriteAndRead
from backends.split_requests import common_deallocation
from scsi.volume import AllocationDone, Buffer, ClaimDone, Deallocation, Done, Fault, ReadDone, Volume, VolumeError


class VolumeKeeper(Protocol):
    """The pair, as its volumes see it."""

    def refusal(self, leg: int) -> VolumeError | None:
        """Say why a write through the LU of this leg is refused now."""

    def blocked(self) -> VolumeError | None:
        """Say why neither LU can be served, or None."""


class PairedVolume:
    """A pair seen by the LU of one leg.

    Whether that is the primary or the secondary may change; the LU keeps its volume.
    """

    claimable = True  # the fences of the pair are held anyway

    def __init__(self, mirror: Mirror, flushes: Flushes, keeper: VolumeKeeper, leg: int) -> None:
        self._mirror = mirror
        self._flushes = flushes
        self._keeper = keeper
        self._leg = leg
        self.block_bytes = mirror.dirty.block_bytes
        self.blocks = mirror.dirty.blocks

    @property
    def physical_block_exponent(self) -> int:
        return max(leg.physical_block_exponent for leg in self._mirror.legs)

    @property
    def write_cache(self) -> bool:
        return any(leg.write_cache for leg in self._mirror.legs)

    @property
    def read_only(self) -> bool:
        if self._leg == self._mirror.fast_leg:
            return False
        refusal = self._keeper.refusal(self._leg)
        return refusal is not None and refusal.fault is Fault.WRITE_PROTECTED

    @property
    def max_transfer_blocks(self) -> int:
        return min((leg.max_transfer_blocks for leg in self._mirror.legs if leg.max_transfer_blocks), default=0)

    @property
    def deallocation(self) -> Deallocation | None:
        return common_deallocation((leg.deallocation, 0) for leg in self._mirror.legs)

    def fault(self) -> VolumeError | None:
        mirror = self._mirror
        blocked = self._keeper.blocked()
        if blocked is not None:
            return blocked
        serving = self._serving()
        fault = mirror.legs[serving].fault()
        if fault is not None and mirror.mirrored and not mirror.dirty.dirty_bits:
            return mirror.legs[1 - serving].fault() and fault
        return fault

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self._mirror.read(self._leg, lba, blocks, done)

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        self._mirror.write(self._leg, lba, data, fua, done)

    def write_and_read(self, lba: int, data: Buffer, done: ReadDone) -> None:
        self._mirror.admit(MirroredWriteAndRead(self._mirror, self._leg, lba, data, done))

    def write_same(self, lba: int, block: Buffer, blocks: int, done: Done) -> None:
        self._mirror.admit(MirroredSame(self._mirror, self._leg, lba, blocks, block, done))

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self._mirror.admit(MirroredUnmap(self._mirror, self._leg, lba, blocks, done))

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        self._mirror.legs[self._serving()].allocation(lba, blocks, done)

    def claim(self, lba: int, blocks: int, done: ClaimDone) -> None:
        MirrorClaim(self._mirror, self._leg, lba, blocks, done).retry()

    def flush(self, done: Done) -> None:
        self._flushes.flush(self._leg, done)

    def _serving(self) -> int:
        return self._mirror.current if self._leg == self._mirror.primary else self._leg


class AbsentVolume:
    """Stands in for a leg whose virtual device is missing, or is not the one that was paired."""

    physical_block_exponent = 0
    write_cache = True
    read_only = True
    max_transfer_blocks = 0
    deallocation: Deallocation | None = None
    claimable = True

    def __init__(self, blocks: int, block_bytes: int, why: str) -> None:
        self.blocks = blocks
        self.block_bytes = block_bytes
        self._error = VolumeError(Fault.BLOCKED, why)

    def fault(self) -> VolumeError | None:
        return self._error

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        del lba, blocks
        done(self._error)

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        del lba, data, fua
        done(self._error)

    def write_and_read(self, lba: int, data: Buffer, done: ReadDone) -> None:
        del lba, data
        done(self._error)

    def write_same(self, lba: int, block: Buffer, blocks: int, done: Done) -> None:
        del lba, block, blocks
        done(self._error)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        del lba, blocks
        done(self._error)

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        del lba, blocks
        done(self._error)

    def claim(self, lba: int, blocks: int, done: ClaimDone) -> None:
        del lba, blocks
        done(self._error)

    def flush(self, done: Done) -> None:
        done(self._error)


def serves(volume: Volume) -> bool:
    """Tell whether a volume can serve now."""
    return volume.fault() is None
