"""What the SCSI layer needs from below: a run of blocks, and the ways in which it can fail.

Everything that holds blocks is a `Volume`: a local device, an external LU, a virtual device made of regions of both,
and a pair as its primary sees it. They stack, and a logical unit never knows which of them it sits on.

How completion works: each operation takes a `done` callback. It is called exactly once, on the thread of the event
loop, and **possibly before the call returns** (a read served from memory has nothing to wait for). An operation never
raises for a fault of the medium; it hands `done` a `VolumeError`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple, Protocol

Buffer = bytes | bytearray | memoryview


class Fault(enum.Enum):
    """Why an operation on a volume failed, in words that know nothing of SCSI; `scsi.sense` maps each to sense data."""

    BECOMING_READY = "becoming ready"  # a path to the external array is being made; trying again soon is sensible
    BLOCKED = "blocked"  # needs an admin: other LU id than recorded, device gone, size changed
    READ_ERROR = "read error"
    WRITE_ERROR = "write error"
    NO_SPACE = "no space"
    WRITE_PROTECTED = "write protected"
    HARDWARE = "hardware fault"
    TIMED_OUT = "timed out"  # no answer within the bound; whether it was done is not known
    LINK_LOST = "link lost"  # the path died with the operation in flight; whether it was done is not known
    RESERVATION_CONFLICT = "reservation conflict"  # the external array's answer, passed through
    BUSY = "busy"
    NOT_MIRRORED = "not mirrored"  # pairs.md: by fence level, or the dirty mark could not be made stable


class VolumeError(Exception):
    """One failed operation on a volume.

    Attributes:
        fault: the reason, which decides what the host is told.
        detail: for the log: device or array, operation, errno or sense in words.
        lba: first logical block known to be bad, in the blocks of the volume that reports it, or None.
    """

    def __init__(self, fault: Fault, detail: str = "", lba: int | None = None) -> None:
        super().__init__(f"{fault.value}: {detail}" if detail else fault.value)
        self.fault = fault
        self.detail = detail
        self.lba = lba


class Deallocation(NamedTuple):
    """In what pieces a volume gives storage back.

    Attributes:
        granularity_blocks: length of a piece; of a piece that is unmapped in part the storage stays, with zeroes in it.
        first_lba: where the first whole piece begins, less than `granularity_blocks`.
    """

    granularity_blocks: int
    first_lba: int = 0


class Allocation(NamedTuple):
    """A run of blocks that have storage (`mapped`), or have none and read as zeroes."""

    blocks: int
    mapped: bool


class Claim(Protocol):
    """Blocks of a volume that nobody beside this daemon can write: what `Volume.claim` gives, until it is given up."""

    def lost(self) -> bool:
        """Tell whether others may have written since it was given."""

    def give_up(self, done: Callable[[], None]) -> None:
        """Let others write again; once. `done` is called when that is settled, possibly at once."""


class OwnBlocks:
    """The claim on blocks that nobody else can reach anyway."""

    def lost(self) -> bool:
        return False

    def give_up(self, done: Callable[[], None]) -> None:
        done()


OWN_BLOCKS = OwnBlocks()

ReadDone = Callable[[Buffer | VolumeError], None]
Done = Callable[[VolumeError | None], None]
AllocationDone = Callable[[list[Allocation] | VolumeError], None]
ClaimDone = Callable[[Claim | VolumeError], None]


class Volume(Protocol):
    """A run of logical blocks that can be read, written and flushed.

    Callers keep ranges inside `0 … blocks` and lengths whole; implementations may assert it. A buffer handed to `write`
    is not changed by the caller until `done`; a buffer handed to `ReadDone` is the callee's to keep, and is never
    reused by the volume.

    `write_same` and `unmap` are writes in every respect: mirrored, refused and made stable as a `write` of the same
    blocks is. Like that, one that fails may have changed any of its blocks, each as a whole.

    Attributes:
        block_bytes: logical block length, bytes (512 or 4096).
        blocks: capacity in logical blocks; 0 while it is not known yet (then `fault()` is not None).
        physical_block_exponent: logical blocks per physical block, as a power of two (READ CAPACITY (16)).
        write_cache: True when a write may be acknowledged before it is stable; then only `flush` or `fua` make it so.
        read_only: True when every write is refused with WRITE_PROTECTED.
        max_transfer_blocks: the most blocks one operation should carry, 0 for no limit (VPD B0). No limit of
            `write_same` and `unmap`, which carry none.
        deallocation: in what pieces `unmap` gives storage back, None when nothing below does.
        claimable: False when nothing keeps others from writing some of the blocks, so that `claim` fails.
    """

    @property
    def block_bytes(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def physical_block_exponent(self) -> int: ...
    @property
    def write_cache(self) -> bool: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def max_transfer_blocks(self) -> int: ...
    @property
    def deallocation(self) -> Deallocation | None: ...
    @property
    def claimable(self) -> bool: ...

    def fault(self) -> VolumeError | None:
        """Say why the volume can not serve now (what TEST UNIT READY reports), or None when it can."""

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        """Read whole blocks; `done` gets exactly `blocks * block_bytes` bytes, or the error."""

    def write(self, lba: int, data: Buffer, fua: bool, done: Done) -> None:
        """Write whole blocks; with `fua` the data is on stable storage before `done(None)`."""

    def write_and_read(self, lba: int, data: Buffer, done: ReadDone) -> None:
        """Write whole blocks, have them stable, and read them again; `done` gets what was read, or the error.

        Whoever has the blocks more than once does this with each, and a medium that gives other data, where another
        one gives what was written, has failed the write.
        """

    def flush(self, done: Done) -> None:
        """Make every write acknowledged so far stable (fdatasync on each leg); `done(None)` only after that."""

    def write_same(self, lba: int, block: Buffer, blocks: int, done: Done) -> None:
        """Write the data of one block to each of `blocks` blocks, at least one."""

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        """Have `blocks` blocks, at least one, read as zeroes from now on, and give their storage back where that goes.

        Zeroes are the promise, whatever the storage below makes of being unmapped; without `deallocation` they are
        written.
        """

    def allocation(self, lba: int, blocks: int, done: AllocationDone) -> None:
        """Say which blocks have storage, in runs from `lba` on: at least one, and they may end before the range does.

        Who does not know says that all have.
        """

    def claim(self, lba: int, blocks: int, done: ClaimDone) -> None:
        """Keep everybody beside this daemon from writing `blocks` blocks, at least one.

        For what reads them and then writes what depends on it. Those that write through this volume are kept apart by
        the logical unit on it.
        """


def write_then_read(volume: Volume, lba: int, data: Buffer, done: ReadDone) -> None:
    """Do `Volume.write_and_read` for a volume that has its blocks once."""

    def written(error: VolumeError | None) -> None:
        if error is None:
            volume.read(lba, len(data) // volume.block_bytes, done)
        else:
            done(error)

    volume.write(lba, data, True, written)
