"""Brings one chunk of a copy from leg to leg: what has storage is read and written, what has none is unmapped.

How this works. The chunk has its place in the order of the mirror from its first step to its last, so no host writes
its blocks meanwhile: what the source says of their storage stays true until the chunk is done. Blocks without storage
read as zeroes (`Volume.allocation`), and unmapped ones do (`Volume.unmap`), so both legs are as equal after that as
after a write. What the target says has no storage either is left as it is.

To ask costs most where there are no holes: a file is searched up to its next one. So the question reaches further each
time that all has storage, and is spared for chunks of which that is known. What has got none meanwhile is copied like
any other block.

Steps are taken one after the other, in a loop and not from each other's ends: legs may answer at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from backends.pairs.walking import LEG_FAULTS, Chunk
from scsi.volume import Allocation, Buffer, Volume, VolumeError

FURTHER = 4  # times as far


class Ahead:
    """What is known of the source ahead of a copy, for all its moves.

    Attributes:
        mapped: first and end of blocks that had storage.
        look_blocks: how far to ask next time.
    """

    __slots__ = ("_least_blocks", "look_blocks", "mapped")

    def __init__(self, least_blocks: int) -> None:
        self._least_blocks = self.look_blocks = least_blocks
        self.mapped = (0, 0)

    def knows(self, lba: int, end: int) -> bool:
        """Tell whether all of these blocks had storage."""
        return self.mapped[0] <= lba and end <= self.mapped[1]

    def learn(self, lba: int, found: list[Allocation]) -> None:
        """Take an answer to the question what has storage from `lba` on."""
        if len(found) == 1 and found[0].mapped:
            self.mapped = (lba, lba + found[0].blocks)
            self.look_blocks *= FURTHER
        else:
            self.look_blocks = self._least_blocks


class Move:
    """One chunk on its way.

    Attributes:
        chunk: the chunk.
        hole_blocks: how many of its blocks have no storage at the source.
        too_long: it is longer than what may be moved at once, and not all of it is without storage: nothing was done.
    """

    __slots__ = (
        "_again", "_ahead", "_at", "_done", "_piece_blocks", "_rewrite", "_running", "_source", "_target", "_todo",
        "chunk", "hole_blocks", "too_long",
    )  # fmt: skip

    def __init__(self, chunk: Chunk, ahead: Ahead, piece_blocks: int, done: Callable[[Move], None]) -> None:
        """Prepare.

        Args:
            chunk: what to move; it is its turn.
            ahead: what the copy knows of its source.
            piece_blocks: the most blocks that may be moved at once.
            done: called unless a leg failed, which is told to the chunk.
        """
        self.chunk = chunk
        self.hole_blocks = 0
        self.too_long = False
        walk = chunk.walk
        self._source: Volume = walk.mirror.legs[walk.source]
        self._target: Volume = walk.mirror.legs[walk.target]
        self._rewrite = walk.rewrite
        self._ahead = ahead
        self._piece_blocks = piece_blocks
        self._done = done
        self._at = chunk.lba
        self._todo: deque[Callable[[], None]] = deque()
        self._running = self._again = False

    def start(self) -> None:
        known = self.chunk.run.blocks <= self._piece_blocks and self._ahead.knows(self._at, self.chunk.end)
        if known or self._rewrite or self._source.deallocation is None:  # what has none may be lost in a cache as well
            self._todo.append(partial(self._copy, self._at, self.chunk.run.blocks))
            self._at = self.chunk.end
        self._go_on()

    def _go_on(self) -> None:
        self._again = True
        if self._running:
            return
        self._running = True
        while self._again:
            self._again = False
            self._step()
        self._running = False

    def _step(self) -> None:
        walk = self.chunk.walk
        asked = self._at == self.chunk.end
        if self.too_long or (asked and not self._todo):
            self._done(self)
        elif walk.halted():
            self.chunk.finish()
        elif self._todo:
            self._todo.popleft()()
        else:
            ahead = min(self._ahead.look_blocks, self._source.blocks - self._at)
            self._source.allocation(self._at, max(ahead, self.chunk.end - self._at), self._source_said)

    def _source_said(self, found: list[Allocation] | VolumeError) -> None:
        if isinstance(found, VolumeError):
            if found.fault in LEG_FAULTS:
                self._failed(self.chunk.walk.source, found)
                return
            found = [Allocation(self.chunk.end - self._at, mapped=True)]  # the read says what is the matter
        self._ahead.learn(self._at, found)
        found = list(_first(found, self.chunk.end - self._at))
        if self.chunk.run.blocks > self._piece_blocks and any(run.mapped for run in found):
            self.too_long = True
            self._go_on()
            return
        for run in found:
            self._todo.append(partial(self._copy if run.mapped else self._clear, self._at, run.blocks))
            self._at += run.blocks
            if not run.mapped:
                self.hole_blocks += run.blocks
        self._go_on()

    def _copy(self, lba: int, blocks: int) -> None:
        walk = self.chunk.walk

        def was_read(result: Buffer | VolumeError) -> None:
            if isinstance(result, VolumeError):
                self._failed(walk.source, result)
            elif self._rewrite:
                self._source.write(lba, result, False, partial(was_rewritten, result))
            else:
                self._target.write(lba, result, False, self._changed)

        def was_rewritten(data: Buffer, error: VolumeError | None) -> None:
            if error is not None:
                self._failed(walk.source, error)
            else:
                self._target.write(lba, data, False, self._changed)

        self._source.read(lba, blocks, was_read)

    def _clear(self, lba: int, blocks: int) -> None:
        def target_said(found: list[Allocation] | VolumeError) -> None:
            at = lba
            if isinstance(found, VolumeError):
                found = [Allocation(blocks, mapped=True)]
            todo: list[Callable[[], None]] = []
            for run in found:
                if run.mapped:
                    todo.append(partial(self._target.unmap, at, run.blocks, self._changed))
                at += run.blocks
            if at < lba + blocks:
                todo.append(partial(self._clear, at, lba + blocks - at))
            self._todo.extendleft(reversed(todo))
            self._go_on()

        if self._target.deallocation is None:
            self._target.unmap(lba, blocks, self._changed)  # writes zeroes, with no read and little on the wire
        else:
            self._target.allocation(lba, blocks, target_said)

    def _changed(self, error: VolumeError | None) -> None:
        if error is not None:
            self._failed(self.chunk.walk.target, error)
        else:
            self._go_on()

    def _failed(self, leg: int, error: VolumeError) -> None:
        self.chunk.failed(leg, error, 1 << self.chunk.walk.mirror.dirty.bit_shift)


def _first(found: list[Allocation], blocks: int) -> Iterator[Allocation]:
    """Give what is said of the first blocks."""
    for run in found:
        if blocks <= 0:
            return
        yield run._replace(blocks=min(run.blocks, blocks))
        blocks -= run.blocks
