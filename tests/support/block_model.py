"""What a reader of one LU may see: for each block the writes that may be the last one, worked out from a journal.

A value is allowed when no acknowledged write was issued after it had ended, and no read has shown that it lost. Writes
without an answer (in flight, failed, or cut off by a crash) stay possible until a later acknowledged write, or a read,
rules them out.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from scsi.volume import Buffer

_HEAD = struct.Struct(">QQ")
INITIAL = 0
FOREIGN = b"\xee"


class Kind(enum.Enum):
    """What a write does: data of its own in each block, the same in each, or nothing but zeroes."""

    WRITE = "write"
    SAME = "write same"
    UNMAP = "unmap"


@dataclass(eq=False)
class Write:
    """One write of a journal; times are virtual seconds, `end` None while it is in flight."""

    version: int
    lba: int
    blocks: int
    issued: float
    end: float | None = None
    kind: Kind = Kind.WRITE

    @property
    def shown(self) -> int:
        """The version that its blocks show."""
        return INITIAL if self.kind is Kind.UNMAP else self.version

    def home(self, lba: int) -> int:
        """The place that its block at `lba` names."""
        return self.lba if self.kind is Kind.SAME else lba


class BlockModel:
    """The possible contents of one LU."""

    def __init__(self, blocks: int, block_bytes: int) -> None:
        self.blocks = blocks
        self.block_bytes = block_bytes
        self._initial = Write(INITIAL, 0, blocks, -1.0, -1.0)
        self._acknowledged = {INITIAL}  # versions, on this leg
        # Absent: the initial content. None: anything, since the LU was given data that may be old.
        self._possible: dict[int, list[Write] | None] = {}
        # For power losses: everything since the last write known to be stable.
        self._since_stable: dict[int, list[Write]] = {}
        self._sames: dict[int, Write] = {}  # by version, those of any leg
        self._issued: dict[int, float] = {}  # by what is shown
        self.foreign: set[int] = set()  # blocks that somebody else may have written, past annex

    def copy(self) -> BlockModel:
        other = BlockModel(self.blocks, self.block_bytes)
        other._initial = self._initial
        other._acknowledged = set(self._acknowledged)
        other._sames = self._sames
        other._issued = self._issued
        other.foreign = set(self.foreign)
        other._possible = {at: None if some is None else list(some) for at, some in self._possible.items()}
        other._since_stable = {at: list(some) for at, some in self._since_stable.items()}
        return other

    def forgotten(self) -> BlockModel:
        """Give a model that allows anything everywhere: the leg may be old."""
        other = self.copy()
        other._possible = dict.fromkeys(range(self.blocks))
        return other

    def issue(self, write: Write) -> None:
        self._issued[write.shown] = write.issued
        if write.kind is Kind.SAME:
            self._sames[write.version] = write
        for lba in range(write.lba, write.lba + write.blocks):
            if write in self._since_stable.get(lba, ()):
                continue
            possible = self._possible.setdefault(lba, [self._initial])
            if possible is not None:
                possible.append(write)
            self._since_stable.setdefault(lba, [self._initial]).append(write)

    def acknowledge(self, write: Write) -> None:
        """The write got GOOD: what had ended before it was issued has lost."""
        self._acknowledged.add(write.version)
        for lba in range(write.lba, write.lba + write.blocks):
            possible = self._possible.get(lba)
            if possible is None:
                known = self._since_stable[lba]
                self._possible[lba] = [w for w in known if w is write or w.end is None or w.end >= write.issued]
            else:
                possible[:] = [w for w in possible if w is write or w.end is None or w.end >= write.issued]
                if write not in possible:
                    possible.append(write)

    def failed(self, write: Write) -> None:
        """The write ended with an error: who saw it while it was in flight may see the value before it again."""
        for lba in range(write.lba, write.lba + write.blocks):
            if self._possible.get(lba) is not None:
                some = self._since_stable[lba]
                floor = max((w.issued for w in some if w.version in self._acknowledged), default=-1.0)
                self._possible[lba] = [w for w in some if w.end is None or w.end >= floor]

    def snapshot(self, lba: int, blocks: int) -> dict[int, list[Write] | None]:
        """Remember what is possible when a read is issued: it may still give that when it ends."""
        return {at: _copied(self._possible.get(at, [self._initial])) for at in range(lba, lba + blocks)}

    def flushed(self, issued: float) -> None:
        """A flush issued at that time got GOOD (I8)."""
        for some in self._since_stable.values():
            floors = [w for w in some if w.version in self._acknowledged and w.end is not None and w.end < issued]
            if floors:
                floor = max(w.issued for w in floors)
                some[:] = [w for w in some if w.end is None or w.end >= floor]

    def flushed_write(self, write: Write) -> None:
        """A write with FUA got GOOD: nothing older can come back."""
        for lba in range(write.lba, write.lba + write.blocks):
            some = self._since_stable[lba]
            some[:] = [w for w in some if w is write or w.end is None or w.end >= write.issued]

    def power_lost(self) -> None:
        """Unflushed writes may be gone from what is read."""
        for lba, some in self._since_stable.items():
            if len(some) > 1:
                # From now on they are among those that may or may not be there.
                self._acknowledged -= {write.version for write in some}
            if self._possible.get(lba, []) is not None:
                self._possible[lba] = list(some)

    def check(
        self, lba: int, data: bytes, issued: float, before: dict[int, list[Write] | None] | None = None
    ) -> str | None:
        """Say what is wrong with what a read returned, or None; `before` is the snapshot of when it was issued."""
        for at in range(len(data) // self.block_bytes):
            block = data[at * self.block_bytes : (at + 1) * self.block_bytes]
            if lba + at in self.foreign and block == FOREIGN * self.block_bytes:
                continue
            version, place = _HEAD.unpack_from(block)
            home = self._sames[version].home(lba + at) if version in self._sames else lba + at
            if version != INITIAL and (place != home or block != content(version, home, self.block_bytes)):
                return f"block {lba + at} is torn or misplaced: version {version} of block {place}"
            possible = self._possible.get(lba + at, [self._initial])
            if possible is None:
                continue
            seen = [w for w in possible if w.shown == version]  # zeroes may be from several
            if not seen and before is not None:
                then = before[lba + at]
                if then is None or any(w.shown == version for w in then):
                    continue  # it was the value when the read was issued
                if self._issued.get(version, -1.0) >= issued:
                    continue  # it was the value for a time while the read was under way
            if not seen:
                allowed = [w.shown for w in possible]
                return f"block {lba + at} has version {version}, allowed are {allowed}"
            # I4: what had ended before this read and did not show has lost.
            possible[:] = [w for w in possible if w in seen or w.end is None or w.end >= issued]
        return None


def _copied(some: list[Write] | None) -> list[Write] | None:
    return None if some is None else list(some)


def content(version: int, lba: int, block_bytes: int) -> bytes:
    """Give a block that tells which write it is from, from its first byte to its last."""
    head = _HEAD.pack(version, lba)
    return head + bytes(block_bytes - 2 * len(head)) + head


def version_of(block: Buffer) -> int:
    """Read which write a block says it is from."""
    version: int = _HEAD.unpack_from(block)[0]
    return version


def data_of(write: Write, block_bytes: int) -> bytes:
    lbas = range(write.lba, write.lba + write.blocks)
    return b"".join(content(write.version, write.home(lba), block_bytes) for lba in lbas)
