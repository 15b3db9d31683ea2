"""All acquisitions of the daemon: who may begin, read and end one, and how many there may be.

An acquisition belongs to the host that asked for it, by any of its sessions, and its id is that host's own choice: two
hosts may use the same one. What is acquired is held in memory, so everything is bounded before it is allocated: blocks
of one acquisition, acquisitions of a host, bytes of a host and of all hosts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from backends.acquisitions.acquisition import AcceptedOrReady, Acquisition, Phase, Subject
from backends.acquisitions.snapshot_read import SnapshotReadOptions
from backends.external.fence import FenceKeeper
from backends.scheduler import Scheduler
from scsi.array_commands import AcquisitionRow
from scsi.array_services import Transferred
from scsi.errors import (
    AcquiredByAnotherHost,
    AcquisitionIdInUse,
    AcquisitionLimitReached,
    Busy,
    InvalidFieldInCdb,
    NoSuchAcquisition,
)

TRANSFER_OFFSET_FIELD = 6  # byte of OFFSET in the CDB
MIB = 1024 * 1024


@dataclass(frozen=True)
class AcquisitionOptions:
    """Limits of acquisitions.

    Attributes:
        most_blocks: most blocks of one acquisition.
        most_per_host: most acquisitions that a host has at a time, failed ones too.
        most_bytes_per_host: most bytes held for one host.
        most_bytes: most bytes held for all hosts.
        default_lifetime_s: for a host that asks for none.
        most_transfer_bytes: most bytes of one TRANSFER.
    """

    most_blocks: int = 128 * 1024
    most_per_host: int = 16
    most_bytes_per_host: int = 256 * MIB
    most_bytes: int = 512 * MIB
    default_lifetime_s: int = 300
    most_transfer_bytes: int = 4 * MIB
    reading: SnapshotReadOptions = field(default_factory=SnapshotReadOptions)


class Acquisitions:
    """The table of acquisitions, by host and id."""

    def __init__(self, scheduler: Scheduler, keeper: FenceKeeper, options: AcquisitionOptions | None = None) -> None:
        self.options = options or AcquisitionOptions()
        self._scheduler = scheduler
        self._keeper = keeper
        self._by_host: dict[str, dict[int, Acquisition]] = {}
        self._releasing = 0  # ended, with a fence that the array has not yet answered for
        self._closed = False
        self._closing: Callable[[], None] | None = None

    def begin(self, subject: Subject, answer: AcceptedOrReady) -> None:
        """Begin one; see `Acquisition.begin`. The range and the device have been checked.

        Raises:
            AcquisitionIdInUse: this host has one by that id.
            AcquisitionLimitReached: too many blocks, or this host or all hosts together hold too much.
            Busy: the daemon is stopping.
        """
        if self._closed:
            raise Busy
        mine = self._by_host.get(subject.host, {})
        if subject.identifier in mine:
            raise AcquisitionIdInUse
        self._check_limits(subject, mine)
        acquisition = Acquisition(subject, self._scheduler, self._keeper, self.options.reading, self._ended)
        self._by_host.setdefault(subject.host, {})[subject.identifier] = acquisition
        acquisition.begin(answer)

    def find(self, host: str, identifier: int, sees: Callable[[bytes], bool]) -> Acquisition:
        """Find a host's own acquisition.

        Args:
            host: InitiatorName of the asker.
            identifier: the id that it gives.
            sees: tells whether the virtual device with an NAA id is in the asker's LUN map.

        Raises:
            AcquiredByAnotherHost: only another host has one by that id, for a virtual device in the asker's map.
            NoSuchAcquisition: none that the asker may know of.
        """
        acquisition = self._by_host.get(host, {}).get(identifier)
        if acquisition is not None:
            return acquisition
        for acquisitions in self._by_host.values():
            foreign = acquisitions.get(identifier)
            if foreign is not None and sees(foreign.subject.vdev_naa):
                raise AcquiredByAnotherHost
        raise NoSuchAcquisition

    def transfer(self, acquisition: Acquisition, first_block: int, allocation_bytes: int) -> Transferred:
        """Give the data of one TRANSFER.

        Raises:
            ScsiError: InvalidFieldInCdb for an offset at or past the end; AcquiredDataNotReady; or why it failed.
        """
        if first_block >= acquisition.subject.blocks:
            raise InvalidFieldInCdb(field_offset=TRANSFER_OFFSET_FIELD)
        data = acquisition.data(first_block, min(allocation_bytes, self.options.most_transfer_bytes))

        def status_was_good(sent_bytes: int) -> None:
            acquisition.count_handed_over(first_block, min(sent_bytes, len(data)) // acquisition.block_bytes)

        return Transferred(data, status_was_good)

    def rows(self, host: str) -> list[AcquisitionRow]:
        """List a host's acquisitions, by id."""
        return [acquisition.row() for _, acquisition in sorted(self._by_host.get(host, {}).items())]

    def all(self) -> list[Acquisition]:
        """List every acquisition, for the admin."""
        return [acquisition for acquisitions in self._by_host.values() for acquisition in acquisitions.values()]

    def held_bytes(self) -> int:
        """Bytes of memory held for all hosts."""
        return sum(map(_bytes, self.all()))

    def host_gone(self, host: str) -> None:
        """End everything of a host whose last session has ended."""
        for acquisition in list(self._by_host.get(host, {}).values()):
            acquisition.end()

    def close(self, done: Callable[[], None]) -> None:
        """End everything, for the daemon's stop; `done` when no fence of an acquisition is held any more."""
        self._closed = True
        self._closing = done
        self._releasing += 1  # so that `done` is not called between two of them
        for acquisition in self.all():
            acquisition.end()
        self._released()

    def _ended(self, acquisition: Acquisition) -> None:
        mine = self._by_host[acquisition.subject.host]
        del mine[acquisition.subject.identifier]
        if not mine:
            del self._by_host[acquisition.subject.host]
        self._releasing += 1
        acquisition.release(self._released)

    def _released(self) -> None:
        self._releasing -= 1
        if self._releasing == 0 and self._closing is not None:
            closed, self._closing = self._closing, None
            closed()

    def _check_limits(self, subject: Subject, mine: dict[int, Acquisition]) -> None:
        options = self.options
        asked_bytes = subject.blocks * subject.device.block_bytes
        mine_bytes = sum(map(_bytes, mine.values()))
        if (
            subject.blocks > options.most_blocks
            or len(mine) >= options.most_per_host
            or mine_bytes + asked_bytes > options.most_bytes_per_host
            or self.held_bytes() + asked_bytes > options.most_bytes
        ):
            raise AcquisitionLimitReached


def _bytes(acquisition: Acquisition) -> int:
    held = acquisition.phase is not Phase.FAILED
    return acquisition.subject.blocks * acquisition.block_bytes if held else 0
