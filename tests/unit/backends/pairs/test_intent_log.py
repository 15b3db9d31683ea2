from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.pairs.dirty_map import EXTENT_BITS, DirtyMap
from backends.pairs.intent_log import IntentLog
from backends.pairs.intent_sectors import CODES, SECTOR_BYTES, IntentLayout
from tests.support.clock import VirtualScheduler
from tests.support.stable_memory import Crash, MemoryDirectory, MemoryFile
from tests.support.workers import VirtualWorkers

IDENTITY = bytes(range(16))
PER_EXTENT = 1024  # blocks of 4096 bytes
EXTENTS = 7
BLOCKS = EXTENTS * PER_EXTENT - 3
NAME = "marks"


class World:
    """A log over files in memory, and a restart."""

    def __init__(self, *, blocks: int = BLOCKS, clean: bool = True) -> None:
        self.directory = MemoryDirectory()
        self.blocks = blocks
        layout = IntentLayout(DirtyMap(blocks, 4096).extents)
        self.directory.create(NAME, layout.file_bytes)
        self.start()
        if clean:
            self.log.dirty.clear_all()
            self.log.format_clean()

    def start(self) -> int:
        """Open the log as after a restart; gives the number of damaged sectors."""
        self.scheduler = VirtualScheduler()
        self.workers = VirtualWorkers(self.scheduler)
        self.dirty = DirtyMap(self.blocks, 4096)
        self.log = IntentLog(self.directory.open(NAME), IDENTITY, self.dirty, self.workers)
        return self.log.load()

    @property
    def file(self) -> MemoryFile:
        return self.directory.files[NAME]

    def open(self, first: int, last: int | None = None) -> list[Exception | None]:
        answers: list[Exception | None] = []
        if self.log.admit(first, first if last is None else last, answers.append):
            answers.append(None)
        return answers

    def opened(self, first: int, last: int | None = None) -> None:
        answers = self.open(first, last)
        self.scheduler.run_until_idle()
        assert answers == [None]

    def close(self, *extents: int) -> None:
        self.log.close_extents(extents)
        self.scheduler.run_until_idle()

    def dirty_extents(self) -> set[int]:
        return set(self.dirty.dirty_extents())


def test_a_new_file_of_zeros_means_everything_is_dirty() -> None:
    world = World(clean=False)
    assert world.dirty.dirty_blocks() == BLOCKS


def test_a_log_formatted_clean_comes_back_clean() -> None:
    world = World()
    assert world.start() == 0
    assert world.dirty.dirty_blocks() == 0


def test_a_mark_that_a_killed_daemon_left_unsynced_is_stable_before_it_is_relied_on() -> None:
    world = World()
    world.file.sync, sync = lambda: None, world.file.sync  # type: ignore[method-assign]  # killed before that
    world.opened(3)
    world.file.sync = sync  # type: ignore[method-assign]  # as it was
    world.start()
    assert world.open(3) == [None]
    world.directory = world.directory.as_after_a_crash()
    world.start()
    assert world.dirty_extents() == {3}


def test_an_extent_is_open_only_once_that_is_stable() -> None:
    world = World()
    world.workers.held = True
    answers = world.open(2)
    world.scheduler.run_until_idle()
    assert answers == []
    assert 2 not in world.log.open
    world.workers.run_held()
    world.scheduler.run_until_idle()
    assert answers == [None]
    assert 2 in world.log.open
    world.directory.crash(random.Random(1))
    world.start()
    assert world.dirty_extents() == {2}
    assert world.dirty.mask(2).bit_count() == EXTENT_BITS


def test_an_open_extent_is_admitted_without_any_step() -> None:
    world = World()
    world.opened(3)
    steps = world.directory.steps
    assert world.open(3) == [None]
    assert world.directory.steps == steps


def test_extents_that_wait_together_are_opened_in_one_write() -> None:
    world = World()
    world.workers.held = True
    answers = [world.open(at) for at in (0, 1, 2)]
    steps = world.directory.steps
    world.workers.run_held()
    world.scheduler.run_until_idle()
    assert answers == [[None]] * 3
    assert world.directory.steps - steps == 4  # the first alone: write and sync; the two others together


def test_who_writes_one_extent_after_the_other_waits_for_one_in_eight() -> None:
    world = World(blocks=40 * PER_EXTENT)
    waited = []
    for extent in range(40):
        steps = world.directory.steps
        world.opened(extent)
        if world.directory.steps > steps:
            waited.append(extent)
    assert waited == [0, 1, 2, 10, 18, 26, 34]
    assert set(world.log.open) == set(range(40))


def test_nothing_is_opened_ahead_of_who_writes_here_and_there() -> None:
    world = World()
    for at in (4, 2, 0, 5):
        world.opened(at)
    assert set(world.log.open) == {0, 2, 4, 5}


def test_what_was_opened_ahead_and_is_waited_for_meanwhile_is_opened_once() -> None:
    world = World()
    world.opened(0, 1)
    world.workers.held = True
    answers = [world.open(at) for at in (2, 3, 4)]
    steps = world.directory.steps
    world.workers.run_held()
    world.scheduler.run_until_idle()
    assert answers == [[None]] * 3
    assert world.directory.steps - steps == 2  # one write and its sync
    world.close(3)
    world.directory.crash(random.Random(1))
    world.start()
    assert world.dirty_extents() == {0, 1, 2, 4, 5, 6}


def test_a_write_over_two_extents_waits_for_both() -> None:
    world = World()
    world.opened(0)
    answers = world.open(0, 1)
    assert answers == []
    world.scheduler.run_until_idle()
    assert answers == [None]
    assert set(world.log.open) == {0, 1}


def test_wholly_dirty_extents_are_open_on_disk_already() -> None:
    world = World(clean=False)
    steps = world.directory.steps
    assert world.open(0, EXTENTS - 1) == [None]
    assert world.directory.steps == steps


def test_a_closed_extent_comes_back_with_its_fine_bits() -> None:
    world = World()
    world.opened(1, 2)
    world.dirty.set(PER_EXTENT + 5, 3)
    world.close(1, 2)
    world.directory.crash(random.Random(1))
    assert world.start() == 0
    assert world.dirty_extents() == {1}
    assert world.dirty.mask(1) == 0b111 << 5


def test_an_extent_closed_wholly_dirty_needs_no_write_to_be_opened_again() -> None:
    world = World()
    world.opened(1)
    world.dirty.put_mask(1, -1)
    world.close(1)
    steps = world.directory.steps
    assert world.open(1) == [None]
    assert world.directory.steps == steps


def test_a_write_that_comes_while_its_extent_is_being_closed_waits_until_it_is_open_again() -> None:
    world = World()
    world.opened(1)
    world.workers.held = True
    world.log.close_extents([1])
    answers = world.open(1)
    assert answers == []
    world.workers.run_held()
    world.scheduler.run_until_idle()
    assert answers == [None]
    world.directory.crash(random.Random(0))
    world.start()
    assert world.dirty_extents() == {1}


def test_an_extent_that_waits_to_be_closed_stays_open_for_a_write_that_comes_first() -> None:
    world = World()
    world.opened(1, 2)
    world.workers.held = True
    world.open(5)  # something is under way, so the closing waits
    world.log.close_extents([1])
    assert world.open(1) == [None]
    world.workers.run_held()
    world.scheduler.run_until_idle()
    world.directory.crash(random.Random(0))
    world.start()
    assert world.dirty_extents() == {1, 2, 5}


def test_an_extent_that_can_not_be_opened_says_so_and_can_be_tried_again() -> None:
    world = World()
    world.directory.error = OSError(5, "Input/output error")
    answers = world.open(4)
    world.scheduler.run_until_idle()
    assert [type(answer) for answer in answers] == [OSError]
    assert 4 not in world.log.open
    world.directory.error = None
    world.opened(4)
    world.start()
    assert world.dirty_extents() == {4}


def test_after_a_failed_close_the_extent_must_be_written_before_it_is_used() -> None:
    world = World()
    world.opened(4)
    world.directory.stop_at = world.directory.steps + 2  # the write goes out, the sync fails
    world.close(4)
    world.directory.stop_at = None
    answers = world.open(4)
    assert answers == []
    world.scheduler.run_until_idle()
    assert answers == [None]
    world.directory.crash(random.Random(3))
    world.start()
    assert 4 in world.dirty_extents()


def test_two_waiters_of_one_failed_batch_both_hear_of_it() -> None:
    world = World()
    world.directory.error = OSError(5, "Input/output error")
    first, second = world.open(4), world.open(4, 5)
    world.scheduler.run_until_idle()
    world.directory.error = None
    world.scheduler.run_until_idle()
    assert [type(answer) for answer in first] == [OSError]
    assert len(second) == 1


def test_when_idle_waits_for_what_is_under_way() -> None:
    world = World()
    called: list[int] = []
    world.open(4)
    world.log.when_idle(lambda: called.append(1))
    assert called == []
    world.scheduler.run_until_idle()
    assert called == [1]


@pytest.mark.parametrize("damage", ["zero", "flip", "other pair", "misplaced"])
def test_a_damaged_map_sector_makes_its_extents_dirty_and_no_others(damage: str) -> None:
    blocks = (CODES + 5) * PER_EXTENT  # two map sectors
    world = World(blocks=blocks)
    data = world.file.data
    if damage == "zero":
        data[:SECTOR_BYTES] = bytes(SECTOR_BYTES)
    elif damage == "flip":
        data[100] ^= 4
    elif damage == "other pair":
        other = World(blocks=blocks)
        other.file.data[16:32] = bytes(16)
        data[:SECTOR_BYTES] = other.file.data[:SECTOR_BYTES]
    else:
        data[:SECTOR_BYTES] = data[SECTOR_BYTES : 2 * SECTOR_BYTES]
    assert world.start() == 1
    assert world.dirty_extents() == set(range(CODES))
    assert world.start() == 0, "the damaged sector is written again, as dirty"
    assert world.dirty_extents() == set(range(CODES))


def test_a_cut_file_makes_what_is_missing_dirty() -> None:
    world = World(blocks=(CODES + 5) * PER_EXTENT)
    del world.file.data[SECTOR_BYTES:]
    assert world.start() == 1
    assert world.dirty_extents() == set(range(CODES, CODES + 5))


def test_a_damaged_sector_of_fine_bits_makes_its_extents_wholly_dirty() -> None:
    world = World()
    world.opened(0, 6)
    for extent in (0, 1, 5):
        world.dirty.set(extent * PER_EXTENT, 1)
    world.close(*range(7))
    layout = IntentLayout(EXTENTS)
    world.file.data[layout.fine_offset(0) + 60] ^= 1
    assert world.start() == 2
    assert [world.dirty.mask(at).bit_count() for at in range(7)] == [EXTENT_BITS, EXTENT_BITS, 0, 0, 0, 1, 0]
    assert world.start() == 0


Action = tuple[str, int, int]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "dirty", "clean", "close", "run"]), st.integers(0, EXTENTS - 1), st.integers(0, 1000)
    ),
    min_size=1,
    max_size=25,
)


def play(world: World, actions: list[Action], unequal: set[int], crash: Callable[[], bool]) -> None:
    """Do what a mirror does: blocks become unequal only in open extents, and dirty before their extent is closed."""
    for action, extent, bit in actions:
        block = extent * PER_EXTENT + bit
        if action == "open":
            world.open(extent)
        elif action == "run":
            world.scheduler.run_until_idle()
        elif extent in world.log.open:
            if action == "dirty":
                world.dirty.set(block, 1)
                unequal.add(block)
            elif action == "clean":
                world.dirty.clear(block, 1)
                unequal.discard(block)
            else:
                world.log.close_extents([extent])
        if crash():
            return
    world.scheduler.run_until_idle()


@given(ACTIONS, st.integers(1, 40), st.integers(0, 1 << 16))
def test_after_a_crash_at_any_step_everything_unequal_is_dirty(actions: list[Action], step: int, seed: int) -> None:
    world = World()
    unequal: set[int] = set()
    world.directory.stop_at = world.directory.steps + step

    def crashed() -> bool:
        return world.directory.steps >= (world.directory.stop_at or 0)

    play(world, actions, unequal, crashed)
    world.directory.crash(random.Random(seed))
    world.start()
    missing = [block for block in unequal if not world.dirty.any(block, 1)]
    assert missing == []


@given(ACTIONS)
def test_after_a_quiet_end_exactly_the_unequal_blocks_are_dirty(actions: list[Action]) -> None:
    world = World()
    unequal: set[int] = set()
    play(world, actions, unequal, lambda: False)
    world.log.close_extents(list(world.log.open))
    world.scheduler.run_until_idle()
    world.start()
    assert world.dirty.dirty_bits == len(unequal)
    assert all(world.dirty.any(block, 1) for block in unequal)


@given(ACTIONS, st.integers(0, 1 << 16), st.integers(0, 7))
def test_a_flipped_bit_anywhere_never_makes_an_unequal_block_clean(actions: list[Action], byte: int, bit: int) -> None:
    world = World()
    unequal: set[int] = set()
    play(world, actions, unequal, lambda: False)
    world.log.close_extents(list(world.log.open))
    world.scheduler.run_until_idle()
    world.file.data[byte % len(world.file.data)] ^= 1 << bit
    world.start()
    assert all(world.dirty.any(block, 1) for block in unequal)


def test_crash_is_what_the_memory_directory_raises() -> None:
    world = World()
    world.directory.stop_at = world.directory.steps + 1
    with pytest.raises(Crash):
        world.file.write(0, b"x")
