"""A fence keeper without an array: the test says what the array answers, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scsi.volume import Done, VolumeError


class FakeUnit:
    """An external LU, as far as fences go."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = name.encode()

    def __repr__(self) -> str:
        return self.name


class FakeFenceKeeper:
    """`backends.external.fence.FenceKeeper`, as its holders see it.

    Attributes:
        holders: who holds each unit now.
        hold_answers: True: takes and drops wait in `pending` until the test answers.
        refusals: what the array says to a take, by unit.
        journal: takes and drops, in order.
        lapsed: units whose reservation is not verified now.
    """

    def __init__(self) -> None:
        self.holders: dict[FakeUnit, list[Any]] = {}
        self.hold_answers = False
        self.pending: list[Callable[[], None]] = []
        self.refusals: dict[FakeUnit, VolumeError] = {}
        self.journal: list[str] = []
        self.lapsed: set[FakeUnit] = set()

    def take(self, unit: FakeUnit, holder: Any, done: Done) -> None:
        self.journal.append(f"take {unit}")

        def answer() -> None:
            error = self.refusals.get(unit)
            if error is None:
                self.holders.setdefault(unit, []).append(holder)
            done(error)

        self._answer(answer)

    def drop(self, unit: FakeUnit, holder: Any, done: Callable[[], None]) -> None:
        self.journal.append(f"drop {unit}")
        self.holders[unit].remove(holder)
        self._answer(done)

    def held(self, unit: FakeUnit) -> bool:
        return bool(self.holders.get(unit)) and unit not in self.lapsed

    def lapse(self, unit: FakeUnit) -> None:
        """Lose the reservation: the holders are told, and it is not verified any more."""
        self.lapsed.add(unit)
        for holder in tuple(self.holders.get(unit, ())):
            holder.fence_lapsed(unit)

    def answer_all(self) -> None:
        """Let the array answer everything that waits, and what follows from it."""
        while self.pending:
            self.pending.pop(0)()

    def is_free(self) -> bool:
        """Tell that nobody holds anything."""
        return not any(self.holders.values())

    def _answer(self, answer: Callable[[], None]) -> None:
        if self.hold_answers:
            self.pending.append(answer)
        else:
            answer()
