import pytest

from backends.devices.state import DeviceState
from backends.external.array import ArrayState
from scsi.iscsi.initiator_task import Task, Undelivered
from scsi.status import Status
from scsi.volume import Done, Fault, VolumeError
from tests.support.fake_array import NAA, FakeAnswer, FakeUnit, Results, Rig, check, end_with, lost, lun_bytes, state_of

OTHER = bytes.fromhex("6fedcba987654321")


def test_life_goes_from_defined_to_ready_and_to_removed() -> None:
    rig = Rig(connect=False)
    states = [rig.external.state]
    rig.reconnect()
    states.append(rig.external.state)
    rig.path.cut("the link is gone")
    states.append(rig.external.state)
    assert rig.external.reason == "the link is gone"
    rig.path.cut("who are you", refused=True)
    states.append(rig.external.state)
    rig.reconnect()
    closed = Results()
    rig.external.close(lambda: closed(True))
    assert closed == [True]
    states.append(rig.external.state)
    connecting, ready, blocked, removed = list(ArrayState)[1:]
    assert states == [connecting, ready, connecting, blocked, removed]
    assert state_of(rig.unit) is DeviceState.BLOCKED


def test_all_disks_are_found_with_what_they_say_of_themselves() -> None:
    rig = Rig(
        FakeUnit(0, naa=b"controller", device_type=0x0C),
        FakeUnit(1, blocks=100, block_bytes=4096, write_cache=False),
        FakeUnit(7, naa=OTHER, write_protected=True, sixteen=False),
    )
    first, second = rig.external.units()
    assert (first.lun, first.id, first.blocks, first.block_bytes) == (lun_bytes(1), NAA, 100, 4096)
    assert (first.write_cache, first.read_only, first.physical_block_exponent) == (False, False, 3)
    assert (first.vendor, first.product, first.revision) == ("FAKE", "ARRAY", "0001")
    assert (second.lun, second.id, second.blocks, second.read_only) == (lun_bytes(7), OTHER, 2048, True)
    assert {unit.state for unit in rig.external.units()} == {DeviceState.READY}


@pytest.mark.parametrize(
    ("naa", "t10", "serial", "identifier"),
    [
        (NAA, b"VENDOR  1", b"S", NAA),
        (b"", b"VENDOR  1", b"S", b"VENDOR  1"),
        (b"", b"", b"  S-1  ", b"S-1"),
    ],
)
def test_a_lu_is_named_by_its_best_designator(naa: bytes, t10: bytes, serial: bytes, identifier: bytes) -> None:
    assert Rig(FakeUnit(naa=naa, t10=t10, serial=serial)).unit.id == identifier


def test_a_lu_that_does_not_say_who_it_is_is_blocked() -> None:
    rig = Rig(FakeUnit(naa=b"", serial=b"   "))
    assert state_of(rig.unit) is DeviceState.BLOCKED
    assert "does not say who it is" in str(rig.unit.fault())


def test_the_recorded_unit_is_the_one_that_is_found() -> None:
    rig = Rig(connect=False)
    unit = rig.external.expect(lun_bytes(1), NAA, 2048, 512)
    assert state_of(unit) is DeviceState.PENDING
    assert (unit.blocks, unit.block_bytes) == (2048, 512)
    rig.reconnect()
    assert rig.external.units() == [unit]
    assert state_of(unit) is DeviceState.READY
    assert rig.external.expect(lun_bytes(1), NAA) is unit
    assert rig.external.find(NAA) is unit
    assert rig.external.at(lun_bytes(1)) is unit
    assert rig.external.at(lun_bytes(2)) is None


def test_a_unit_recorded_by_lun_alone_takes_the_id_that_is_there_and_keeps_it() -> None:
    rig = Rig(connect=False)
    unit = rig.external.expect(lun_bytes(1))
    rig.reconnect()
    assert unit.id == NAA
    rig.path.cut()
    rig.lu.naa = OTHER
    rig.reconnect()
    assert state_of(unit) is DeviceState.BLOCKED


def test_a_lu_that_is_recorded_with_and_without_its_id_is_one_unit() -> None:
    rig = Rig(connect=False)
    assert rig.external.expect(lun_bytes(1)) is rig.external.expect(lun_bytes(1), NAA)
    assert rig.external.expect(lun_bytes(2), OTHER) is rig.external.expect(lun_bytes(2))
    rig.reconnect()
    assert rig.unit.id == NAA
    assert state_of(rig.unit) is DeviceState.READY


def test_another_lu_at_the_recorded_lun_blocks_and_is_never_touched() -> None:
    rig = Rig(FakeUnit(naa=OTHER), connect=False)
    unit = rig.external.expect(lun_bytes(1), NAA, 2048, 512)
    rig.reconnect()
    assert state_of(unit) is DeviceState.BLOCKED
    assert "another LU is there" in str(unit.fault())
    other = rig.external.find(OTHER)
    assert other is not None
    assert rig.external.at(lun_bytes(1)) is other
    results = Results()
    unit.write(0, bytes(512), False, results)
    assert results.faults == [Fault.BLOCKED]


def test_after_a_lu_has_gone_nothing_is_written_to_the_one_that_comes_to_its_lun() -> None:
    rig = Rig()
    unit = rig.unit
    lu = rig.array.units.pop(1)
    results = Results()
    unit.write(0, b"\x01" * 512, False, results)
    rig.clock.advance(0.0)
    assert results.faults == [Fault.BECOMING_READY]
    rig.array.units[1] = FakeUnit(1, naa=OTHER)  # before annex has looked what is there
    unit.write(0, b"\x02" * 512, False, results)
    rig.clock.advance(1.0)
    assert results.faults == [Fault.BECOMING_READY] * 2
    assert not any(rig.array.units[1].data)
    assert state_of(unit) is DeviceState.BLOCKED
    rig.array.units[1] = lu
    rig.clock.advance(60.0)
    assert state_of(unit) is DeviceState.READY


def swap(rig: Rig, asc: int = 0x3F, ascq: int = 0x0E) -> FakeUnit:
    """Put another LU at the LUN, with no moment without one; give the one that was there."""
    lu = rig.array.units[1]
    stranger = rig.array.units[1] = FakeUnit(1, naa=OTHER)
    assert rig.path.nexus is not None
    stranger.attentions[rig.path.nexus] = [(asc, ascq)]
    return lu


@pytest.mark.parametrize("attention", [(0x3F, 0x0E), (0x3F, 0x03)])
def test_nothing_is_written_to_a_lu_that_takes_the_place_of_another_at_once(attention: tuple[int, int]) -> None:
    rig = Rig()
    unit = rig.unit
    lu = swap(rig, *attention)
    results = Results()
    unit.write(0, b"\x01" * 512, False, results)
    rig.array.run_queued()  # the unit attention
    assert (results, unit.doubted, state_of(unit)) == ([], True, DeviceState.READY)
    unit.write(1, b"\x02" * 512, False, results)  # before annex has looked
    unit.unmap(2, 1, results)
    unit.flush(results)
    rig.clock.advance(0.0)
    assert results.faults == [Fault.BECOMING_READY] * 4
    rig.clock.advance(1.0)
    assert rig.array.units[1].data == bytearray(len(lu.data))
    assert state_of(unit) is DeviceState.BLOCKED
    rig.array.units[1] = lu
    rig.clock.advance(60.0)
    assert state_of(unit) is DeviceState.READY


def test_a_read_of_a_lu_whose_place_was_taken_waits_and_finds_the_one_that_moved() -> None:
    rig = Rig()
    unit = rig.unit
    lu = swap(rig)
    lu.data[:512] = b"\x07" * 512
    lu.number, rig.array.units[2] = 2, lu
    results = Results()
    unit.read(0, 1, results)
    rig.clock.advance(1.0)
    assert results == [b"\x07" * 512]
    assert unit.lun == lun_bytes(2)


def test_what_waited_while_a_lu_was_in_doubt_goes_out_once_it_has_said_who_it_is() -> None:
    rig = Rig()
    unit = rig.unit
    rig.array.attention(rig.lu, 0x3F, 0x0E)
    results = Results()
    unit.write(0, b"\x01" * 512, False, results)
    rig.array.run_queued()
    spy = rig.array.spy()
    unit.write(1, b"\x02" * 512, False, results)
    rig.clock.advance(0.0)
    assert results == [None, None]
    assert rig.lu.data[:1024] == b"\x01" * 512 + b"\x02" * 512
    assert [cdb[0] for cdb in spy] == [0x12, 0x2A, 0x2A]


def test_an_answer_to_a_question_from_before_the_doubt_does_not_count() -> None:
    rig = Rig()
    unit = rig.unit
    rig.array.attention(rig.lu, 0x3F, 0x0E)
    results = Results()
    unit.write(0, b"\x01" * 512, False, results)

    def swap_after_the_answer() -> None:
        rig.array.before_answer.clear()
        swap(rig)
        unit.command(bytes(6), 0, lambda _: None)  # meets the second unit attention
        rig.array.run_queued()

    rig.array.before_answer[0x12] = swap_after_the_answer
    rig.clock.advance(1.0)
    assert results.faults == [Fault.BECOMING_READY]
    assert not any(rig.array.units[1].data)


def test_a_link_that_dies_while_a_lu_is_in_doubt_ends_the_doubt() -> None:
    rig = Rig()
    unit = rig.unit
    rig.array.attention(rig.lu, 0x3F, 0x0E)
    write, read = Results(), Results()
    unit.write(0, b"\x01" * 512, False, write)
    unit.read(0, 1, read)
    rig.array.run_queued()
    rig.path.cut()
    assert write.faults == [Fault.BECOMING_READY]
    rig.reconnect()
    rig.clock.advance(1.0)
    assert (unit.doubted, state_of(unit), read) == (False, DeviceState.READY, [bytes(512)])


def test_a_lu_that_was_swapped_while_it_came_up_does_not_become_ready() -> None:
    rig = Rig()
    unit = rig.unit
    rig.path.cut()

    def swap_once() -> None:
        rig.array.before_answer.clear()
        swap(rig)

    rig.array.before_answer[0x00] = swap_once
    rig.reconnect()
    results = Results()
    unit.write(0, b"\x01" * 512, False, results)
    rig.clock.advance(1.0)
    assert not any(rig.array.units[1].data)
    assert state_of(unit) is DeviceState.BLOCKED


def test_a_lu_that_moved_is_found_again() -> None:
    rig = Rig(FakeUnit(5), connect=False)
    unit = rig.external.expect(lun_bytes(1), NAA, 2048, 512)
    rig.reconnect()
    assert state_of(unit) is DeviceState.READY
    assert unit.lun == lun_bytes(5)


def test_swapped_luns_are_unswapped() -> None:
    rig = Rig(FakeUnit(1, naa=OTHER), FakeUnit(2, naa=NAA), connect=False)
    one = rig.external.expect(lun_bytes(1), NAA)
    two = rig.external.expect(lun_bytes(2), OTHER)
    rig.reconnect()
    assert (one.lun, two.lun) == (lun_bytes(2), lun_bytes(1))
    assert one.state is two.state is DeviceState.READY


@pytest.mark.parametrize(("away_s", "found_within_s"), [(0, 1), (3, 4), (3600, 30)])
def test_a_lu_that_is_not_there_blocks_and_is_taken_when_it_comes(away_s: float, found_within_s: float) -> None:
    rig = Rig(connect=False)
    unit = rig.external.expect(lun_bytes(1), NAA)
    rig.reconnect()
    rig.path.cut()
    del rig.array.units[1]  # an array that starts, and has no LUs yet
    rig.reconnect()
    rig.clock.advance(away_s)
    assert state_of(unit) is DeviceState.BLOCKED
    rig.array.units[1] = FakeUnit(1)
    rig.clock.advance(found_within_s + 0.1)
    assert state_of(unit) is DeviceState.READY


def test_a_unit_expected_while_the_array_is_up_is_looked_for_at_once() -> None:
    rig = Rig()
    rig.array.units[3] = FakeUnit(3, naa=OTHER)
    unit = rig.external.expect(lun_bytes(3), OTHER)
    rig.clock.advance(1)
    assert state_of(unit) is DeviceState.READY


def test_an_array_that_lists_nothing_is_asked_for_what_is_expected() -> None:
    rig = Rig(connect=False)
    unit = rig.external.expect(lun_bytes(1), NAA)
    rig.array.units = {0: FakeUnit(0, device_type=0x0C, always={}), **rig.array.units}
    submit = rig.path.submit

    def without_report_luns(task: Task) -> None:
        if task.cdb[0] == 0xA0:
            end_with(task, check(5, 0x20, 0))
        else:
            submit(task)

    rig.path.submit = without_report_luns  # type: ignore[method-assign]  # an array without the command
    rig.reconnect()
    assert state_of(unit) is DeviceState.READY


def test_a_changed_size_blocks_at_the_reconnect() -> None:
    rig = Rig()
    rig.path.cut()
    rig.lu.blocks = 4096
    rig.reconnect()
    assert state_of(rig.unit) is DeviceState.BLOCKED
    assert "size changed" in str(rig.unit.fault())


@pytest.mark.parametrize("attention", [(0x2A, 0x09), (0x3F, 0x0E)])
def test_a_changed_size_blocks_when_the_array_says_so(attention: tuple[int, int]) -> None:
    rig = Rig()
    unit = rig.unit
    rig.lu.blocks = 4096
    rig.array.attention(rig.lu, *attention)
    results = Results()
    unit.read(0, 1, results)
    rig.clock.advance(1)
    assert results == [bytes(512)]
    assert state_of(unit) is DeviceState.BLOCKED


def test_an_attention_that_changes_nothing_of_interest_disturbs_no_one() -> None:
    rig = Rig()
    rig.array.units[9] = FakeUnit(9, naa=OTHER)
    rig.array.attention(rig.lu, 0x3F, 0x0E)
    rig.unit.read(0, 1, Results())
    rig.clock.advance(1)
    assert state_of(rig.unit) is DeviceState.READY
    assert [unit.id for unit in rig.external.units()] == [NAA, OTHER]


@pytest.mark.parametrize("block_bytes", [520, 1024, 0])
def test_a_block_length_that_annex_can_not_use_blocks(block_bytes: int) -> None:
    rig = Rig(FakeUnit(block_bytes=block_bytes, data=bytearray(4096)))
    assert state_of(rig.unit) is DeviceState.BLOCKED


def test_a_lu_that_is_not_ready_yet_is_waited_for() -> None:
    rig = Rig(connect=False)
    settled = Results()
    rig.external.when_settled(lambda: settled(True))
    rig.lu.always[0] = check(2, 0x04, 1)
    rig.reconnect()
    assert state_of(rig.unit) is DeviceState.PENDING
    assert settled == [True]
    del rig.lu.always[0]
    rig.clock.advance(1)
    assert state_of(rig.unit) is DeviceState.READY


def test_a_lu_held_by_another_initiator_is_ready_if_its_size_is_known() -> None:
    rig = Rig(FakeUnit(reserved_by=99), connect=False)
    unit = rig.external.expect(lun_bytes(1), NAA, 2048, 512)
    rig.reconnect()
    results = Results()
    unit.read(0, 1, results)
    rig.clock.run_until_idle()
    assert results.faults == [Fault.RESERVATION_CONFLICT]


def test_a_lu_held_by_another_initiator_waits_until_its_size_can_be_asked_for() -> None:
    rig = Rig(FakeUnit(reserved_by=99))
    assert state_of(rig.unit) is DeviceState.PENDING
    rig.lu.reserved_by = None
    rig.clock.advance(6)
    assert state_of(rig.unit) is DeviceState.READY


def test_steps_before_ready_run_in_order_and_are_repeated_when_one_fails() -> None:
    rig = Rig()
    ran: list[str] = []
    outcomes: list[VolumeError | None] = [VolumeError(Fault.BUSY, "later"), None]

    def first(done: Done) -> None:
        assert state_of(rig.unit) is DeviceState.PENDING
        assert rig.unit.reachable
        ran.append("first")
        done(None)

    def second(done: Done) -> None:
        ran.append("second")
        outcome = outcomes.pop(0)
        rig.clock.call_later(0.1, lambda: done(outcome))

    rig.unit.before_ready += [first, second]
    rig.path.cut()
    rig.reconnect()
    rig.clock.advance(0.15)
    assert state_of(rig.unit) is DeviceState.PENDING
    assert "later" in str(rig.unit.fault())
    rig.clock.advance(2)
    assert state_of(rig.unit) is DeviceState.READY
    assert ran == ["first", "second"] * 2


def test_a_step_that_ends_after_its_connection_changes_nothing() -> None:
    rig = Rig()
    waiting: list[Done] = []
    rig.unit.before_ready.append(waiting.append)
    rig.path.cut()
    rig.reconnect()
    rig.path.cut()
    waiting[0](None)
    rig.clock.run_until_idle()
    assert state_of(rig.unit) is DeviceState.PENDING
    rig.reconnect()
    waiting[1](None)
    rig.clock.run_until_idle()
    assert state_of(rig.unit) is DeviceState.READY


def test_a_reset_that_the_array_refuses_keeps_the_unit_pending_until_it_works() -> None:
    rig = Rig()
    rig.array.stalled = True
    rig.unit.write(0, bytes(512), False, Results())
    rig.path.cut()
    rig.array.stalled = False
    rig.array.reset_works = False
    rig.reconnect()
    rig.clock.advance(3)
    assert state_of(rig.unit) is DeviceState.PENDING
    rig.array.reset_works = True
    rig.clock.advance(6)
    assert state_of(rig.unit) is DeviceState.READY


def test_one_unit_that_is_stuck_keeps_no_other() -> None:
    rig = Rig(FakeUnit(1), FakeUnit(2, naa=OTHER), connect=False)
    rig.array.units[1].always[0] = FakeAnswer(Status.BUSY)
    rig.reconnect()
    stuck, other = rig.external.units()
    assert state_of(stuck) is DeviceState.PENDING
    assert state_of(other) is DeviceState.READY


@pytest.mark.parametrize("code", [0xA0, 0x12, 0x00, 0x9E, 0x1A])
def test_a_link_that_dies_during_discovery_blocks_nothing(code: int) -> None:
    rig = Rig(connect=False)
    unit = rig.external.expect(lun_bytes(1), NAA, 2048, 512)
    submit = rig.path.submit

    def cut_at(task: Task) -> None:
        submit(task)
        if task.cdb[0] == code:
            rig.path.cut()

    rig.path.submit = cut_at  # type: ignore[method-assign]  # a cut at a chosen moment
    rig.reconnect()
    rig.clock.advance(1)
    assert state_of(unit) is DeviceState.PENDING
    rig.path.submit = submit  # type: ignore[method-assign]  # whole again
    rig.reconnect()
    assert state_of(unit) is DeviceState.READY


def test_a_lu_that_does_not_answer_who_it_is_is_asked_again() -> None:
    rig = Rig(connect=False)
    unit = rig.external.expect(lun_bytes(1), NAA, 2048, 512)
    rig.lu.always[0x12] = lost(Undelivered.TIMED_OUT)
    rig.reconnect()
    assert state_of(unit) is DeviceState.PENDING
    del rig.lu.always[0x12]
    rig.clock.advance(3)
    assert state_of(unit) is DeviceState.READY


def test_settled_comes_with_the_first_failure_too() -> None:
    rig = Rig(connect=False)
    settled = Results()
    rig.external.when_settled(lambda: settled("first"))
    rig.clock.advance(60)
    assert settled == []
    rig.path.cut("no route")
    rig.external.when_settled(lambda: settled("second"))
    assert settled == ["first", "second"]


@pytest.mark.parametrize("code", [0xA0, 0x12, 0x9E, 0x25, 0x1A])
@pytest.mark.parametrize("reply", [b"", b"\xff", b"\xff" * 8, b"\xff" * 64, bytes(4), bytes(64)])
def test_nonsense_for_an_answer_is_survived(code: int, reply: bytes) -> None:
    rig = Rig(connect=False)
    submit = rig.path.submit

    def nonsense(task: Task) -> None:
        if task.cdb[0] == code:
            end_with(task, FakeAnswer(data_in=reply[: task.data_in_bytes]))
        else:
            submit(task)

    rig.path.submit = nonsense  # type: ignore[method-assign]  # an array that lies
    rig.path.up()
    rig.clock.advance(5)
    assert rig.external.state is ArrayState.READY


def test_a_changed_size_is_served_once_it_is_accepted() -> None:
    rig = Rig()
    rig.path.cut()
    rig.lu.blocks = 4096
    rig.reconnect()
    unit = rig.unit
    assert unit.other_size == (4096, 512)
    assert "annexcli /arrays/old accept_size 1" in str(unit.fault())
    rig.external.accept_size(unit, 4096, 512)
    rig.clock.advance(1)
    assert (state_of(unit), unit.blocks) == (DeviceState.READY, 4096)


def test_a_size_that_changed_again_blocks_again() -> None:
    rig = Rig()
    rig.path.cut()
    rig.lu.blocks = 4096
    rig.reconnect()
    rig.lu.blocks = 8192
    rig.external.accept_size(rig.unit, 4096, 512)
    rig.clock.advance(1)
    assert (state_of(rig.unit), rig.unit.other_size) == (DeviceState.BLOCKED, (8192, 512))


def test_a_size_that_comes_back_needs_no_acceptance() -> None:
    rig = Rig()
    rig.path.cut()
    rig.lu.blocks = 4096
    rig.reconnect()
    rig.lu.blocks = 2048
    rig.clock.advance(31)  # it is looked at again by itself
    assert (state_of(rig.unit), rig.unit.other_size) == (DeviceState.READY, None)


def test_a_unit_that_was_never_seen_is_given_an_id_and_found_by_it_wherever_it_is() -> None:
    rig = Rig(FakeUnit(3, naa=OTHER))
    unit = rig.external.expect(lun_bytes(5))
    rig.clock.advance(1)
    assert (state_of(unit), unit.id) == (DeviceState.BLOCKED, b"")
    rig.external.identify(unit, OTHER)
    rig.clock.advance(1)
    assert (state_of(unit), unit.lun) == (DeviceState.READY, lun_bytes(3))
    assert rig.external.units() == [unit]


def test_an_id_is_taken_back_from_a_unit_that_was_not_found() -> None:
    rig = Rig()
    unit = rig.external.expect(lun_bytes(5))
    rig.external.identify(unit, OTHER)
    rig.external.identify(unit, b"")
    rig.array.units[5] = FakeUnit(5, naa=bytes.fromhex("6fedcba987654322"))
    rig.clock.advance(1)
    assert (state_of(unit), unit.id.hex()) == (DeviceState.READY, "6fedcba987654322")
