from __future__ import annotations

from backends.pairs.pair import Pair, PairOptions
from scsi.array_commands import ArrayOut, FenceLevel, PairState
from scsi.volume import Fault
from tests.support.pair_world import PairWorld, pattern

EXTENT = 8192


class Formed:
    """A pair in PAIR of five extents, of which two may be open."""

    def __init__(self) -> None:
        self.world = PairWorld(options=PairOptions(most_open_extents=2, extent_idle_s=5))
        self.primary = self.world.add_unit(1, blocks=5 * EXTENT)
        self.secondary = self.world.add_unit(2, external="array", blocks=5 * EXTENT)
        self.pair: Pair = self.world.create(self.primary, self.secondary, nocopy=True, level=FenceLevel.NEVER)
        self.legs = (self.primary.virtual_device, self.secondary.virtual_device)

    def write(self, extent: int) -> None:
        assert self.world.written(self.primary, extent * EXTENT, pattern(extent)) is None

    def dirty_after_restart(self) -> set[int]:
        self.world.restart()
        pair = self.world.book.pairs()[0]
        return set(pair.mirror.dirty.dirty_extents())


def test_an_extent_that_rests_is_closed_after_both_legs_were_flushed() -> None:
    formed = Formed()
    formed.write(1)
    formed.world.scheduler.advance(4)
    assert set(formed.pair.log.open) == {1}
    formed.world.scheduler.advance(5)
    assert formed.pair.log.open == {}
    assert [leg.operations()[-1] for leg in formed.legs] == ["flush", "flush"]


def test_an_extent_in_use_stays_open() -> None:
    formed = Formed()
    for _ in range(10):
        formed.write(1)
        formed.world.scheduler.advance(2)
    assert set(formed.pair.log.open) == {1}


def test_those_used_longest_ago_are_closed_when_too_many_are_open() -> None:
    formed = Formed()
    for extent in range(5):
        formed.write(extent)
        formed.world.scheduler.advance(0.9)
    formed.world.scheduler.advance(2)
    assert set(formed.pair.log.open) <= {3, 4}


def test_after_a_restart_only_open_extents_are_dirty() -> None:
    formed = Formed()
    formed.write(1)
    formed.world.scheduler.advance(10)
    formed.write(3)
    formed.legs[1].set_unready(None)
    formed.world.fences.lapsed.add("array")  # the copy of the restarted daemon must wait
    assert formed.dirty_after_restart() == {3}


def test_an_extent_with_a_write_under_way_is_not_closed() -> None:
    formed = Formed()
    formed.write(1)
    formed.legs[1].hold = lambda operation: operation.name == "write"
    formed.world.write(formed.primary, EXTENT + 100, pattern(9))
    formed.world.scheduler.advance(9)
    assert 1 in formed.pair.log.open


def test_an_extent_is_not_closed_when_the_flush_fails() -> None:
    formed = Formed()
    formed.write(1)
    formed.legs[1].fail("flush", Fault.WRITE_ERROR, times=1)
    formed.world.scheduler.advance(7)
    assert formed.pair.state is PairState.PSUE
    formed.world.fences.lapsed.add("array")
    formed.dirty_after_restart()
    assert formed.world.book.pairs()[0].mirror.dirty.any(EXTENT, 8)


def test_a_split_pair_closes_extents_with_the_blocks_that_were_written() -> None:
    formed = Formed()
    formed.world.flushed(formed.primary)
    formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT)
    formed.write(1)
    formed.world.scheduler.advance(20)
    assert formed.pair.log.open == {}
    formed.world.restart()
    assert formed.world.book.pairs()[0].mirror.dirty.dirty_blocks() == 8


def test_what_was_mirrored_and_never_flushed_is_closed_as_wholly_dirty_only_under_pressure() -> None:
    formed = Formed()
    formed.write(1)
    formed.world.command(formed.pair, ArrayOut.PAIR_SPLIT)
    formed.world.scheduler.advance(20)
    assert set(formed.pair.log.open) == {1}
    for extent in (0, 2, 3, 4):
        formed.write(extent)
    formed.world.scheduler.advance(3)
    assert 1 not in formed.pair.log.open
    assert formed.pair.mirror.dirty.mask(1) == formed.pair.mirror.dirty.whole(1)


def test_clean_stop_leaves_no_extent_open() -> None:
    formed = Formed()
    formed.write(1)
    closed: list[int] = []
    formed.world.book.close(lambda: closed.append(1))
    formed.world.scheduler.advance(1)
    assert closed == [1]
    formed.world.fences.lapsed.add("array")
    assert formed.dirty_after_restart() == set()


def stop(formed: Formed) -> None:
    """Stop the pairs; of the flushes of the external leg, the latest ends first."""
    external = formed.legs[1]
    external.hold = True
    closed: list[int] = []
    formed.world.book.close(lambda: closed.append(1))
    formed.world.scheduler.run_until_idle()
    while not closed:
        external.release(len(external.held) - 1)
        formed.world.scheduler.run_until_idle()
    assert external.held == []  # else its end would write to a file that is closed
    assert formed.pair.log.open == {}


def test_a_stop_closes_every_extent_whatever_flush_ends_first() -> None:
    formed = Formed()
    formed.write(1)
    stop(formed)
    assert formed.dirty_after_restart() == set()


def test_a_stop_closes_every_extent_also_while_others_are_being_closed() -> None:
    formed = Formed()
    formed.write(1)
    formed.world.scheduler.advance(4)
    formed.legs[1].hold = True
    formed.world.scheduler.advance(3)  # the flush that comes before extent 1 is closed is under way
    assert [operation.name for operation in formed.legs[1].held] == ["flush"]
    formed.legs[1].hold = False
    formed.write(2)
    stop(formed)
    assert formed.dirty_after_restart() == set()
