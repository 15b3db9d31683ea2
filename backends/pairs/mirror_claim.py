"""A claim on blocks of a pair: its fences are the pair's own, held from CREATE to DELETE.

So there is nothing to take, only to wait for as a write would, and to notice when a fence lapses.
"""

from __future__ import annotations

from collections.abc import Callable

from backends.pairs.mirror import Mirror
from scsi.volume import ClaimDone, VolumeError


class MirrorClaim:
    """A `scsi.volume.Claim`, and while it waits something that the mirror holds (`mirror.Held`)."""

    def __init__(self, mirror: Mirror, leg: int, lba: int, blocks: int, done: ClaimDone) -> None:
        self.tick = mirror.tick
        self._mirror = mirror
        self._leg = leg
        self._lba = lba
        self._blocks = blocks
        self._done = done
        self._lapses = 0

    def retry(self) -> None:
        """Give the claim, or wait for what holds up writes."""
        mirror = self._mirror
        if mirror.dissolved:
            mirror.legs[self._leg].claim(self._lba, self._blocks, self._done)
            return
        mirror.faults.arm()
        refusal = mirror.faults.refusal(self._leg)
        if refusal is not None:
            self._done(refusal)
        elif mirror.must_hold(self._leg):
            mirror.held.append(self)
        else:
            self._lapses = mirror.lapses
            self._done(self)

    def answer(self, error: VolumeError | None) -> None:
        """Give up waiting."""
        assert error is not None
        self._done(error)

    def lost(self) -> bool:
        return self._mirror.lapses != self._lapses

    def give_up(self, done: Callable[[], None]) -> None:
        done()
