from __future__ import annotations

from typing import Any

import pytest

from backends.pairs.pair import PairOptions
from scsi.array_commands import ArrayOut, PairCreate, PairState
from scsi.errors import (
    AlreadyPaired,
    BlockLengthsDiffer,
    InvalidFieldInParameterList,
    NoSuchPair,
    PairSideNotReady,
    PairStateForbids,
    SameStorage,
    ScsiError,
    SecondaryInUse,
    SizesDiffer,
    TooManyPairs,
    WriteProtected,
)
from scsi.nexus import Nexus
from scsi.volume import Fault, VolumeError
from tests.support.pair_world import ASKER_NAME, FakePresentedUnit, PairWorld, naa_of


class Two:
    """Two LUs that could be paired."""

    def __init__(self, **secondary: Any) -> None:
        self.world = PairWorld(options=PairOptions(most_pairs=2))
        self.primary = self.world.add_unit(1)
        self.secondary = self.world.add_unit(2, external="array", **secondary)

    def refusal(self, parameters: PairCreate | None = None) -> ScsiError | None:
        """Try to create; nothing may be left behind by a refusal."""
        volumes = [self.primary.logical_unit.volume, self.secondary.logical_unit.volume]
        parameters = parameters or PairCreate(1, True, 0, self.secondary.logical_unit.naa)
        answers: list[ScsiError | None] = []
        self.world.book.create(self.world.asker, self.primary, parameters, answers.append)
        self.world.scheduler.run_until_idle()
        assert len(answers) == 1
        if answers[0] is not None:
            assert [self.primary.logical_unit.volume, self.secondary.logical_unit.volume] == volumes
            assert not any(self.world.fences.holders.values())
            assert not [name for name in self.world.directory.names() if name.startswith("pair-00")]
            assert self.primary.logical_unit.attentions == self.secondary.logical_unit.attentions == []
            assert self.primary.logical_unit.drains == self.secondary.logical_unit.drains == 0
        return answers[0]


def other_host(name: str = "iqn.2026-11.org.example:other") -> Nexus:
    return Nexus(name, bytes(6), "iqn.2026-11.io.annex:t", 1, True, {})


def test_two_fitting_units_are_paired() -> None:
    assert Two().refusal() is None


@pytest.mark.parametrize("level", [3, 255])
def test_a_fence_level_that_does_not_exist_is_refused_at_its_byte(level: int) -> None:
    two = Two()
    error = two.refusal(PairCreate(level, False, 0, two.secondary.logical_unit.naa))
    assert isinstance(error, InvalidFieldInParameterList)
    assert error.field is not None
    assert error.field.offset == 0


def test_a_secondary_outside_the_askers_map_is_refused_like_one_that_does_not_exist() -> None:
    two = Two()
    unmapped = two.world.add_unit(3)
    two.world.asker.lun_map = dict(list(two.world.asker.lun_map.items())[:2])
    for naa in (unmapped.logical_unit.naa, naa_of(99)):
        error = two.refusal(PairCreate(1, False, 0, naa))
        assert isinstance(error, InvalidFieldInParameterList)
        assert error.field is not None
        assert (error.field.offset, error.field.in_cdb) == (8, False)


def test_a_unit_can_not_be_paired_with_itself() -> None:
    two = Two()
    assert isinstance(two.refusal(PairCreate(1, False, 0, two.primary.logical_unit.naa)), SameStorage)


def test_units_on_the_same_storage_are_refused() -> None:
    two = Two()
    two.primary.virtual_device.shares_with = two.secondary.virtual_device
    assert isinstance(two.refusal(), SameStorage)


@pytest.mark.parametrize("which", [1, 2])
def test_both_units_must_be_mapped_read_write(which: int) -> None:
    two = Two()
    lun = list(two.world.asker.lun_map)[which - 1]
    two.world.asker.lun_map[lun] = two.world.asker.lun_map[lun]._replace(read_only=True)
    assert isinstance(two.refusal(), WriteProtected)


def test_another_size_is_refused() -> None:
    assert isinstance(Two(blocks=20481).refusal(), SizesDiffer)


def test_another_block_length_is_refused() -> None:
    assert isinstance(Two(block_bytes=4096).refusal(), BlockLengthsDiffer)


@pytest.mark.parametrize("which", ["primary", "secondary"])
def test_a_side_that_is_not_ready_is_refused(which: str) -> None:
    two = Two()
    unit: FakePresentedUnit = getattr(two, which)
    unit.virtual_device.unready = VolumeError(Fault.BECOMING_READY, "planned")
    assert isinstance(two.refusal(), PairSideNotReady)


def test_a_secondary_reserved_by_another_host_is_refused() -> None:
    two = Two()
    two.secondary.logical_unit.reservations.holder = other_host()
    assert isinstance(two.refusal(), SecondaryInUse)


def test_a_secondary_reserved_by_another_session_of_the_asker_is_not() -> None:
    two = Two()
    two.secondary.logical_unit.reservations.holder = other_host(ASKER_NAME)
    assert two.refusal() is None


def test_a_secondary_that_an_acl_maps_read_write_to_another_host_is_refused() -> None:
    two = Two()
    two.world.units.hosts[two.secondary.logical_unit.naa] = frozenset({ASKER_NAME, "iqn.2026-11.org.example:other"})
    assert isinstance(two.refusal(), SecondaryInUse)
    two.world.units.hosts[two.secondary.logical_unit.naa] = frozenset({ASKER_NAME})
    assert two.refusal() is None


def test_a_reservation_at_the_array_is_refused_as_in_use() -> None:
    two = Two()
    two.world.fences.refusals["array"] = VolumeError(Fault.RESERVATION_CONFLICT, "planned")
    assert isinstance(two.refusal(), SecondaryInUse)


def test_a_unit_that_is_paired_with_another_is_refused() -> None:
    two = Two()
    third = two.world.add_unit(3)
    assert two.refusal() is None
    for primary, secondary in ((two.primary, third), (third, two.secondary), (third, two.primary)):
        (error,) = two.world.begin_create(primary, secondary)
        assert isinstance(error, AlreadyPaired)


def test_the_same_pair_again_is_good_in_pair_and_refused_once_split() -> None:
    two = Two()
    assert two.refusal() is None
    attentions = len(two.secondary.logical_unit.attentions)
    assert two.world.begin_create(two.primary, two.secondary) == [None]
    assert len(two.world.book.pairs()) == 1
    assert len(two.secondary.logical_unit.attentions) == attentions
    two.world.command(two.world.book.pairs()[0], ArrayOut.PAIR_SPLIT)
    (error,) = two.world.begin_create(two.primary, two.secondary)
    assert isinstance(error, PairStateForbids)


def test_the_same_two_the_other_way_round_are_refused() -> None:
    two = Two()
    assert two.refusal() is None
    (error,) = two.world.begin_create(two.secondary, two.primary)
    assert isinstance(error, PairStateForbids)


def test_one_pair_more_than_there_can_be_is_refused() -> None:
    two = Two()
    units = [two.world.add_unit(number) for number in range(3, 9)]
    two.world.create(units[0], units[1], nocopy=True)
    two.world.create(units[2], units[3], nocopy=True)
    (error,) = two.world.begin_create(units[4], units[5])
    assert isinstance(error, TooManyPairs)


# --- Who may command a pair ---


@pytest.mark.parametrize("action", [action for action in ArrayOut if 0 < action < 8])
def test_a_nexus_that_sees_one_of_the_two_gets_no_such_pair(action: ArrayOut) -> None:
    two = Two()
    two.refusal()
    pair = two.world.book.pairs()[0]
    host = other_host()
    two.world.map(host, two.primary)
    answers: list[ScsiError | None] = []
    two.world.book.command(host, pair, action, 0, two.primary, answers.append)
    assert isinstance(answers[0], NoSuchPair)


@pytest.mark.parametrize(
    ("action", "refused"),
    [
        (ArrayOut.PAIR_SPLIT, False),
        (ArrayOut.PAIR_VERIFY, False),
        (ArrayOut.PAIR_RESYNC, True),
        (ArrayOut.PAIR_TAKEOVER, True),
        (ArrayOut.PAIR_DELETE, False),
    ],
)
def test_resync_and_takeover_need_both_mapped_read_write(action: ArrayOut, *, refused: bool) -> None:
    two = Two()
    two.refusal()
    pair = two.world.book.pairs()[0]
    host = other_host()
    two.world.map(host, two.primary)
    two.world.map(host, two.secondary, read_only=True)
    answers: list[ScsiError | None] = []
    two.world.book.command(host, pair, action, 0, two.secondary, answers.append)
    two.world.scheduler.run_until_idle()
    assert isinstance(answers[0], WriteProtected) == refused
    assert refused or pair.state is not PairState.COPY
