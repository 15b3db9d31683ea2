from __future__ import annotations

from collections.abc import Callable

import pytest

from backends.claims import ClaimPart, claim_all
from scsi.volume import OWN_BLOCKS, Claim, ClaimDone, Fault, VolumeError

CONFLICT = VolumeError(Fault.RESERVATION_CONFLICT)


class Part:
    """One part of a range; it is claimed, or refused."""

    def __init__(self, journal: list[str], name: str, refusal: VolumeError | None = None) -> None:
        self.journal = journal
        self.name = name
        self.refusal = refusal
        self.is_lost = False

    def claim(self, done: ClaimDone) -> None:
        self.journal.append(f"claim {self.name}")
        done(self.refusal or self)

    def lost(self) -> bool:
        return self.is_lost

    def give_up(self, done: Callable[[], None]) -> None:
        self.journal.append(f"give up {self.name}")
        done()


def own(done: ClaimDone) -> None:
    done(OWN_BLOCKS)


@pytest.fixture
def journal() -> list[str]:
    return []


def claimed(*parts: ClaimPart) -> Claim | VolumeError:
    results: list[Claim | VolumeError] = []
    claim_all(parts, results.append)
    (result,) = results
    return result


def test_all_parts_are_claimed_and_given_up(journal: list[str]) -> None:
    first, second = Part(journal, "1"), Part(journal, "2")
    claim = claimed(first.claim, own, second.claim)
    assert not isinstance(claim, VolumeError)
    assert not claim.lost()
    second.is_lost = True
    assert claim.lost()
    ended: list[bool] = []
    claim.give_up(lambda: ended.append(True))
    assert ended == [True]
    assert sorted(journal) == ["claim 1", "claim 2", "give up 1", "give up 2"]


def test_none_is_kept_when_one_is_refused(journal: list[str]) -> None:
    parts = [Part(journal, "1"), Part(journal, "2", CONFLICT), Part(journal, "3")]
    assert claimed(*(part.claim for part in parts)) is CONFLICT
    assert journal == ["claim 1", "claim 2", "give up 1"]


def test_what_nobody_else_reaches_needs_no_claim() -> None:
    assert claimed(own, own) is OWN_BLOCKS
    assert claimed(own) is OWN_BLOCKS
    assert claimed() is OWN_BLOCKS
