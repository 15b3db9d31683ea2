"""Copies what is dirty from the current leg to the other one, and compares the two.

A block's dirty bit goes out in memory when its copy has arrived; on disk it does when its extent is closed, which is
after a flush of both legs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from backends.pairs.dirty_map import Run
from backends.pairs.mirror import Mirror
from backends.pairs.moving import Ahead, Move
from backends.pairs.walking import Chunk, Walk, WalkEnd, WalkLimits, WalkTime
from scsi.volume import Buffer, Fault, VolumeError


class Copy(Walk):
    """Copies the dirty blocks, until there is none that can be copied."""

    def __init__(self, mirror: Mirror, time: WalkTime, limits: WalkLimits, ended: Callable[[WalkEnd], None]) -> None:
        super().__init__(mirror, time, limits, ended)
        self._cursor = 0
        self._ahead = Ahead(self.chunk_blocks)
        self._in_hole = False  # the last chunk had no storage at the source: the next one may not have either

    def next_run(self) -> Run | None:
        dirty = self.mirror.dirty
        most = 1 << dirty.extent_shift if self._in_hole else self.piece_blocks
        run = dirty.next_run(self._cursor, most, self.bad)
        if run is None and self._cursor and not self._under_way:
            # Once more from the start, for what was marked behind the cursor.
            run = dirty.next_run(0, most, self.bad)
        if run is not None:
            self._cursor = run.lba + run.blocks
        return run

    def work(self, chunk: Chunk) -> None:
        Move(chunk, self._ahead, self.chunk_blocks, self._moved).start()

    def _moved(self, move: Move) -> None:
        chunk = move.chunk
        self._in_hole = move.hole_blocks == chunk.run.blocks
        if move.too_long:
            for lba in range(chunk.lba, chunk.end, self.chunk_blocks):
                self.begin(Run(lba, min(self.chunk_blocks, chunk.end - lba)))
            chunk.finish()
            return
        if move.hole_blocks and self.mirror.legs[self.target].deallocation is not None:
            self.give_back(move.hole_blocks)
        self._copied(chunk)

    def _copied(self, chunk: Chunk) -> None:
        mirror = self.mirror
        shift = mirror.dirty.extent_shift
        if not mirror.mirrored:
            chunk.finish()  # writes may have passed this chunk by on the one leg that is left
            return
        for extent in range(chunk.lba >> shift, ((chunk.end - 1) >> shift) + 1):
            mirror.log.open[extent] = mirror.log.stamp
        mirror.dirty.clear(*chunk.run)
        self.did(chunk.run.blocks)
        chunk.finish()


class Comparison(Walk):
    """Compares the legs, and marks what differs."""

    marks_first = False  # nearly all of it is equal

    def __init__(self, mirror: Mirror, time: WalkTime, limits: WalkLimits, ended: Callable[[WalkEnd], None]) -> None:
        super().__init__(mirror, time, limits, ended)
        self._cursor = 0

    def next_run(self) -> Run | None:
        blocks = min(self.piece_blocks, self.mirror.dirty.blocks - self._cursor)
        if blocks <= 0:
            return None
        run = Run(self._cursor, blocks)
        self._cursor += blocks
        return run

    def work(self, chunk: Chunk) -> None:
        mirror = self.mirror
        bit_blocks = 1 << mirror.dirty.bit_shift
        results: dict[int, Buffer | VolumeError] = {}

        def was_read(leg: int, result: Buffer | VolumeError) -> None:
            results[leg] = result
            if len(results) == 2:
                failed = [(at, found) for at, found in results.items() if isinstance(found, VolumeError)]
                if failed:
                    chunk.failed(*failed[0], bit_blocks)
                else:
                    self._compare(chunk, memoryview(_data(results[0])), memoryview(_data(results[1])))

        for leg in (0, 1):
            mirror.legs[leg].read(*chunk.run, partial(was_read, leg))

    def spoil(self, run: Run) -> None:
        """Blocks that one leg can not read are not known to be equal."""
        super().spoil(run)

        def opened(error: Exception | None) -> None:
            if error is None:
                self.mirror.dirty.set(*run)
            else:
                self.fail(self.target, VolumeError(Fault.NOT_MIRRORED, f"the mark is not stable: {error}"))
            self.chunk_ended()

        self._under_way += 1
        shift = self.mirror.dirty.extent_shift
        if self.mirror.log.admit(run.lba >> shift, (run.lba + run.blocks - 1) >> shift, opened):
            opened(None)

    def _compare(self, chunk: Chunk, ours: memoryview, theirs: memoryview) -> None:
        self.did(chunk.run.blocks)
        if ours == theirs:
            chunk.finish()
            return
        bit_blocks = 1 << self.mirror.dirty.bit_shift
        step = bit_blocks * self.mirror.dirty.block_bytes
        differ = [
            Run(lba, min(bit_blocks, self.mirror.dirty.blocks - lba))
            for lba, at in zip(range(chunk.lba, chunk.end, bit_blocks), range(0, len(ours), step), strict=True)
            if ours[at : at + step] != theirs[at : at + step]
        ]
        self.end.found_blocks += sum(run.blocks for run in differ)

        def opened(error: Exception | None) -> None:
            if error is not None:
                self.fail(self.target, VolumeError(Fault.NOT_MIRRORED, f"the mark is not stable: {error}"))
            else:
                for run in differ:
                    self.mirror.dirty.set(*run)
            chunk.finish()

        if chunk.admit_extents(opened):
            opened(None)


def _data(result: Buffer | VolumeError) -> Buffer:
    assert not isinstance(result, VolumeError)
    return result
