"""WRITE SAME and UNMAP of a pair: mirrored writes that carry no data of their length."""

from __future__ import annotations

from backends.pairs.mirror import Mirror, MirroredWrite
from scsi.volume import Buffer, Done, Volume


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
