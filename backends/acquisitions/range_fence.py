"""The fences on all external LUs that one range of blocks touches: all of them are taken, or none is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from backends.external.fence import FenceKeeper
from backends.external.unit import ExternalLogicalUnit
from scsi.volume import Done, VolumeError


class RangeFence:
    """A holder (`backends.external.fence.FenceHolder`) of some external LUs' fences, taken and dropped as one.

    Attributes:
        units: the external LUs; for a range on local regions only there is none, and nothing to wait for.
    """

    def __init__(self, keeper: FenceKeeper, units: Sequence[ExternalLogicalUnit], lapsed: Callable[[], None]) -> None:
        """Prepare; `lapsed` is called when, while it is held, a time was open in which others may have written."""
        self._keeper = keeper
        self.units = tuple(units)
        self._lapsed = lapsed
        self._taken: list[ExternalLogicalUnit] = []
        self._answers_due = 0
        self._error: VolumeError | None = None
        self._is_taken = False
        self._dropping = False
        self._releases_due = 0
        self._dropped: list[Callable[[], None]] = []
        self._take_done: Done | None = None

    def take(self, done: Done) -> None:
        """Take every fence; `done` gets the first error, after those that were taken have been given back.

        When `drop` is called before the answer, `done` is called with what the array said all the same, and nothing is
        held then.
        """
        self._take_done = done
        self._answers_due = len(self.units) + 1  # one for this loop, so that inline answers do not end it early
        for unit in self.units:
            self._keeper.take(unit, self, partial(self._answered, unit))
        self._answer_counted()

    def drop(self, done: Callable[[], None]) -> None:
        """Give every fence back, also while `take` runs; `done` when the arrays answered or their sessions are gone."""
        self._dropped.append(done)
        if self._dropping:
            if self._releases_due == 0 and self._answers_due == 0:
                self._call_dropped()
            return
        self._dropping = True
        self._is_taken = False
        if self._answers_due == 0:
            self._release()

    def _answered(self, unit: ExternalLogicalUnit, error: VolumeError | None) -> None:
        if error is None:
            self._taken.append(unit)
        elif self._error is None:
            self._error = error
        self._answer_counted()

    def _answer_counted(self) -> None:
        self._answers_due -= 1
        if self._answers_due:
            return
        if self._error is None and not self._dropping:
            self._is_taken = True
            self._finish_take()
        else:
            self._dropping = True
            self._dropped.insert(0, self._finish_take)
            self._release()

    def _finish_take(self) -> None:
        done, self._take_done = self._take_done, None
        assert done is not None
        done(self._error)

    def _release(self) -> None:
        taken, self._taken = self._taken, []
        self._releases_due = len(taken) + 1
        for unit in taken:
            self._keeper.drop(unit, self, self._released)
        self._released()

    def _released(self) -> None:
        self._releases_due -= 1
        if self._releases_due == 0:
            self._call_dropped()

    def _call_dropped(self) -> None:
        waiting, self._dropped = self._dropped, []
        for done in waiting:
            done()

    # The side that the keeper calls.

    def fence_lapsed(self, unit: ExternalLogicalUnit) -> None:
        if self._is_taken:
            self._lapsed()

    def fence_retaken(self, unit: ExternalLogicalUnit) -> None:
        """Nothing: what a lapse spoilt stays spoilt, and what it did not spoil went on."""

    def fence_refused(self, unit: ExternalLogicalUnit, error: VolumeError) -> None:
        """Nothing: the lapse has been told, and the keeper goes on trying for as long as the fence is wanted."""
