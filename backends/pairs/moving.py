"""Brings one chunk of a copy from leg to leg: what has storage is read and written, what has none is unmapped.

How this works. The chunk has its place in the order of the mirror from its first step to its last, so no host writes
its blocks meanwhile: what the source says of their storage stays true until the chunk is done. Blocks without storage
read as zeroes (`Volume.allocation`), and unmapped ones do (`Volume.unmap`), so both legs are as equal after that as
after a write. What the target says has no storage either is left as it is.

Steps are taken one after the other, in a loop and not from each other's ends: legs may answer at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from backends.pairs.walking import LEG_FAULTS, Chunk
from scsi.volume import Allocation, Buffer, Volume, VolumeError


class Move:
    """One chunk on its way.

    Attributes:
        chunk: the chunk.
        hole_blocks: how many of its blocks have no storage at the source.
        too_long: it is longer than what may be moved at once, and not all of it is without storage: nothing was done.
    """

    __slots__ = (
        "_again", "_at", "_done", "_piece_blocks", "_rewrite", "_running", "_source", "_target", "_todo", "chunk",
        "hole_blocks", "too_long",
    )  # fmt: skip

    def __init__(self, chunk: Chunk, piece_blocks: int, done: Callable[[Move], None]) -> None:
        """Prepare.

        Args:
            chunk: what to move; it is its turn.
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
        self._piece_blocks = piece_blocks
        self._done = done
        self._at = chunk.lba
        self._todo: deque[Callable[[], None]] = deque()
        self._running = self._again = False

    def start(self) -> None:
        if self._rewrite or self._source.deallocation is None:  # what has no storage may be lost in a cache as well
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
            self._source.allocation(self._at, self.chunk.end - self._at, self._source_said)

    def _source_said(self, found: list[Allocation] | VolumeError) -> None:
        if isinstance(found, VolumeError):
            if found.fault in LEG_FAULTS:
                self._failed(self.chunk.walk.source, found)
                return
            found = [Allocation(self.chunk.end - self._at, mapped=True)]  # the read says what is the matter
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
