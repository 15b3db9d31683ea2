"""The copy manager of a logical unit: carries out what EXTENDED COPY asks for, and remembers how it went.

A copy is a list of segments. Each is read and written piece by piece, with a command of the copy manager to the logical
unit at either end (`scsi.inside`), on behalf of the host that asked.

Spec: SPC-4 "Third-party copy", "EXTENDED COPY(LID1) command" (SPC-6 has it obsolete; hosts still use it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from scsi.block_commands import transfer_limit_blocks
from scsi.commands import Command
from scsi.errors import CopyAborted, CopyTargetNotReachable, ScsiError, ThirdPartyDeviceFailure
from scsi.inside import READ_16, WRITE_16, InsideTask, inside_cdb, inside_row
from scsi.nexus import MappedUnit, Nexus
from scsi.status import Status
from scsi.tasks import Task

PIECE_BYTES = 1 << 20
MOST_RESULTS = 16  # of one nexus; the oldest goes first

_READ, _WRITE = inside_row(READ_16), inside_row(WRITE_16)


class Segment(NamedTuple):
    """One run of blocks to copy.

    Attributes:
        source, destination: where from and where to; None for a unit that the host does not see.
        blocks: how many of the source's.
        source_lba, destination_lba: the first block of each.
    """

    source: MappedUnit | None
    destination: MappedUnit | None
    blocks: int
    source_lba: int
    destination_lba: int


class Result(NamedTuple):
    """How a copy went: what RECEIVE COPY RESULTS tells.

    Attributes:
        error: why it ended early, or None.
        segments: how many were copied whole.
        copied_bytes: of all segments together.
    """

    error: ScsiError | None
    segments: int
    copied_bytes: int


class CopyManager:
    """The copies of one logical unit, and the results that hosts have not asked for yet."""

    def __init__(self) -> None:
        self._running: dict[tuple[Nexus, int], Copy] = {}
        self._results: dict[Nexus, dict[int, Result]] = {}

    def start(self, copy: Copy, list_identifier: int | None) -> None:
        """Begin a copy.

        Args:
            copy: not started yet.
            list_identifier: what the host will ask for its result by; None when it will not.
        """
        if list_identifier is None:
            copy.start(lambda _: None)
            return
        nexus: Nexus = copy.task.session.nexus
        self._running[nexus, list_identifier] = copy
        self._results.get(nexus, {}).pop(list_identifier, None)

        def ended(result: Result) -> None:
            del self._running[nexus, list_identifier]
            results = self._results.setdefault(nexus, {})
            results[list_identifier] = result
            if len(results) > MOST_RESULTS:
                del results[next(iter(results))]

        copy.start(ended)

    def running(self, nexus: Nexus, list_identifier: int) -> Copy | None:
        """Give the copy that is under way by that identifier."""
        return self._running.get((nexus, list_identifier))

    def take_result(self, nexus: Nexus, list_identifier: int) -> Result | None:
        """Give a result, once."""
        return self._results.get(nexus, {}).pop(list_identifier, None)

    def forget(self, nexus: Nexus) -> None:
        """Forget what a nexus that is lost has not asked for."""
        self._results.pop(nexus, None)


class Copy:
    """One EXTENDED COPY under way.

    Attributes:
        task: the host's command.
        segments: what is copied, in this order.
        copied_bytes, done_segments: how far it is.
    """

    def __init__(self, task: Task, segments: Sequence[Segment], end: Callable[[ScsiError | None], None]) -> None:
        """Put a copy together.

        Args:
            task: the host's command.
            segments: what to copy.
            end: ends the task; called once, also when it was aborted.
        """
        self.task = task
        self.segments = segments
        self.copied_bytes = 0
        self.done_segments = 0
        self._end = end
        self._ended: Callable[[Result], None] = lambda _: None
        self._pieces = self._all_pieces()
        self._moving = False
        self._more = False

    def start(self, ended: Callable[[Result], None]) -> None:
        """Copy; `ended` gets the result, just before the task ends, and possibly before this returns."""
        self._ended = ended
        self._go_on()

    def _all_pieces(self) -> Iterator[tuple[MappedUnit, MappedUnit, int, int, int]]:
        """Cut the segments into what one read and one write carry; raises what is wrong with a segment."""
        for number, segment in enumerate(self.segments):
            self.done_segments = number
            source, destination = segment.source, segment.destination
            if source is None or destination is None:
                raise CopyTargetNotReachable(f"segment {number}: this host has no such logical unit")
            _check(number, segment, source, destination)
            most = max(
                min(PIECE_BYTES // source.logical_unit.volume.block_bytes, _limit(source), _limit(destination)), 1
            )
            for offset in range(0, segment.blocks, most):
                self._check_still_seen(number, source, destination)
                yield (
                    source,
                    destination,
                    segment.source_lba + offset,
                    segment.destination_lba + offset,
                    min(most, segment.blocks - offset),
                )
        self.done_segments = len(self.segments)

    def _check_still_seen(self, number: int, *units: MappedUnit) -> None:
        """Stop at a unit that was taken from the host while it copies."""
        seen = self.task.session.nexus.lun_map.values()
        if any(mapped not in seen for mapped in units):
            raise CopyTargetNotReachable(f"segment {number}: a logical unit was taken from the host")

    def _go_on(self) -> None:
        """Copy the next piece. One that ends before it returns comes back here, where the loop that runs goes on."""
        self._more = True
        if self._moving:
            return
        self._moving = True
        while self._more:
            self._more = False
            if self.task.aborted:
                self._finish(None)
                break
            try:
                piece = next(self._pieces, None)
            except ScsiError as error:
                self._finish(error)
                break
            if piece is None:
                self._finish(None)
                break
            self._read(*piece)
        self._moving = False

    def _read(self, source: MappedUnit, destination: MappedUnit, lba: int, to_lba: int, blocks: int) -> None:
        session = self.task.session

        def done(task: InsideTask) -> None:
            if self._failed(task, "reading"):
                return
            _run(InsideTask(session, destination, inside_cdb(WRITE_16, to_lba, blocks), task.data_in, written), _WRITE)

        def written(task: InsideTask) -> None:
            if not self._failed(task, "writing"):
                self.copied_bytes += len(task.data_out)
                self._go_on()

        _run(InsideTask(session, source, inside_cdb(READ_16, lba, blocks), b"", done), _READ)

    def _failed(self, task: InsideTask, doing: str) -> bool:
        if task.status == Status.GOOD:
            return False
        self._pieces = iter(())
        self._finish(ThirdPartyDeviceFailure(f"{doing}: status {task.status:02X}h, sense {task.sense.hex()}"))
        return True

    def _finish(self, error: ScsiError | None) -> None:
        self._ended(Result(error, self.done_segments, self.copied_bytes))
        self._end(error)


def _limit(mapped: MappedUnit) -> int:
    return transfer_limit_blocks(mapped.logical_unit)


def _check(number: int, segment: Segment, source: MappedUnit, destination: MappedUnit) -> None:
    """Refuse a segment that no read or write could carry out, before anything of it is written."""
    from_volume, to_volume = source.logical_unit.volume, destination.logical_unit.volume
    if from_volume.block_bytes != to_volume.block_bytes:
        raise CopyAborted(f"segment {number}: blocks of different length")
    for volume, lba in ((from_volume, segment.source_lba), (to_volume, segment.destination_lba)):
        if lba + segment.blocks > volume.blocks:
            raise CopyAborted(f"segment {number}: {lba}+{segment.blocks} of {volume.blocks}")


def _run(task: InsideTask, row: Command) -> None:
    """Carry out a command, within the limit that the host has at that unit."""
    mapped: MappedUnit = task.logical_unit

    def go() -> None:
        mapped.logical_unit.execute_row(task, row)

    if mapped.limit is None or mapped.limit.admit(task, len(task.data_out) or 1, go):
        go()
