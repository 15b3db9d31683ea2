"""F28: COMPARE AND WRITE and ORWRITE on a pair compare once, and leave both legs the same."""

from __future__ import annotations

import struct

from scsi.array_commands import ArrayOut, PairState
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from scsi.volume import Claim, VolumeError
from tests.support import commands as c
from tests.support.pair_world import BLOCK, FakePresentedUnit, PairWorld

OLD, NEW = b"\xaa" * BLOCK, b"n" * BLOCK
COMPARE_AND_WRITE = struct.pack(">BBQ3xBxx", 0x89, 0, 5, 1)
ORWRITE = c.blocks_16(0x8B, 5, 1)


class Formed:
    """A pair in PAIR, of a local primary and an external secondary, with a host at each of its LUs."""

    def __init__(self) -> None:
        self.world = PairWorld()
        self.primary = self.world.add_unit(1)
        self.secondary = self.world.add_unit(2, external="array")
        self.legs = (self.primary.virtual_device, self.secondary.virtual_device)
        for leg in self.legs:
            leg.data[:] = b"\xaa" * len(leg.data)
        self.pair = self.world.create(self.primary, self.secondary, nocopy=True)
        for leg in self.legs:
            leg.journal.clear()

    def host(self, unit: FakePresentedUnit) -> c.Host:
        return c.Host(TargetPort(), LogicalUnit(unit.logical_unit.volume, unit.logical_unit.naa))

    def sent(self, cdb: bytes, data: bytes, at: FakePresentedUnit | None = None) -> c.FakeCommand:
        command = self.host(at or self.primary).send(cdb, data)
        self.world.scheduler.run_until_idle()
        return command

    def blocks(self) -> set[bytes]:
        return {bytes(leg.data[5 * BLOCK : 6 * BLOCK]) for leg in self.legs}


def test_f28_compare_and_write_compares_once_and_writes_both_legs() -> None:
    formed = Formed()
    assert formed.sent(COMPARE_AND_WRITE, OLD + NEW).outcome == "GOOD"
    assert formed.blocks() == {NEW}
    assert formed.legs[0].operations() == ["read 5+1", "write 5+1"]
    assert formed.legs[1].operations() == ["write 5+1"]


def test_f28_a_miscompare_writes_neither_leg() -> None:
    formed = Formed()
    assert formed.sent(COMPARE_AND_WRITE, NEW + NEW).outcome == "0E/1D/00"
    assert formed.blocks() == {OLD}
    assert formed.legs[1].operations() == []


def test_f28_orwrite_writes_the_same_to_both_legs() -> None:
    formed = Formed()
    assert formed.sent(ORWRITE, b"\x55" * BLOCK).outcome == "GOOD"
    assert formed.blocks() == {b"\xff" * BLOCK}


def test_a_secondary_refuses_it() -> None:
    formed = Formed()
    assert formed.sent(COMPARE_AND_WRITE, OLD + NEW, formed.secondary).outcome == "07/27/00"
    assert formed.blocks() == {OLD}


def test_after_a_split_it_is_about_one_leg() -> None:
    formed = Formed()
    assert formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT) is None
    formed.world.wait_state(formed.pair, PairState.PSUS)
    assert formed.sent(COMPARE_AND_WRITE, OLD + NEW).outcome == "GOOD"
    assert formed.blocks() == {OLD, NEW}


def claimed(formed: Formed) -> list[Claim | VolumeError]:
    results: list[Claim | VolumeError] = []
    formed.primary.logical_unit.volume.claim(5, 1, results.append)
    return results


def test_a_claim_waits_for_a_fence_as_a_write_does_and_is_lost_with_it() -> None:
    formed = Formed()
    unit = formed.legs[1].units[0]
    formed.world.fences.lapse(unit)
    results = claimed(formed)
    assert results == []
    formed.world.fences.retake(unit)
    formed.world.scheduler.advance(2)
    assert len(results) == 1
    claim = results[0]
    assert not isinstance(claim, VolumeError)
    assert not claim.lost()
    formed.world.fences.lapse(unit)
    assert claim.lost()
    formed.world.fences.retake(unit)
    assert claim.lost(), "others may have written meanwhile"


def test_a_claim_that_waits_too_long_for_a_fence_goes_on_without_that_leg() -> None:
    formed = Formed()
    formed.world.fences.lapse(formed.legs[1].units[0])
    results = claimed(formed)
    for _ in range(40):
        formed.world.scheduler.advance(1)
    assert len(results) == 1
    assert not isinstance(results[0], VolumeError)
    assert formed.pair.state is PairState.PSUE


def test_after_the_pair_is_deleted_the_leg_is_claimed() -> None:
    formed = Formed()
    volume = formed.primary.logical_unit.volume
    assert formed.world.command(formed.pair, ArrayOut.PAIR_DELETE) is None
    results: list[Claim | VolumeError] = []
    volume.claim(5, 1, results.append)
    assert len(results) == 1
    assert not isinstance(results[0], VolumeError)
