from __future__ import annotations

import pytest

from backends.devices.state import DeviceState
from backends.external.fence import FenceKeeper
from backends.external.unit import ExternalLogicalUnit
from scsi.status import Status
from scsi.volume import Fault, VolumeError
from tests.support.fake_array import FakeAnswer, Results, Rig, check, state_of

RESERVE, RELEASE = 0x16, 0x17
STRANGER = 99


class Holder:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def fence_lapsed(self, unit: ExternalLogicalUnit) -> None:
        self.heard.append("lapsed")

    def fence_retaken(self, unit: ExternalLogicalUnit) -> None:
        self.heard.append("retaken")

    def fence_refused(self, unit: ExternalLogicalUnit, error: VolumeError) -> None:
        self.heard.append("refused")


class FenceRig(Rig):
    def __init__(self, *, connect: bool = True) -> None:
        super().__init__(connect=connect)
        self.fences = FenceKeeper(self.clock)
        self.holder = Holder()

    def reserved(self) -> bool:
        return self.lu.reserved_by is not None and self.lu.reserved_by == self.path.nexus

    def take(self, holder: Holder | None = None) -> Results:
        results = Results()
        self.fences.take(self.unit, holder or self.holder, results)
        self.clock.run_until_idle()
        return results

    def drop(self, holder: Holder | None = None) -> Results:
        results = Results()
        self.fences.drop(self.unit, holder or self.holder, lambda: results("dropped"))
        self.clock.run_until_idle()
        return results

    def touch(self) -> Results:
        """Send a data command, which finds out what happened at the array."""
        results = Results()
        self.unit.read(0, 1, results)
        self.clock.run_until_idle()
        return results


def test_a_fence_is_wanted_as_long_as_somebody_holds_it_whether_the_array_agrees_or_not() -> None:
    rig = FenceRig()
    assert not rig.fences.wanted(rig.unit)
    rig.take()
    rig.array.third_party_reset()
    rig.path.cut()
    assert (rig.fences.wanted(rig.unit), rig.fences.held(rig.unit)) == (True, False)
    rig.drop()
    assert not rig.fences.wanted(rig.unit)


def test_the_first_holder_brings_the_reservation_and_the_last_ends_it() -> None:
    rig = FenceRig()
    second = Holder()
    assert rig.take() == [None]
    assert rig.reserved()
    assert rig.fences.held(rig.unit)
    assert rig.take(second) == [None]
    assert rig.array.operations(RESERVE) == [RESERVE]
    assert rig.drop() == ["dropped"]
    assert rig.reserved()
    assert rig.fences.holders(rig.unit) == 1
    assert rig.drop(second) == ["dropped"]
    assert not rig.reserved()
    assert not rig.fences.held(rig.unit)
    assert rig.array.operations(RESERVE, RELEASE)[-2:] == [RESERVE, RELEASE]
    assert rig.unit.before_ready == []


def test_two_takes_at_once_cost_one_reserve() -> None:
    rig = FenceRig()
    results = Results()
    rig.fences.take(rig.unit, rig.holder, results)
    rig.fences.take(rig.unit, Holder(), results)
    rig.clock.run_until_idle()
    assert results == [None, None]
    assert rig.array.operations(RESERVE) == [RESERVE]


def test_a_holder_counts_once() -> None:
    rig = FenceRig()
    rig.take()
    rig.take()
    assert rig.drop() == ["dropped"]
    assert not rig.reserved()


def test_a_refused_take_leaves_nothing() -> None:
    rig = FenceRig()
    rig.lu.reserved_by = STRANGER
    assert rig.take().faults == [Fault.RESERVATION_CONFLICT]
    assert rig.fences.holders(rig.unit) == 0
    assert not rig.fences.held(rig.unit)
    assert rig.unit.before_ready == []
    rig.lu.reserved_by = None
    assert rig.take() == [None]


def test_a_take_while_the_unit_is_away_fails_at_once() -> None:
    rig = FenceRig()
    rig.path.cut()
    assert rig.take().faults == [Fault.BECOMING_READY]


def test_a_take_whose_link_dies_fails_once_and_leaves_nothing() -> None:
    rig = FenceRig()
    rig.array.stalled = True
    results = rig.take()
    rig.path.cut()
    assert results.faults == [Fault.LINK_LOST]
    rig.array.stalled = False
    rig.reconnect()
    rig.clock.advance(5)
    assert rig.lu.reserved_by is None


def test_dropping_what_nobody_holds_is_done_at_once() -> None:
    assert FenceRig().drop() == ["dropped"]


def test_a_drop_is_done_only_when_the_array_has_answered() -> None:
    rig = FenceRig()
    rig.take()
    rig.array.stalled = True
    results = rig.drop()
    assert results == []
    assert not rig.fences.held(rig.unit)
    rig.array.resume()
    assert results == ["dropped"]


def test_a_drop_is_done_when_the_session_is_gone() -> None:
    rig = FenceRig()
    rig.take()
    rig.array.stalled = True
    results = rig.drop()
    rig.path.cut()
    assert results == ["dropped"]

    rig = FenceRig()
    rig.take()
    rig.path.cut()
    assert rig.drop() == ["dropped"]


def test_a_release_that_the_array_refuses_is_made_by_a_reset() -> None:
    rig = FenceRig()
    rig.take()
    rig.lu.always[RELEASE] = check(4, 0x44, 0)
    assert rig.drop() == ["dropped"]
    assert rig.lu.reserved_by is None
    rig.path.cut()
    rig.reconnect()
    assert rig.array.resets == 1  # nothing was left behind that a second one had to clear


def test_a_take_during_the_release_takes_it_anew() -> None:
    rig = FenceRig()
    rig.take()
    rig.array.stalled = True
    dropped = rig.drop()
    taken = rig.take(Holder())
    assert (dropped, taken) == ([], [])
    rig.array.stalled = False
    rig.array.run_queued()
    rig.clock.run_until_idle()
    assert (dropped, taken) == (["dropped"], [None])
    assert rig.reserved()
    assert rig.fences.held(rig.unit)


def test_a_drop_during_the_take_ends_it_and_releases() -> None:
    rig = FenceRig()
    rig.array.stalled = True
    taken = rig.take()
    dropped = rig.drop()
    assert taken.faults == [Fault.BUSY]
    assert dropped == []
    rig.array.resume()
    rig.clock.run_until_idle()
    assert dropped == ["dropped"]
    assert rig.lu.reserved_by is None


def test_a_reset_by_someone_else_is_a_lapse_that_is_mended_at_once() -> None:
    rig = FenceRig()
    rig.take()
    rig.array.third_party_reset()
    assert rig.touch() == [bytes(512)]
    assert rig.holder.heard == ["lapsed", "retaken"]
    assert rig.reserved()
    assert rig.fences.held(rig.unit)


def test_between_lapse_and_retake_nothing_is_held() -> None:
    rig = FenceRig()
    rig.take()
    rig.array.third_party_reset()
    rig.unit.read(0, 1, Results())
    held_at_lapse: list[bool] = []
    rig.holder.fence_lapsed = lambda unit: held_at_lapse.append(rig.fences.held(unit))  # type: ignore[method-assign]  # a spy
    rig.clock.run_until_idle()
    assert held_at_lapse == [False]
    assert rig.fences.held(rig.unit)


def test_a_fence_that_someone_else_got_is_tried_again_all_the_time() -> None:
    rig = FenceRig()
    rig.take()
    rig.lu.reserved_by = STRANGER
    assert rig.touch().faults == [Fault.RESERVATION_CONFLICT]
    assert rig.holder.heard == ["lapsed", "refused"]
    assert not rig.fences.held(rig.unit)
    rig.clock.advance(2.5)
    assert rig.holder.heard == ["lapsed", "refused", "refused", "refused"]
    rig.lu.reserved_by = None
    rig.clock.advance(1)
    assert rig.holder.heard[-1] == "retaken"
    assert rig.fences.held(rig.unit)


def test_a_lapse_while_reserve_is_in_flight_has_it_sent_again() -> None:
    rig = FenceRig()
    rig.take()
    rig.array.journal.clear()
    rig.fences.unit_lapsed(rig.unit, "first finding")
    rig.fences.unit_lapsed(rig.unit, "another one, with RESERVE in flight")
    rig.clock.run_until_idle()
    assert rig.array.operations(RESERVE) == [RESERVE, RESERVE]
    assert rig.fences.held(rig.unit)
    assert rig.holder.heard == ["lapsed", "retaken"]


def test_a_stall_while_reserve_is_in_flight_has_it_sent_again() -> None:
    rig = FenceRig()
    rig.take()
    rig.array.journal.clear()
    rig.fences.unit_lapsed(rig.unit, "a reset")

    def stand_still() -> None:
        rig.array.before_answer.clear()
        rig.clock._now += 60  # what was answered before it says nothing of what happened in it

    rig.array.before_answer[RESERVE] = stand_still
    rig.clock.run_until_idle()
    assert rig.array.operations(RESERVE) == [RESERVE, RESERVE]
    assert rig.fences.held(rig.unit)
    assert rig.holder.heard == ["lapsed", "retaken"]


def test_after_a_lost_link_the_fence_is_back_before_the_unit_is_ready() -> None:
    rig = FenceRig()
    rig.take()
    rig.path.cut()
    assert rig.holder.heard == ["lapsed"]
    assert not rig.fences.held(rig.unit)
    heard_at_ready: list[tuple[bool, list[str]]] = []

    class Listener:
        def unit_ready(self, unit: ExternalLogicalUnit) -> None:
            heard_at_ready.append((rig.fences.held(unit), list(rig.holder.heard)))

        def unit_lost(self, unit: ExternalLogicalUnit) -> None: ...

        def unit_lapsed(self, unit: ExternalLogicalUnit, why: str) -> None: ...

    rig.unit.listen(Listener())
    rig.reconnect()
    assert heard_at_ready == [(True, ["lapsed", "retaken"])]
    assert rig.reserved()


def test_an_old_session_that_keeps_its_reservation_is_cleared_by_a_reset() -> None:
    rig = FenceRig()
    rig.array.sessions_end = False  # as tgt does it
    rig.take()
    rig.path.cut()
    rig.reconnect()
    assert rig.array.resets == 1
    assert rig.reserved()
    assert rig.fences.held(rig.unit)


def test_an_old_session_that_keeps_a_dropped_reservation_is_cleared_too() -> None:
    rig = FenceRig()
    rig.array.sessions_end = False
    rig.take()
    rig.path.cut()
    assert rig.drop() == ["dropped"]
    rig.reconnect()
    assert state_of(rig.unit) is DeviceState.READY
    assert rig.lu.reserved_by is None
    assert rig.touch() == [bytes(512)]


def test_a_unit_whose_fence_is_refused_at_the_reconnect_does_not_become_ready() -> None:
    rig = FenceRig()
    rig.take()
    rig.path.cut()
    rig.lu.always[RESERVE] = FakeAnswer(Status.RESERVATION_CONFLICT)
    rig.reconnect()
    assert state_of(rig.unit) is DeviceState.PENDING
    assert rig.holder.heard == ["lapsed", "refused"]
    del rig.lu.always[RESERVE]
    rig.clock.advance(10)
    assert state_of(rig.unit) is DeviceState.READY
    assert rig.fences.held(rig.unit)


@pytest.mark.parametrize("flaps", [2, 50])
def test_a_flapping_link_ends_with_the_fence_held_once(flaps: int) -> None:
    rig = FenceRig()
    rig.array.sessions_end = False
    rig.take()
    for _ in range(flaps):
        rig.path.cut()
        rig.reconnect()
    assert rig.reserved()
    assert rig.holder.heard == ["lapsed", "retaken"] * flaps
    assert rig.drop() == ["dropped"]
    assert rig.lu.reserved_by is None


def test_an_adopted_fence_is_taken_after_a_reset_when_the_array_comes() -> None:
    rig = FenceRig(connect=False)
    rig.lu.reserved_by = STRANGER  # an earlier life of annex, not noticed by the array
    unit = rig.external.expect(b"\0\1" + bytes(6), rig.lu.naa, 2048, 512)
    rig.fences.adopt(unit, rig.holder)
    assert not rig.fences.held(unit)
    rig.reconnect()
    assert rig.array.resets == 1
    assert state_of(unit) is DeviceState.READY
    assert rig.fences.held(unit)
    assert rig.reserved()
    assert rig.holder.heard == ["retaken"]


def test_an_adopted_fence_of_a_unit_that_is_there_is_taken_at_once() -> None:
    rig = FenceRig()
    rig.lu.reserved_by = STRANGER
    rig.fences.adopt(rig.unit, rig.holder)
    rig.clock.run_until_idle()
    assert rig.array.resets == 1
    assert rig.fences.held(rig.unit)
    assert rig.holder.heard == ["retaken"]


def test_adopting_what_is_held_already_needs_nothing() -> None:
    rig = FenceRig()
    rig.take()
    second = Holder()
    rig.fences.adopt(rig.unit, second)
    assert second.heard == ["retaken"]
    assert rig.array.operations(RESERVE) == [RESERVE]


def test_a_stall_of_the_loop_is_a_lapse() -> None:
    rig = FenceRig()
    rig.take()
    rig.clock.advance(60)
    assert rig.fences.held(rig.unit)
    rig.clock._now += 60  # SIGSTOP, 60 s, SIGCONT: no timer ran
    assert not rig.fences.held(rig.unit)
    rig.clock.run_until_idle()
    assert rig.holder.heard == ["lapsed", "retaken"]
    assert rig.fences.held(rig.unit)


def test_who_asks_after_a_stall_has_the_lapse_told_before_the_answer() -> None:
    rig = FenceRig()
    assert rig.fences.steady()
    rig.take()
    rig.clock.advance(60)
    assert rig.fences.steady()
    rig.clock._now += 60
    assert not rig.fences.steady()
    assert rig.holder.heard == ["lapsed"]
    rig.clock.run_until_idle()
    assert rig.holder.heard == ["lapsed", "retaken"]
    assert rig.fences.steady()


def test_a_keeper_without_fences_keeps_no_timer() -> None:
    rig = FenceRig()
    rig.take()
    rig.drop()
    rig.clock.advance(100)
    assert rig.clock.next_deadline() is None


def test_a_holder_that_drops_when_it_learns_of_the_lapse_is_heard() -> None:
    rig = FenceRig()
    rig.take()
    dropped = Results()
    rig.holder.fence_lapsed = lambda unit: rig.fences.drop(unit, rig.holder, lambda: dropped(True))  # type: ignore[method-assign]  # a holder that gives up
    rig.array.third_party_reset()
    rig.touch()
    assert dropped == [True]
    assert rig.lu.reserved_by is None
    assert rig.fences.holders(rig.unit) == 0


def test_a_holder_that_drops_when_the_link_dies_is_heard() -> None:
    rig = FenceRig()
    rig.take()
    dropped = Results()
    rig.holder.fence_lapsed = lambda unit: rig.fences.drop(unit, rig.holder, lambda: dropped(True))  # type: ignore[method-assign]  # a holder that gives up
    rig.path.cut()
    assert dropped == [True]
    rig.reconnect()
    assert rig.lu.reserved_by is None
