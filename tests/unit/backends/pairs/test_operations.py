from __future__ import annotations

from functools import partial

import pytest

from backends.pairs.pair import Pair
from scsi.array_commands import ArrayOut, FenceLevel, PairFlag, PairState
from scsi.errors import (
    InternalTargetFailure,
    InvalidFieldInCdb,
    NoSuchPair,
    PairSideNotReady,
    PairStateForbids,
    ScsiError,
)
from scsi.volume import Fault, VolumeError
from tests.support.memory_volume import Operation
from tests.support.pair_world import PairWorld, pattern

SPLIT, RESYNC, DELETE = ArrayOut.PAIR_SPLIT, ArrayOut.PAIR_RESYNC, ArrayOut.PAIR_DELETE
TAKEOVER, VERIFY = ArrayOut.PAIR_TAKEOVER, ArrayOut.PAIR_VERIFY
WRITABLE = REVERSE = 1
SWAP = 2
AWAY = VolumeError(Fault.BECOMING_READY, "planned")


class Formed:
    """A pair in PAIR."""

    def __init__(self, level: FenceLevel = FenceLevel.STATUS) -> None:
        self.world = PairWorld()
        self.primary = self.world.add_unit(1)
        self.secondary = self.world.add_unit(2, external="array")
        self.pair: Pair = self.world.create(self.primary, self.secondary, level=level, nocopy=True)
        self.legs = (self.primary.virtual_device, self.secondary.virtual_device)
        assert self.world.written(self.primary, 0, pattern(0)) is None
        for unit in (self.primary, self.secondary):
            unit.logical_unit.attentions.clear()

    def command(self, action: ArrayOut, flags: int = 0) -> ScsiError | None:
        at = self.secondary if action is TAKEOVER else None
        return self.world.command(self.pair, action, flags=flags, at=at)

    def to(self, state: PairState) -> None:
        """Bring the pair to a state; in PSUE the secondary's leg is the lost one."""
        if state is PairState.COPY:
            self.legs[0].hold = lambda operation: operation.name == "read"
            self.command(SPLIT)
            self.world.written(self.primary, 800, pattern(8))
            self.command(RESYNC)
        elif state is PairState.PSUS:
            self.command(SPLIT)
        elif state is PairState.PSUE:
            self.pair.leg_lost(1, AWAY)
        elif state is PairState.SSWS:
            self.command(SPLIT)
            self.command(TAKEOVER)
        self.world.scheduler.run_until_idle()
        assert self.pair.state is state
        for unit in (self.primary, self.secondary):
            unit.logical_unit.attentions.clear()

    @property
    def flags(self) -> PairFlag:
        return self.pair.row().flags


def fault(answer: VolumeError | None) -> Fault | None:
    return None if answer is None else answer.fault


REFUSED = [
    (SPLIT, 0, {PairState.PSUE, PairState.SSWS}),
    (RESYNC, 0, {PairState.SSWS}),
    (RESYNC, REVERSE, {PairState.COPY, PairState.PAIR, PairState.PSUE, PairState.SSWS}),
    (RESYNC, SWAP, {PairState.COPY, PairState.PAIR, PairState.PSUS, PairState.PSUE}),
    (TAKEOVER, 0, {PairState.COPY}),
    (VERIFY, 0, {PairState.COPY, PairState.PSUS, PairState.PSUE, PairState.SSWS}),
]


@pytest.mark.parametrize("state", [state for state in PairState if state is not PairState.SMPL])
@pytest.mark.parametrize(("action", "flags", "refusing"), REFUSED)
def test_a_command_is_refused_in_the_states_that_forbid_it_and_only_there(
    state: PairState, action: ArrayOut, flags: int, refusing: set[PairState]
) -> None:
    formed = Formed()
    formed.to(state)
    answers: list[ScsiError | None] = []
    at = formed.secondary if action is TAKEOVER else formed.primary
    formed.world.book.command(formed.world.asker, formed.pair, action, flags, at, answers.append)
    formed.legs[0].release_all()
    formed.world.scheduler.run_until_idle()
    assert isinstance(answers[0], PairStateForbids) == (state in refusing)
    attentions = [unit.logical_unit.attentions for unit in (formed.primary, formed.secondary)]
    if state in refusing:
        assert attentions == [[], []]
        assert formed.world.written(formed.primary, 16, pattern(1)) is None or state is PairState.SSWS


@pytest.mark.parametrize("state", [state for state in PairState if state is not PairState.SMPL])
def test_delete_ends_a_pair_in_every_state(state: PairState) -> None:
    formed = Formed()
    formed.to(state)
    answers: list[ScsiError | None] = []
    formed.world.book.command(formed.world.asker, formed.pair, DELETE, 0, formed.primary, answers.append)
    formed.legs[0].release_all()
    formed.world.scheduler.run_until_idle()
    assert answers == [None]
    assert formed.world.book.pairs() == []
    assert formed.world.directory.names() == ["pairs.index"]
    assert formed.world.fences.released == ["array"]
    for unit in (formed.primary, formed.secondary):
        assert unit.logical_unit.volume is unit.virtual_device
        assert unit.logical_unit.attentions == [(0x80, 0x80, formed.world.asker)]
    assert formed.world.written(formed.secondary, 40, pattern(4)) is None


@pytest.mark.parametrize(
    ("action", "flags", "state"),
    [
        (SPLIT, 0, PairState.PAIR),
        (RESYNC, 0, PairState.PSUS),
        (TAKEOVER, 0, PairState.PAIR),
        (TAKEOVER, 0, PairState.PSUS),
    ],
)
def test_a_change_is_told_to_every_nexus_but_the_one_that_commanded_it(
    action: ArrayOut, flags: int, state: PairState
) -> None:
    formed = Formed()
    formed.to(state)
    assert formed.command(action, flags) is None
    for unit in (formed.primary, formed.secondary):
        assert unit.logical_unit.attentions == [(0x80, 0x80, formed.world.asker)]


def test_a_command_that_has_nothing_to_do_is_good_and_tells_nobody() -> None:
    formed = Formed()
    assert formed.command(RESYNC) is None
    formed.to(PairState.PSUS)
    assert formed.command(SPLIT) is None
    assert formed.primary.logical_unit.attentions == []
    assert formed.pair.state is PairState.PSUS


# --- SPLIT ---


def test_no_write_admitted_after_the_status_of_a_split_reaches_the_secondary() -> None:
    formed = Formed()
    formed.legs[1].hold = lambda operation: operation.name == "write"
    before = formed.world.write(formed.primary, 16, pattern(1))
    answers: list[ScsiError | None] = []
    formed.world.book.command(formed.world.asker, formed.pair, SPLIT, 0, formed.primary, answers.append)
    during = formed.world.write(formed.primary, 32, pattern(2))
    assert (answers, during) == ([], [])
    formed.legs[1].release_all()
    formed.world.scheduler.run_until_idle()
    assert (before, answers, during) == ([None], [None], [None])
    after = formed.world.write(formed.primary, 48, pattern(3))
    formed.world.scheduler.run_until_idle()
    assert after == [None]
    assert formed.world.read(formed.secondary, 16, 8) == pattern(1)
    assert formed.world.read(formed.secondary, 32, 16) == bytes(16 * 512)
    assert formed.world.read(formed.secondary, 48, 8) == bytes(8 * 512)


def test_a_split_is_answered_only_when_it_is_stable() -> None:
    formed = Formed()
    formed.world.workers.held = True
    answers: list[ScsiError | None] = []
    formed.world.book.command(formed.world.asker, formed.pair, SPLIT, 0, formed.primary, answers.append)
    write = formed.world.write(formed.primary, 16, pattern(1))
    formed.world.scheduler.run_until_idle()
    assert (answers, write) == ([], [])
    formed.world.workers.run_held()
    formed.world.scheduler.run_until_idle()
    assert (answers, write) == ([None], [None])


def test_a_split_that_can_not_be_stored_is_an_error() -> None:
    formed = Formed()
    formed.world.directory.error = OSError(5, "Input/output error")
    assert isinstance(formed.command(SPLIT), InternalTargetFailure)
    assert isinstance(formed.command(SPLIT), InternalTargetFailure), "there is nothing to do, and it is not stable yet"
    formed.world.directory.error = None
    assert formed.command(SPLIT) is None


@pytest.mark.parametrize("flags", [0, WRITABLE])
def test_the_secondary_is_writable_when_the_split_says_so(flags: int) -> None:
    formed = Formed()
    formed.command(SPLIT, flags)
    expected = None if flags else Fault.WRITE_PROTECTED
    assert fault(formed.world.written(formed.secondary, 16, pattern(1))) is expected
    assert bool(formed.flags & PairFlag.SECONDARY_WRITABLE) == bool(flags)


def test_a_leg_lost_while_a_split_waits_refuses_the_split() -> None:
    formed = Formed()
    formed.legs[1].hold = lambda operation: operation.name == "write"
    formed.world.write(formed.primary, 16, pattern(1))
    answers: list[ScsiError | None] = []
    formed.world.book.command(formed.world.asker, formed.pair, SPLIT, 0, formed.primary, answers.append)
    formed.legs[1].release(error=VolumeError(Fault.WRITE_ERROR, "planned"))
    formed.world.scheduler.run_until_idle()
    assert isinstance(answers[0], PairStateForbids)
    assert formed.pair.state is PairState.PSUE
    assert formed.world.written(formed.primary, 48, pattern(3)) is None


# --- RESYNC ---


def test_resync_copies_the_union_of_what_either_side_changed() -> None:
    formed = Formed()
    formed.command(SPLIT, WRITABLE)
    formed.world.written(formed.primary, 16, pattern(1))
    formed.world.written(formed.secondary, 1000, pattern(2))
    formed.legs[0].journal.clear()
    assert formed.command(RESYNC) is None
    formed.world.wait_state(formed.pair, PairState.PAIR)
    assert formed.legs[0].data == formed.legs[1].data
    assert formed.world.read(formed.primary, 1000, 8) == bytes(8 * 512)
    reads = [operation for operation in formed.legs[0].operations() if operation.startswith("read")]
    assert reads[:2] == ["read 16+8", "read 1000+8"]


def test_resync_of_a_pair_in_pair_with_nothing_out_of_sync_does_nothing() -> None:
    formed = Formed()
    formed.legs[0].journal.clear()
    assert formed.command(RESYNC) is None
    assert formed.legs[0].operations() == []


def test_reverse_resync_gives_the_primary_the_secondarys_data_at_once() -> None:
    formed = Formed()
    formed.command(SPLIT, WRITABLE)
    formed.world.written(formed.primary, 16, pattern(1))
    formed.world.written(formed.secondary, 32, pattern(2))
    formed.legs[1].hold = lambda operation: operation.name == "read" and operation.blocks > 2
    assert formed.command(RESYNC, REVERSE) is None
    assert formed.flags & PairFlag.COPYING_TO_PRIMARY
    assert formed.flags & PairFlag.SECONDARY_IS_CURRENT
    assert formed.world.read(formed.primary, 32, 2) == pattern(2, 2)
    formed.legs[1].release_all()
    formed.world.wait_state(formed.pair, PairState.PAIR)
    assert formed.legs[0].data == formed.legs[1].data
    assert formed.world.read(formed.primary, 16, 8) == bytes(8 * 512)
    assert formed.pair.record.current == 0


def test_a_reverse_resync_copies_nothing_before_its_direction_is_stable() -> None:
    formed = Formed()
    formed.command(SPLIT, WRITABLE)
    formed.world.written(formed.secondary, 32, pattern(2))
    formed.world.workers.held = True
    formed.legs[0].journal.clear()
    formed.world.book.command(formed.world.asker, formed.pair, RESYNC, REVERSE, formed.primary, lambda _error: None)
    formed.world.scheduler.advance(5)
    assert formed.legs[0].operations() == []


def test_resync_goes_from_the_current_leg_whichever_that_is() -> None:
    formed = Formed(FenceLevel.NEVER)
    formed.legs[0].fail("write", Fault.WRITE_ERROR, times=1)
    assert formed.world.written(formed.primary, 16, pattern(1)) is None
    assert formed.pair.record.current == 1
    assert formed.command(RESYNC) is None
    formed.world.wait_state(formed.pair, PairState.PAIR)
    assert formed.legs[0].data == formed.legs[1].data
    assert formed.world.read(formed.primary, 16, 8) == pattern(1)


def test_resync_with_a_leg_away_is_not_ready() -> None:
    formed = Formed()
    formed.to(PairState.PSUS)
    formed.legs[1].set_unready(AWAY)
    assert isinstance(formed.command(RESYNC), PairSideNotReady)
    assert formed.pair.state is PairState.PSUS


def test_reverse_and_swap_together_are_no_command() -> None:
    formed = Formed()
    assert isinstance(formed.command(RESYNC, REVERSE | SWAP), InvalidFieldInCdb)


# --- TAKEOVER and SWAP ---


def test_takeover_in_pair_swaps_the_roles_without_a_copy() -> None:
    formed = Formed()
    formed.legs[0].journal.clear()
    assert formed.command(TAKEOVER) is None
    assert formed.pair.state is PairState.PAIR
    row = formed.pair.row()
    assert row.primary_naa == formed.secondary.logical_unit.naa
    assert row.secondary_naa == formed.primary.logical_unit.naa
    assert formed.legs[0].operations() == []
    assert formed.world.written(formed.secondary, 16, pattern(1)) is None
    assert fault(formed.world.written(formed.primary, 16, pattern(2))) is Fault.WRITE_PROTECTED
    assert formed.legs[0].data == formed.legs[1].data
    assert [unit.logical_unit.told_read_only[-1] for unit in (formed.secondary, formed.primary)] == [False, True]


def test_takeover_is_sent_to_the_secondary() -> None:
    formed = Formed()
    error = formed.world.command(formed.pair, TAKEOVER, at=formed.primary)
    assert isinstance(error, PairStateForbids)


def test_takeover_with_the_primarys_leg_lost_leads_alone() -> None:
    formed = Formed()
    formed.legs[0].unready = VolumeError(Fault.BLOCKED, "planned")
    assert formed.command(TAKEOVER) is None
    assert formed.pair.state is PairState.SSWS
    assert not formed.flags & PairFlag.SECONDARY_MAY_BE_OLD
    assert formed.world.written(formed.secondary, 16, pattern(1)) is None
    assert formed.world.read(formed.secondary, 16, 8) == pattern(1)


@pytest.mark.parametrize("level", list(FenceLevel))
def test_takeover_of_a_suspended_pair_says_that_the_data_may_be_old_unless_the_level_is_data(level: FenceLevel) -> None:
    formed = Formed(level)
    formed.to(PairState.PSUE)
    assert formed.command(TAKEOVER) is None
    assert bool(formed.flags & PairFlag.SECONDARY_MAY_BE_OLD) == (level is not FenceLevel.DATA)


def test_takeover_after_the_primarys_leg_was_lost_is_not_old() -> None:
    formed = Formed()
    formed.pair.leg_lost(0, AWAY)
    formed.world.written(formed.primary, 16, pattern(1))
    assert formed.command(TAKEOVER) is None
    assert not formed.flags & PairFlag.SECONDARY_MAY_BE_OLD
    assert formed.world.read(formed.secondary, 16, 8) == pattern(1)


def test_while_the_secondary_leads_the_primary_can_only_be_read_and_swap_discards_its_changes() -> None:
    formed = Formed()
    formed.command(SPLIT)
    formed.world.written(formed.primary, 16, pattern(1))
    formed.command(TAKEOVER)
    assert fault(formed.world.written(formed.primary, 32, pattern(2))) is Fault.WRITE_PROTECTED
    assert formed.world.written(formed.secondary, 64, pattern(3)) is None
    assert formed.command(RESYNC, SWAP) is None
    formed.world.wait_state(formed.pair, PairState.PAIR)
    assert formed.pair.row().primary_naa == formed.secondary.logical_unit.naa
    assert formed.legs[0].data == formed.legs[1].data
    assert formed.world.read(formed.primary, 16, 8) == bytes(8 * 512)
    assert formed.world.read(formed.primary, 64, 8) == pattern(3)


def test_takeover_of_a_pair_that_is_not_verified_goes_on_reading_the_leg_that_is() -> None:
    formed = Formed()
    formed.legs[0].hold = lambda operation: operation.name == "read" and operation.blocks > 8
    formed.world.fences.lapse(formed.legs[1].units[0])
    formed.legs[1].data[800 * 512 : 808 * 512] = pattern(66)
    formed.world.fences.retake(formed.legs[1].units[0])
    answers: list[ScsiError | None] = []
    formed.world.book.command(formed.world.asker, formed.pair, TAKEOVER, 0, formed.secondary, answers.append)
    formed.legs[0].release_all()
    formed.world.ended(answers)
    if answers == [None]:
        assert formed.world.read(formed.secondary, 800, 8) == bytes(8 * 512)
    formed.world.scheduler.advance(20)
    assert formed.legs[0].data == formed.legs[1].data


def test_takeover_of_a_pair_with_differing_blocks_goes_on_reading_the_leg_that_is_right() -> None:
    formed = Formed()
    formed.legs[1].data[800 * 512 : 808 * 512] = pattern(66)
    assert formed.command(VERIFY) is None
    assert formed.command(TAKEOVER) is None
    assert formed.pair.row().primary_naa == formed.secondary.logical_unit.naa
    assert formed.world.read(formed.secondary, 800, 8) == bytes(8 * 512)
    assert formed.command(RESYNC) is None
    formed.world.wait_state(formed.pair, PairState.PAIR)
    assert formed.legs[0].data == formed.legs[1].data
    assert formed.world.read(formed.secondary, 800, 8) == bytes(8 * 512)


def test_a_split_that_would_give_one_leg_to_two_writers_is_refused() -> None:
    formed = Formed()
    formed.command(SPLIT, WRITABLE)
    formed.world.written(formed.secondary, 800, pattern(2))
    formed.legs[1].hold = lambda operation: operation.name == "read"
    formed.command(RESYNC, REVERSE)
    assert isinstance(formed.command(SPLIT, WRITABLE), PairStateForbids)
    answers: list[ScsiError | None] = []
    formed.world.book.command(formed.world.asker, formed.pair, SPLIT, 0, formed.primary, answers.append)
    formed.legs[1].release_all()
    formed.world.scheduler.run_until_idle()
    assert answers == [None]
    assert formed.world.read(formed.primary, 800, 8) == pattern(2)


# --- Several commands ---


def test_commands_on_one_pair_run_one_after_the_other() -> None:
    formed = Formed()
    formed.world.workers.held = True
    answers: list[tuple[str, ScsiError | None]] = []

    def note(name: str, error: ScsiError | None) -> None:
        answers.append((name, error))

    for action in (SPLIT, RESYNC, DELETE, SPLIT):
        formed.world.book.command(
            formed.world.asker,
            formed.pair,
            action,
            0,
            formed.primary,
            partial(note, action.name),
        )
    formed.world.workers.run_held()
    formed.world.scheduler.run_until_idle()
    assert [name for name, _ in answers] == ["PAIR_SPLIT", "PAIR_RESYNC", "PAIR_DELETE", "PAIR_SPLIT"] or [
        name for name, _ in answers
    ] == ["PAIR_SPLIT", "PAIR_RESYNC", "PAIR_SPLIT", "PAIR_DELETE"]
    results = dict(answers[:2])
    assert results == {"PAIR_SPLIT": None, "PAIR_RESYNC": None}
    assert any(isinstance(error, NoSuchPair) for _, error in answers)


def test_a_delete_that_can_not_be_stored_keeps_the_pair() -> None:
    formed = Formed()
    formed.world.directory.error = OSError(5, "Input/output error")
    assert isinstance(formed.command(DELETE), InternalTargetFailure)
    formed.world.directory.error = None
    assert formed.world.book.pairs() == [formed.pair]
    assert formed.world.written(formed.primary, 16, pattern(1)) is None
    assert formed.legs[0].data == formed.legs[1].data


def test_writes_under_way_during_a_delete_end_on_both_legs() -> None:
    formed = Formed()

    def is_write(operation: Operation) -> bool:
        return operation.name == "write"

    formed.legs[1].hold = is_write
    write = formed.world.write(formed.primary, 16, pattern(1))
    answers: list[ScsiError | None] = []
    formed.world.book.command(formed.world.asker, formed.pair, DELETE, 0, formed.primary, answers.append)
    assert answers == []
    formed.legs[1].release_all()
    formed.world.scheduler.run_until_idle()
    assert (write, answers) == ([None], [None])
    assert formed.legs[0].data == formed.legs[1].data
