"""The fences of one pair: every external LU under either leg, from CREATE to DELETE.

A leg is *lapsed* while the fence of one of its units is not verified; a *gap* is left behind by that, until somebody
has looked at what others may have written meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from backends.external.fence import FenceHolder
from backends.external.unit import ExternalLogicalUnit
from scsi.volume import Done, VolumeError

_log = logging.getLogger(__name__)


class FenceService(Protocol):
    """The part of `backends.external.fence.FenceKeeper` that pairs use."""

    def take(self, unit: ExternalLogicalUnit, holder: FenceHolder, done: Done) -> None: ...
    def adopt(self, unit: ExternalLogicalUnit, holder: FenceHolder) -> None: ...
    def drop(self, unit: ExternalLogicalUnit, holder: FenceHolder, done: Callable[[], None]) -> None: ...
    def held(self, unit: ExternalLogicalUnit) -> bool: ...
    def steady(self) -> bool: ...


class PairFences:
    """Holds the fences of one pair.

    Attributes:
        units: by leg, its external LUs.
        gap: bit set of legs on which a fence lapsed since `take_gap`.
    """

    def __init__(
        self,
        number: int,
        units: Sequence[Sequence[ExternalLogicalUnit]],
        service: FenceService,
        changed: Callable[[], None],
    ) -> None:
        """Begin with nothing held.

        Args:
            number: of the pair, for the log.
            units: by leg, its external LUs.
            service: who takes them.
            changed: called when a fence lapses or is held again.
        """
        self.units = [list(leg) for leg in units]
        self.gap = 0
        self._number = number
        self._service = service
        self._changed = changed
        self._lapsed: set[ExternalLogicalUnit] = set()
        self._held: list[ExternalLogicalUnit] = []

    @property
    def lapsed(self) -> int:
        """Bit set of legs that have a unit whose fence is not verified."""
        return sum(1 << leg for leg in (0, 1) if not self._lapsed.isdisjoint(self.units[leg]))

    def has_units(self, leg: int) -> bool:
        return bool(self.units[leg])

    def held(self) -> bool:
        """Tell whether there are fences, and the array has confirmed all of them."""
        return bool(self._held) and all(self._service.held(unit) for unit in self._held)

    def take_gap(self) -> int:
        """Give the legs that had a lapse, and forget them: the caller sees to it."""
        gap, self.gap = self.gap, 0
        return gap

    def take(self, done: Callable[[ExternalLogicalUnit | None, VolumeError | None], None]) -> None:
        """Take every fence; on a failure those taken are dropped again and `done` gets the unit and its error."""
        wanted = [unit for unit in dict.fromkeys([*self.units[0], *self.units[1]]) if unit not in self._held]
        if not wanted:
            done(None, None)
            return
        unit = wanted[0]

        def taken(error: VolumeError | None) -> None:
            if error is None:
                self._held.append(unit)
                self.take(done)
            else:
                self.drop(lambda: done(unit, error))

        self._service.take(unit, self, taken)

    def adopt(self) -> None:
        """Hold them as before a restart: nobody knows what happened meanwhile."""
        for unit in dict.fromkeys([*self.units[0], *self.units[1]]):
            self._held.append(unit)
            self._lapse(unit)
            self._service.adopt(unit, self)

    def drop(self, done: Callable[[], None]) -> None:
        """Drop what is held; `done` when every array has answered or its session is gone."""
        left = len(self._held)
        if not left:
            done()
            return

        def dropped() -> None:
            nonlocal left
            left -= 1
            if not left:
                done()

        held, self._held = self._held, []
        for unit in held:
            self._service.drop(unit, self, dropped)

    def look_again(self) -> None:
        """Count as held whatever the service says is; it may have said so before anybody listened."""
        back = {unit for unit in self._lapsed if self._service.held(unit)}
        if back:
            self._lapsed -= back
            self._changed()

    # --- FenceHolder ---

    def fence_lapsed(self, unit: ExternalLogicalUnit) -> None:
        _log.warning("pair %d: the fence on %s lapsed", self._number, unit.name, extra={"event": "fence_lost"})
        self._lapse(unit)
        self._changed()

    def fence_retaken(self, unit: ExternalLogicalUnit) -> None:
        _log.info("pair %d: the fence on %s is held again", self._number, unit.name, extra={"event": "fence_held"})
        self._lapsed.discard(unit)
        self._changed()

    def fence_refused(self, unit: ExternalLogicalUnit, error: VolumeError) -> None:
        _log.warning(
            "pair %d: the array refuses the fence on %s: %s",
            self._number,
            unit.name,
            error,
            extra={"event": "fence_refused"},
        )

    def _lapse(self, unit: ExternalLogicalUnit) -> None:
        self._lapsed.add(unit)
        for leg in (0, 1):
            if unit in self.units[leg]:
                self.gap |= 1 << leg
