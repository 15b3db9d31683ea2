"""A transfer that is longer than one command to the array may be, cut into commands that run side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from scsi.volume import Buffer, Done, ReadDone, VolumeError

if TYPE_CHECKING:
    from backends.external.unit import ExternalLogicalUnit

WINDOW = 8  # commands of one transfer in flight


class _Pieces(ABC):
    """Starts pieces while there are any and fewer than `WINDOW` are out; the first error ends the starting."""

    def __init__(self, blocks: int, split_blocks: int) -> None:
        self._blocks = blocks
        self._split_blocks = split_blocks
        self._next = 0
        self._out = 0
        self._starting = False
        self._error: VolumeError | None = None

    def start(self) -> None:
        """Send as much as the window takes."""
        if self._starting:  # a piece that ended at once; the loop below goes on
            return
        self._starting = True
        while self._next < self._blocks and self._out < WINDOW and self._error is None:
            first = self._next
            self._next = min(first + self._split_blocks, self._blocks)
            self._out += 1
            self.send(first, self._next)
        self._starting = False
        if not self._out:
            self.finish(self._error)

    @abstractmethod
    def send(self, first: int, end: int) -> None:
        """Send the piece `first` … `end`, in blocks from the beginning of the transfer."""

    @abstractmethod
    def finish(self, error: VolumeError | None) -> None:
        """Tell whoever waits."""

    def ended(self, error: VolumeError | None) -> None:
        """Count a piece that came back."""
        self._out -= 1
        if error is not None and self._error is None:
            self._error = error
        self.start()


class ReadPieces(_Pieces):
    """A long read into one buffer."""

    def __init__(self, unit: ExternalLogicalUnit, lba: int, blocks: int, split_blocks: int, done: ReadDone) -> None:
        super().__init__(blocks, split_blocks)
        self._unit = unit
        self._lba = lba
        self._done = done
        self._data = memoryview(bytearray(blocks * unit.block_bytes))

    def send(self, first: int, end: int) -> None:
        """Send one READ."""
        size = self._unit.block_bytes
        self._unit.read_into(self._lba + first, self._data[first * size : end * size], self._came)

    def _came(self, result: Buffer | VolumeError) -> None:
        self.ended(result if isinstance(result, VolumeError) else None)

    def finish(self, error: VolumeError | None) -> None:
        """Hand over the whole buffer."""
        self._done(self._data if error is None else error)


class WritePieces(_Pieces):
    """A long write."""

    def __init__(
        self, unit: ExternalLogicalUnit, lba: int, data: Buffer, split_blocks: int, fua: bool, done: Done
    ) -> None:
        super().__init__(len(data) // unit.block_bytes, split_blocks)
        self._unit = unit
        self._lba = lba
        self._data = memoryview(data)
        self._fua = fua
        self._done = done

    def send(self, first: int, end: int) -> None:
        """Send one WRITE."""
        size = self._unit.block_bytes
        self._unit.write(self._lba + first, self._data[first * size : end * size], self._fua, self.ended)

    def finish(self, error: VolumeError | None) -> None:
        """Tell whoever waits."""
        self._done(error)
