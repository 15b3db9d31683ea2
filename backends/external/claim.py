"""A claim on an external LU: its fence, held for as long as one command needs it.

The fence is counted, so that a LU which is fenced anyway, as a leg of a pair for one, is claimed without a word to the
array; and commands that come side by side share one RESERVE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from scsi.volume import ClaimDone, Done, VolumeError

if TYPE_CHECKING:
    from backends.external.unit import ExternalLogicalUnit


class Fences(Protocol):
    """The part of `backends.external.fence.FenceKeeper` that a claim needs."""

    def take(self, unit: ExternalLogicalUnit, holder: FenceClaim, done: Done) -> None: ...
    def drop(self, unit: ExternalLogicalUnit, holder: FenceClaim, done: Callable[[], None]) -> None: ...
    def held(self, unit: ExternalLogicalUnit) -> bool: ...


class FenceClaim:
    """A `scsi.volume.Claim` that is a `FenceHolder`."""

    def __init__(self, unit: ExternalLogicalUnit, fences: Fences) -> None:
        self._unit = unit
        self._fences = fences
        self._lapsed = False

    def take(self, done: ClaimDone) -> None:
        """Take the fence; `done` gets this claim, or why there is none."""

        def answered(error: VolumeError | None) -> None:
            done(self if error is None else error)

        self._fences.take(self._unit, self, answered)

    def lost(self) -> bool:
        return self._lapsed or not self._fences.held(self._unit)

    def give_up(self, done: Callable[[], None]) -> None:
        self._fences.drop(self._unit, self, done)

    # The side that the keeper calls.

    def fence_lapsed(self, unit: ExternalLogicalUnit) -> None:
        self._lapsed = True

    def fence_retaken(self, unit: ExternalLogicalUnit) -> None:
        """Nothing: others may have written meanwhile."""

    def fence_refused(self, unit: ExternalLogicalUnit, error: VolumeError) -> None:
        """Nothing: the lapse has been told."""
