"""Blocks that are read, and written with what comes of it, while nobody else writes them.

How this works. Who writes through the unit is kept away by the task set, because the rows of such commands are
*exclusive* (`scsi.task_set`); who writes by another way, as a host cabled to an external array, by a claim on the
blocks (`Volume.claim`). They are read, what is to be written is made of that, and if the claim still holds it is
written; on a pair that is mirrored as any write. A unit that can not be claimed does not have such commands.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from scsi.block_commands import Fields
from scsi.errors import ScsiError, StatusError
from scsi.nexus import Nexus
from scsi.sense import error_of
from scsi.tasks import Task
from scsi.volume import Buffer, Claim, Fault, VolumeError

if TYPE_CHECKING:
    from scsi.logical_unit import LogicalUnit

_FUA: Final = 0x08


def can_be_claimed(unit: LogicalUnit, _nexus: Nexus) -> bool:
    """Tell whether a unit has commands that claim its blocks."""
    return unit.volume.claimable


def _nothing() -> None:
    pass


class ClaimedChange:
    """Reads blocks and writes what comes of it, under a claim."""

    def __init__(
        self,
        unit: LogicalUnit,
        task: Task,
        fields: Fields,
        wanted_bytes: int,
        make: Callable[[Buffer], Buffer],
        changed: Callable[[], None] = _nothing,
    ) -> None:
        """Prepare.

        Args:
            unit: what has the blocks.
            task: the command.
            fields: its flags, first block, number of blocks (at least one).
            wanted_bytes: of its data-out.
            make: gives what is to be written, of what was read; raises ScsiError when nothing is.
            changed: called once it is written, before the task ends.
        """
        self._unit = unit
        self._task = task
        self._flags, self._lba, self._blocks = fields
        self._wanted_bytes = wanted_bytes
        self._make = make
        self._changed = changed
        self._claim: Claim

    def start(self) -> None:
        """Begin; the task ends when the claim has been given up."""
        self._unit.volume.claim(self._lba, self._blocks, self._claimed)

    def _claimed(self, result: Claim | VolumeError) -> None:
        if isinstance(result, VolumeError):
            self._unit.fail(self._task, error_of(result), self._wanted_bytes)
        else:
            self._claim = result
            self._unit.volume.read(self._lba, self._blocks, self._read)

    def _read(self, result: Buffer | VolumeError) -> None:
        if isinstance(result, VolumeError):
            self._end(error_of(result))
            return
        try:
            data = self._make(result)
        except ScsiError as error:
            self._end(error)
            return
        if self._task.aborted:
            self._end(None)
        elif self._claim.lost():
            self._end(error_of(VolumeError(Fault.BUSY, "others may have written between reading and writing")))
        else:
            self._unit.volume.write(self._lba, data, self._flags & _FUA != 0, self._written)

    def _written(self, error: VolumeError | None) -> None:
        if error is None and self._claim.lost():
            error = VolumeError(Fault.LINK_LOST, "others may have written while this was written")
        if error is None:
            self._changed()
        self._end(None if error is None else error_of(error))

    def _end(self, error: ScsiError | StatusError | None) -> None:
        if error is None:
            answer = partial(self._unit.finish, self._task, data_out_used=self._wanted_bytes)
        else:
            answer = partial(self._unit.fail, self._task, error, self._wanted_bytes)
        self._claim.give_up(answer)
