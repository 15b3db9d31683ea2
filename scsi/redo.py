"""What WRITE ATOMIC needs to keep through a crash: the data, until all of it is stable where it belongs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from scsi.volume import Buffer, Done, VolumeError


class Redo(Protocol):
    """The record of one write, on stable storage.

    Attributes:
        lba: first block.
        data: whole blocks.
        block_bytes: their length.
        failure: why it could not be made stable, nor be removed again: nothing may be written by it, and nothing else
            before it is removed, since a start may find it. None for a good one.
    """

    @property
    def lba(self) -> int: ...
    @property
    def data(self) -> Buffer: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def failure(self) -> VolumeError | None: ...

    def forget(self, done: Done) -> None:
        """Remove the record; `done(None)` when no start will find it any more."""


class RedoLog(Protocol):
    """The records of one logical unit.

    Attributes:
        found: those that the last life of the daemon left, oldest first.
    """

    @property
    def found(self) -> Sequence[Redo]: ...

    def keep(self, lba: int, data: Buffer, block_bytes: int, done: Callable[[Redo | VolumeError], None]) -> None:
        """Make a record; `done` gets it when it is on stable storage."""
