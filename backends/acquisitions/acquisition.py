"""One acquisition: the life of one read in two commands, ACQUIRE EXTERNAL DATA and TRANSFER ACQUIRED DATA.

How this works: `begin` takes the fences of every external LU that the range touches; with them the acquisition is
*accepted*, and from then on the range is read as it was at that moment (`backends.acquisitions.snapshot_read`). When
all of it is here the acquisition is *ready*, and its blocks are handed over until each has been once.

    begin ──fences taken──► accepted, reading ──all read──► ready ──all handed over──► ended
      │ refused                  │ read error, fence lapsed      │
      ▼                          ▼                               │ END, lifetime over, host gone, daemon stops
    ended                      failed ───────────────────────────┴──► ended (from every state)

The fence is dropped on entering *failed* or *ended*, whichever comes first, and so is the data. A fence that lapses
while the range is being read fails the acquisition: others may have written in between, so the data would be of no
moment at all. Once all is read a lapse changes nothing, neither the data nor its checksum, and the keeper takes the
fence again.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from typing import NamedTuple

from backends.acquisitions.range_fence import RangeFence
from backends.acquisitions.snapshot_read import GatedVolume, SnapshotRead, SnapshotReadOptions
from backends.external.fence import FenceKeeper
from backends.external.unit import ExternalLogicalUnit
from backends.scheduler import Scheduler, Timer
from scsi.array_commands import AcquisitionRow, AcquisitionState
from scsi.errors import (
    AcquiredDataNotReady,
    AcquisitionFenceRefused,
    BecomingReady,
    NoSuchAcquisition,
    RelayedSense,
    ScsiError,
)
from scsi.sense import error_of
from scsi.volume import Fault, VolumeError

AcceptedOrReady = Callable[[ScsiError | None], None]


class Phase(enum.Enum):
    """Where an acquisition is in its life."""

    FENCING = "fencing"
    READING = "reading"
    READY = "ready"
    FAILED = "failed"
    ENDED = "ended"


WIRE_STATE = {
    Phase.FENCING: AcquisitionState.ACQUIRING,
    Phase.READING: AcquisitionState.ACQUIRING,
    Phase.READY: AcquisitionState.READY,
    Phase.FAILED: AcquisitionState.FAILED,
}

_log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """What is acquired, and for whom.

    Attributes:
        host: InitiatorName of the host that asked; the only one that gets the data.
        identifier: the id that it chose.
        vdev_naa: the virtual device that it named.
        device: the device that is read; for the primary of a pair, the current leg.
        lba: first block.
        blocks: number of blocks, at least 1.
        external_units: every external LU that the range touches, each once.
        lifetime_s: seconds from acceptance to the end.
        immediate: the host wants its status at acceptance, not when the data is ready.
    """

    host: str
    identifier: int
    vdev_naa: bytes
    device: GatedVolume
    lba: int
    blocks: int
    external_units: tuple[ExternalLogicalUnit, ...]
    lifetime_s: int
    immediate: bool


class Acquisition:
    """One acquisition, from `begin` to its end.

    Attributes:
        subject: what is acquired, and for whom.
        phase: where it is in its life.
        error: why it failed, when it did.
        handed_over_blocks: blocks that the host has got at least once.
    """

    def __init__(
        self,
        subject: Subject,
        scheduler: Scheduler,
        keeper: FenceKeeper,
        options: SnapshotReadOptions,
        ended: Callable[[Acquisition], None],
    ) -> None:
        """Prepare; `ended` is called once, when the id is free again (the fence may still be on its way down)."""
        self.subject = subject
        self.phase = Phase.FENCING
        self.error: ScsiError | None = None
        self.handed_over_blocks = 0
        self.block_bytes = subject.device.block_bytes
        self._scheduler = scheduler
        self._fence = RangeFence(keeper, subject.external_units, self._fence_lapsed)
        self._keeper = keeper
        self._read = SnapshotRead(scheduler, subject.device, subject.lba, subject.blocks, options, self._all_read)
        self._handed_over = bytearray(subject.blocks)  # 1 for each block that was
        self._ended = ended
        self._expiry: Timer | None = None
        self._expires_at = scheduler.now() + subject.lifetime_s
        self._answer: AcceptedOrReady | None = None

    def begin(self, answer: AcceptedOrReady) -> None:
        """Take the fence and read; `answer` gets None when accepted (`immediate`) or ready, else why not, once.

        An acquisition whose host has not had GOOD for it leaves nothing behind when it fails.
        """
        self._answer = answer
        self._fence.take(self._fence_taken)

    def end(self, done: Callable[[], None] | None = None, reason: ScsiError | None = None) -> None:
        """End it from any phase: drop the data and the fence.

        Args:
            done: called when the array has answered the release, or its session is gone.
            reason: what a host that still waits for its status is told.
        """
        if self.phase is not Phase.ENDED:
            subject = self.subject
            if self.phase is not Phase.FENCING:
                _log.info(
                    "acquisition %d of %r has ended: %d of %d blocks handed over",
                    subject.identifier,
                    subject.host,
                    self.handed_over_blocks,
                    subject.blocks,
                    extra={"event": "acquisition_ended"},
                )
            self.phase = Phase.ENDED
            if self._expiry is not None:
                self._expiry.cancel()
            self._read.stop()
            self._ended(self)
            self._answer_once(reason or NoSuchAcquisition())
        self.release(done or _nothing)

    def release(self, done: Callable[[], None]) -> None:
        """Drop the fence, if that has not been done yet; `done` when the array has answered, or its session is gone."""
        self._fence.drop(done)

    def left_s(self) -> int:
        """Whole seconds until the lifetime is over, rounded up."""
        return max(0, int(-(-(self._expires_at - self._scheduler.now()) // 1)))

    def row(self) -> AcquisitionRow:
        """Describe it for REPORT ACQUISITIONS."""
        key, asc, ascq = (self.error.key, self.error.asc, self.error.ascq) if self.error else (0, 0, 0)
        subject = self.subject
        return AcquisitionRow(
            subject.identifier,
            WIRE_STATE[self.phase],
            key,
            asc,
            ascq,
            subject.lba,
            subject.blocks,
            self.block_bytes,
            self._read.crc32c if self.phase is Phase.READY else 0,
            self.left_s(),
            subject.vdev_naa,
            self.handed_over_blocks,
        )

    def data(self, first_block: int, most_bytes: int) -> memoryview:
        """Give whole blocks from `first_block` on, at most `most_bytes`.

        Raises:
            ScsiError: the stored one when it failed; AcquiredDataNotReady while it is being read.
        """
        if self.error is not None:
            raise RelayedSense(self.error.key, self.error.asc, self.error.ascq, str(self.error))
        if self.phase is not Phase.READY:
            raise AcquiredDataNotReady
        end = min(self.subject.blocks, first_block + most_bytes // self.block_bytes)
        return memoryview(self._read.data)[first_block * self.block_bytes : end * self.block_bytes]

    def count_handed_over(self, first_block: int, blocks: int) -> None:
        """Take note that the host got these blocks with status GOOD; with the last one missing the acquisition ends."""
        end = first_block + blocks
        self.handed_over_blocks += self._handed_over.count(0, first_block, end)
        self._handed_over[first_block:end] = b"\1" * blocks
        if self.handed_over_blocks == self.subject.blocks:
            self.end()

    def _fence_taken(self, error: VolumeError | None) -> None:
        if self.phase is not Phase.FENCING:
            return  # ended meanwhile; `end` gives back what was taken
        if error is None and not all(self._keeper.held(unit) for unit in self.subject.external_units):
            # One lapsed while another was still being taken.
            error = VolumeError(Fault.RESERVATION_CONFLICT, "the fence lapsed while it was taken")
        if error is not None:
            self.end(reason=_sense_of(error))
            return
        subject = self.subject
        _log.info(
            "acquisition %d of %r: %d blocks from block %d are read",
            subject.identifier,
            subject.host,
            subject.blocks,
            subject.lba,
            extra={"event": "acquisition_begun"},
        )
        self.phase = Phase.READING
        self._expires_at = self._scheduler.now() + self.subject.lifetime_s
        self._expiry = self._scheduler.call_later(self.subject.lifetime_s, self._lifetime_over)
        self._read.start()
        if self.subject.immediate:
            self._answer_once(None)

    def _all_read(self, error: VolumeError | None) -> None:
        if error is not None:
            self._fail(_sense_of(error))
            return
        self.phase = Phase.READY
        self._answer_once(None)

    def _fence_lapsed(self) -> None:
        if self.phase is Phase.READING:
            self._fail(AcquisitionFenceRefused())

    def _lifetime_over(self) -> None:
        self.end(reason=AcquiredDataNotReady())

    def _fail(self, error: ScsiError) -> None:
        if self._answer is not None and not self.subject.immediate:
            self.end(reason=error)
            return
        self.phase = Phase.FAILED
        self.error = error
        self._read.stop()
        self.release(_nothing)

    def _answer_once(self, error: ScsiError | None) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer(error)


def _sense_of(error: VolumeError) -> ScsiError:
    if error.fault is Fault.RESERVATION_CONFLICT:
        # Seen by a read it means the same as by the RESERVE: the array lets another one in.
        return AcquisitionFenceRefused(str(error))
    sense = error_of(error)
    # BUSY is a status without sense, and a report of acquisitions has only sense.
    return sense if isinstance(sense, ScsiError) else BecomingReady(str(error))


def _nothing() -> None:
    """Whoever ended it does not wait for the array."""
