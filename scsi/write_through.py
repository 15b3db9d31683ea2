"""A volume without a write cache, made of one that may have one: what WCE = 0 is."""

from __future__ import annotations

from scsi.volume import AllocationDone, Buffer, ClaimDone, Deallocation, Done, ReadDone, Volume, VolumeError


class WriteThrough:
    """Every write is stable before it is done; a `scsi.volume.Volume` on another."""

    write_cache = False

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    @property
    def block_bytes(self) -> int:
        return self._volume.block_bytes

    @property
    def blocks(self) -> int:
        return self._volume.blocks

    @property
    def physical_block_exponent(self) -> int:
        return self._volume.physical_block_exponent

    @property
    def read_only(self) -> bool:
        return self._volume.read_only

    @property
    def max_transfer_blocks(self) -> int:
        return self._volume.max_transfer_blocks

    @property
    def deallocation(self) -> Deallocation | None:
        return self._volume.deallocation

    @property
    def claimable(self) -> bool:
        return self._volume.claimable

    def fault(self) -> VolumeError | None:
        return self._volume.fault()

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self._volume.read(lba, blocks, done)

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        del fua
        self._volume.write(lba, data, True, done)

    def write_and_read(self, lba: int, data: Buffer, done: ReadDone) -> None:
        self._volume.write_and_read(lba, data, done)

    def flush(self, done: Done) -> None:
        self._volume.flush(done)

    def write_same(self, lba: int, block: Buffer, blocks: int, done: Done) -> None:
        self._volume.write_same(lba, block, blocks, self._then_flush(done))

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self._volume.unmap(lba, blocks, self._then_flush(done))

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        self._volume.allocation(lba, blocks, done)

    def claim(self, lba: int, blocks: int, done: ClaimDone) -> None:
        self._volume.claim(lba, blocks, done)

    def _then_flush(self, done: Done) -> Done:
        def written(error: VolumeError | None) -> None:
            if error is None:
                self._volume.flush(done)
            else:
                done(error)

        return written
