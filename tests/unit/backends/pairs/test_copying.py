from __future__ import annotations

from dataclasses import dataclass

import pytest

from backends.pairs.pacing import Pace
from backends.pairs.pair import Pair, PairOptions
from backends.pairs.walking import WalkLimits
from scsi.array_commands import ArrayOut, PairState
from scsi.volume import Fault
from tests.support.memory_volume import Operation
from tests.support.pair_world import LINK_LOST, FakeDevice, FakePresentedUnit, PairWorld, pattern

CHUNK = 512  # blocks: 256 KiB


@dataclass
class Formed:
    """A pair in COPY, whose copy is kept from starting by its source until `legs[0]` is released."""

    world: PairWorld
    primary: FakePresentedUnit
    secondary: FakePresentedUnit
    pair: Pair
    legs: tuple[FakeDevice, FakeDevice]


def formed(*, pace: int = 0, blocks: int = 10001, hold: bool = True, chunks: int = 2) -> Formed:
    world = PairWorld(options=PairOptions(walk=WalkLimits(chunk_bytes=CHUNK * 512, chunks=chunks)))
    primary = world.add_unit(1, blocks=blocks)
    secondary = world.add_unit(2, external="array", blocks=blocks)
    legs = (primary.virtual_device, secondary.virtual_device)
    for lba in range(0, blocks - 8, 8):
        legs[0].data[lba * 512 : (lba + 8) * 512] = pattern(lba)
    legs[0].hold = is_read if hold else False
    pair = world.create(primary, secondary, pace=pace)
    return Formed(world, primary, secondary, pair, legs)


def is_read(operation: Operation) -> bool:
    return operation.name == "read"


def equal(some: Formed) -> bool:
    return some.legs[0].data == some.legs[1].data


def test_everything_is_copied_in_chunks_a_few_at_a_time_and_then_flushed() -> None:
    some = formed()
    assert some.legs[0].operations() == ["read 0+512", "read 512+512"]
    some.legs[0].release_all()
    some.world.wait_state(some.pair, PairState.PAIR)
    assert equal(some)
    assert [leg.operations()[-1] for leg in some.legs] == ["flush", "flush"]
    assert some.pair.row().in_sync_percent == 100


def test_progress_is_told_while_the_copy_runs() -> None:
    some = formed()
    assert some.pair.row().in_sync_percent == 0
    for _ in range(10):
        some.legs[0].release()
        some.world.scheduler.run_until_idle()
    row = some.pair.row()
    assert row.out_of_sync_blocks == 10001 - 10 * CHUNK
    assert row.in_sync_percent == 51
    assert some.pair.synchronizer.copied_blocks == 10 * CHUNK


def test_blocks_that_walks_have_copied_and_compared_are_counted_beyond_their_end() -> None:
    some = formed(hold=False)
    some.world.wait_state(some.pair, PairState.PAIR)
    assert (some.pair.synchronizer.copied_blocks, some.pair.synchronizer.compared_blocks) == (10001, 0)
    for _ in range(2):
        some.world.command(some.pair, ArrayOut.PAIR_VERIFY)
    assert (some.pair.synchronizer.copied_blocks, some.pair.synchronizer.compared_blocks) == (10001, 2 * 10001)


@pytest.mark.parametrize("lba", [0, 500, 511, 512, 5000, 9990])
def test_a_write_behind_at_or_ahead_of_the_copy_ends_up_on_both(lba: int) -> None:
    some = formed()
    some.legs[0].release()  # the first chunk is copied
    some.world.scheduler.run_until_idle()
    answers = some.world.write(some.primary, lba, pattern(77))
    some.world.scheduler.run_until_idle()
    some.legs[0].release_all()
    some.world.wait_state(some.pair, PairState.PAIR)
    assert answers == [None]
    assert equal(some)
    assert some.world.read(some.primary, lba, 8) == pattern(77)


def test_a_write_to_a_chunk_under_way_waits_and_one_elsewhere_does_not() -> None:
    some = formed()
    inside = some.world.write(some.primary, 100, pattern(1))
    elsewhere = some.world.write(some.primary, 5000, pattern(2))
    some.world.scheduler.run_until_idle()
    assert (inside, elsewhere) == ([], [None])
    some.legs[0].release()
    some.world.scheduler.run_until_idle()
    assert inside == [None]


def test_a_pace_holds_the_copy_back() -> None:
    some = formed(pace=1, hold=False)
    began = some.world.scheduler.now()
    some.world.wait_state(some.pair, PairState.PAIR)
    took = some.world.scheduler.now() - began
    assert 4.0 <= took <= 6.0, "4.9 MiB at 1 MiB/s"


def test_a_bad_block_of_the_source_leaves_the_rest_copied_and_the_pair_suspended() -> None:
    some = formed()
    some.legs[0].fail("read", Fault.READ_ERROR, 1000, 1)
    some.legs[0].release_all()
    some.world.wait_state(some.pair, PairState.PSUE)
    assert some.pair.record.current == 0
    assert some.pair.row().out_of_sync_blocks == 8
    assert some.legs[0].data[:512000] == some.legs[1].data[:512000]
    assert some.legs[0].data[1008 * 512 :] == some.legs[1].data[1008 * 512 :]
    assert "8 blocks could not be copied" in some.pair.last_error


def test_a_bad_block_of_the_target_does_the_same_and_a_resync_copies_just_it() -> None:
    some = formed()
    some.legs[1].fail("write", Fault.WRITE_ERROR, 1000, 1)
    some.legs[0].release_all()
    some.world.wait_state(some.pair, PairState.PSUE)
    some.legs[1].heal()
    some.legs[0].journal.clear()
    assert some.world.command(some.pair, ArrayOut.PAIR_RESYNC) is None
    some.world.wait_state(some.pair, PairState.PAIR)
    assert equal(some)
    assert some.legs[0].operations() == ["read 1000+8", "flush"]


def test_a_target_that_refuses_for_good_is_lost() -> None:
    some = formed()
    some.legs[1].fail("write", Fault.NO_SPACE)
    some.legs[0].release_all()
    some.world.wait_state(some.pair, PairState.PSUE)
    assert some.pair.record.current == 0


def test_a_copy_waits_for_a_leg_that_is_away_and_goes_on_where_it_was() -> None:
    some = formed()
    for _ in range(4):
        some.legs[0].release()
        some.world.scheduler.run_until_idle()
    some.legs[0].release_all()
    some.legs[1].hold = lambda operation: operation.name == "write"
    some.world.scheduler.run_until_idle()
    some.legs[1].set_unready(LINK_LOST)
    some.world.fences.lapse(some.legs[1].units[0])
    while some.legs[1].held:
        some.legs[1].release()
    some.world.scheduler.advance(30)
    assert some.pair.state is PairState.COPY
    some.legs[1].hold = False
    some.world.fences.retake(some.legs[1].units[0])
    some.legs[1].set_unready(None)
    some.world.wait_state(some.pair, PairState.PAIR)
    some.world.scheduler.advance(30)
    assert equal(some)
    assert some.pair.in_sync()


def test_no_dirty_bit_goes_out_on_disk_before_its_copy_is_flushed() -> None:
    some = formed(blocks=3 * 8192)
    some.legs[1].hold = lambda operation: operation.name == "flush"
    some.legs[0].release_all()
    some.world.scheduler.advance(5)
    assert some.pair.mirror.dirty.dirty_bits == 0
    some.world.fences.lapsed.add("array")
    some.world.restart()
    assert some.world.book.pairs()[0].row().out_of_sync_blocks == 3 * 8192


def test_after_a_crash_a_copy_goes_on_behind_what_was_stable_though_no_host_wrote_anything() -> None:
    options = PairOptions(most_open_extents=2, extent_idle_s=3, walk=WalkLimits(chunk_bytes=CHUNK * 512, chunks=2))
    world = PairWorld(options=options)
    extents = 8
    primary, secondary = (world.add_unit(number, blocks=extents * 8192, write_cache=True) for number in (1, 2))
    legs = primary.virtual_device, secondary.virtual_device
    legs[0].data[:] = legs[0].stable[:] = pattern(7, extents * 8192)
    pair = world.create(primary, secondary, pace=4)  # an extent a second
    world.scheduler.advance(6.2)
    assert pair.state is PairState.COPY
    copied = extents * 8192 - pair.row().out_of_sync_blocks
    open_blocks = len(pair.mirror.log.open) * 8192
    assert copied > 5 * 8192
    for leg in legs:
        leg.power_cut()
    world.restart()
    (pair,) = world.book.pairs()
    again = copied - (extents * 8192 - pair.row().out_of_sync_blocks)
    assert 0 <= again <= open_blocks, "only what lay in open extents"
    assert again < copied - 2 * 8192
    for leg in legs:
        leg.journal.clear()
    left = pair.row().out_of_sync_blocks
    world.wait_state(pair, PairState.PAIR)
    world.scheduler.run_until_idle()
    assert legs[0].data == legs[1].data
    assert sum(operation.blocks for operation in legs[1].journal if operation.name == "write") == left


def test_while_hosts_are_busy_a_copy_is_slower_and_in_smaller_pieces_and_it_ends() -> None:
    some = formed(chunks=1, blocks=40 * 2048)  # 40 MiB
    some.pair.set_pace(Pace(0, 4), lambda _error: None)
    began = some.world.scheduler.now()
    while some.pair.state is PairState.COPY and some.world.scheduler.now() - began < 60:
        some.world.units.host_operations += 1
        some.world.scheduler.advance(0.01)
        if some.legs[0].held:
            some.legs[0].release()  # alone it would take two seconds, or less
    assert some.pair.state is PairState.PAIR
    assert equal(some)
    assert 8 < some.world.scheduler.now() - began < 11
    sizes = {operation.blocks for operation in some.legs[0].journal[40:] if operation.name == "read"}
    assert max(sizes) == CHUNK // 4


def test_a_split_stops_the_copy_and_a_resync_copies_the_rest() -> None:
    some = formed()
    for _ in range(4):
        some.legs[0].release()
        some.world.scheduler.run_until_idle()
    answers: list[object] = []
    some.world.book.command(some.world.asker, some.pair, ArrayOut.PAIR_SPLIT, 0, some.primary, answers.append)
    assert answers == []
    some.legs[0].release_all()
    some.world.scheduler.run_until_idle()
    assert answers == [None]
    left = some.pair.row().out_of_sync_blocks
    assert left == 10001 - 6 * CHUNK
    assert some.world.command(some.pair, ArrayOut.PAIR_RESYNC) is None
    some.world.wait_state(some.pair, PairState.PAIR)
    assert equal(some)


def test_a_transfer_limit_of_a_leg_bounds_the_chunks() -> None:
    world = PairWorld()
    primary, secondary = world.add_unit(1), world.add_unit(2)
    secondary.virtual_device.max_transfer_blocks = 100
    world.create(primary, secondary)
    sizes = {operation.blocks for operation in secondary.virtual_device.journal if operation.name == "write"}
    assert max(sizes) == 96


def test_verify_finds_and_counts_what_differs_and_a_resync_copies_it() -> None:
    some = formed(hold=False)
    some.world.wait_state(some.pair, PairState.PAIR)
    some.legs[1].data[3000 * 512] ^= 1
    some.legs[1].data[10000 * 512 + 511] ^= 1
    assert some.world.command(some.pair, ArrayOut.PAIR_VERIFY) is None
    assert some.pair.state is PairState.PAIR
    assert some.pair.row().out_of_sync_blocks == 8 + 1
    assert some.world.read(some.secondary, 3000, 8) == some.world.read(some.primary, 3000, 8)
    assert some.world.command(some.pair, ArrayOut.PAIR_RESYNC) is None
    some.world.wait_state(some.pair, PairState.PAIR)
    assert equal(some)


def test_what_verify_found_survives_a_restart() -> None:
    some = formed(hold=False)
    some.world.wait_state(some.pair, PairState.PAIR)
    some.world.scheduler.advance(30)
    some.legs[1].data[3000 * 512] ^= 1
    some.world.command(some.pair, ArrayOut.PAIR_VERIFY)
    some.world.fences.lapsed.add("array")
    some.world.restart()
    assert some.world.book.pairs()[0].mirror.dirty.any(3000, 1)


def test_verify_opens_no_extent_when_nothing_differs() -> None:
    some = formed(hold=False)
    some.world.wait_state(some.pair, PairState.PAIR)
    some.world.scheduler.advance(30)
    steps = some.world.directory.steps
    assert some.world.command(some.pair, ArrayOut.PAIR_VERIFY) is None
    assert some.world.directory.steps == steps
    assert some.pair.row().out_of_sync_blocks == 0


def test_immediate_verify_is_answered_before_it_ends() -> None:
    some = formed(hold=False)
    some.world.wait_state(some.pair, PairState.PAIR)
    some.legs[0].hold = is_read
    answers: list[object] = []
    some.world.book.command(some.world.asker, some.pair, ArrayOut.PAIR_VERIFY, 1, some.primary, answers.append)
    assert answers == [None]
    assert some.legs[0].held


def test_verify_that_is_cut_off_says_so() -> None:
    some = formed(hold=False)
    some.world.wait_state(some.pair, PairState.PAIR)
    some.legs[0].hold = is_read
    answers: list[object] = []
    some.world.book.command(some.world.asker, some.pair, ArrayOut.PAIR_VERIFY, 0, some.primary, answers.append)
    some.world.book.command(some.world.asker, some.pair, ArrayOut.PAIR_SPLIT, 0, some.primary, lambda _error: None)
    some.legs[0].release_all()
    some.world.scheduler.run_until_idle()
    assert some.pair.state is PairState.PSUS
    assert len(answers) == 1
    assert answers[0] is not None


def test_a_block_that_can_not_be_compared_counts_as_different() -> None:
    some = formed(hold=False)
    some.world.wait_state(some.pair, PairState.PAIR)
    some.legs[1].fail("read", Fault.READ_ERROR, 3000, 1)
    assert some.world.command(some.pair, ArrayOut.PAIR_VERIFY) is None
    assert some.pair.row().out_of_sync_blocks == 8
