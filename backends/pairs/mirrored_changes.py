"""What changes a pair other than by a plain write: WRITE SAME, UNMAP, WRITE AND VERIFY."""

from __future__ import annotations

from backends.pairs.mirror import BOTH, Mirror, MirroredWrite
from scsi.volume import Buffer, Done, Fault, ReadDone, Volume, VolumeError


class MirroredSame(MirroredWrite):
    """One block's data for many blocks."""

    __slots__ = ()

    def __init__(self, mirror: Mirror, leg: int, lba: int, blocks: int, block: Buffer, done: Done) -> None:
        super().__init__(mirror, leg, lba, blocks, block, False, done)

    def carry_out(self, leg: Volume, done: Done) -> None:
        leg.write_same(self.lba, self.data, self.end - self.lba, done)


class MirroredUnmap(MirroredWrite):
    """Blocks that are to read as zeroes, on both legs, whether or not these give storage back."""

    __slots__ = ()

    def __init__(self, mirror: Mirror, leg: int, lba: int, blocks: int, done: Done) -> None:
        super().__init__(mirror, leg, lba, blocks, b"", False, done)

    def carry_out(self, leg: Volume, done: Done) -> None:
        leg.unmap(self.lba, self.end - self.lba, done)


class MirroredWriteAndRead(MirroredWrite):
    """A write that each leg has to give again: a leg that can not, or gives other data, has failed it.

    Of one leg alone the host is told what it gives.
    """

    __slots__ = ("_found",)

    def __init__(self, mirror: Mirror, leg: int, lba: int, data: Buffer, done: ReadDone) -> None:
        self._found = data
        blocks = len(data) // mirror.dirty.block_bytes
        super().__init__(mirror, leg, lba, blocks, data, True, lambda error: done(error or self._found))

    def carry_out(self, leg: Volume, done: Done) -> None:
        def found(result: Buffer | VolumeError) -> None:
            if isinstance(result, VolumeError):
                done(result)
            elif result != self.data and self.legs == BOTH:
                done(VolumeError(Fault.WRITE_ERROR, "what it gives is not what was written"))
            else:
                self._found = result
                done(None)

        leg.write_and_read(self.lba, self.data, found)
