"""A claim (`scsi.volume.Claim`) on blocks that several volumes have parts of: all are claimed, or none is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from scsi.volume import OWN_BLOCKS, Claim, ClaimDone, VolumeError

ClaimPart = Callable[[ClaimDone], None]


def claim_all(parts: Sequence[ClaimPart], done: ClaimDone) -> None:
    """Claim every part, one after the other, in their order.

    Args:
        parts: each claims one when it is called.
        done: gets the claim on all of them, or the first error, when those that were claimed are given up again.
    """
    if len(parts) == 1:
        parts[0](done)
    else:
        _Claiming(parts, done).go_on()


class _Claiming:
    def __init__(self, parts: Sequence[ClaimPart], done: ClaimDone) -> None:
        self._parts = list(parts)
        self._done = done
        self._claims: list[Claim] = []

    def go_on(self) -> None:
        if self._parts:
            self._parts.pop(0)(self._answered)
        else:
            claims = [claim for claim in self._claims if claim is not OWN_BLOCKS]
            self._done(_JoinedClaim(claims) if claims else OWN_BLOCKS)

    def _answered(self, result: Claim | VolumeError) -> None:
        if isinstance(result, VolumeError):
            _JoinedClaim(self._claims).give_up(partial(self._done, result))
        else:
            self._claims.append(result)
            self.go_on()


class _JoinedClaim:
    def __init__(self, claims: list[Claim]) -> None:
        self._claims = claims

    def lost(self) -> bool:
        return any(claim.lost() for claim in self._claims)

    def give_up(self, done: Callable[[], None]) -> None:
        if self._claims:
            self._claims.pop().give_up(partial(self.give_up, done))
        else:
            done()
