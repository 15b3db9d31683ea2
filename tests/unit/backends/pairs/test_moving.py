"""Holes: what has no storage at the source has none at the target after the copy, and is zeroes there all the same."""

from __future__ import annotations

from backends.pairs.pair import Pair, PairOptions
from backends.pairs.walking import WalkLimits
from scsi.array_commands import ArrayOut, PairState
from scsi.volume import Allocation, AllocationDone, Deallocation, Fault, VolumeError
from tests.support.pair_world import FakeDevice, FakePresentedUnit, PairWorld, pattern

CHUNK = 512  # blocks: 256 KiB
BLOCKS = 8192 * 4  # 4 extents
Runs = tuple[tuple[int, int], ...]
DATA: Runs = ((0, 8), (1000, 16), (9000, 3), (20000, 2048))


class Thin:
    """A pair in COPY of two thin legs: the source has `DATA` and holes, the target is full of old data."""

    def __init__(self, data: Runs = DATA, *, thin_target: bool = True, pace: int = 0, hold: bool = False) -> None:
        self.world = PairWorld(options=PairOptions(walk=WalkLimits(chunk_bytes=CHUNK * 512, chunks=2)))
        self.primary: FakePresentedUnit = self.world.add_unit(1, blocks=BLOCKS)
        self.secondary: FakePresentedUnit = self.world.add_unit(2, blocks=BLOCKS)
        self.source: FakeDevice = self.primary.virtual_device
        self.target: FakeDevice = self.secondary.virtual_device
        self.source.deallocation = Deallocation(8)
        self.target.deallocation = Deallocation(8) if thin_target else None
        self.source.unmap(0, BLOCKS, lambda _error: None)
        for lba, blocks in data:
            self.source.write(lba, pattern(lba, blocks), False, lambda _error: None)
        self.target.write(0, pattern(7, BLOCKS), False, lambda _error: None)
        self.source.journal.clear()
        self.target.journal.clear()
        if hold:
            self.target.hold = lambda operation: operation.name in ("write", "unmap")
        self.pair: Pair = self.world.create(self.primary, self.secondary, pace=pace)

    def copied(self) -> None:
        self.world.wait_state(self.pair, PairState.PAIR)
        assert self.source.data == self.target.data

    def moved(self, device: FakeDevice, name: str) -> int:
        return sum(operation.blocks for operation in device.journal if operation.name == name)


def allocation_of(device: FakeDevice) -> list[Allocation]:
    found: list[list[Allocation] | VolumeError] = []
    device.allocation(0, BLOCKS, found.append)
    (runs,) = found
    assert isinstance(runs, list)
    return runs


def test_holes_are_unmapped_and_neither_read_nor_written() -> None:
    thin = Thin()
    thin.copied()
    used = sum(blocks for _, blocks in DATA)
    assert allocation_of(thin.target) == allocation_of(thin.source)
    assert thin.moved(thin.source, "read") == used
    assert thin.moved(thin.target, "write") == used
    assert thin.moved(thin.target, "unmap") == BLOCKS - used
    assert thin.pair.synchronizer.copied_blocks == BLOCKS


def test_what_has_no_storage_at_the_target_either_is_left_alone() -> None:
    thin = Thin()
    thin.copied()
    thin.pair.mirror.log.admit(0, 3, lambda _error: None)
    thin.world.scheduler.run_until_idle()
    thin.pair.mirror.dirty.set_all()
    thin.target.journal.clear()
    assert thin.world.command(thin.pair, ArrayOut.PAIR_RESYNC) is None
    thin.copied()
    assert thin.moved(thin.target, "unmap") == 0


def test_a_target_that_can_not_unmap_gets_zeroes_without_a_read() -> None:
    thin = Thin(thin_target=False)
    thin.copied()
    assert thin.moved(thin.source, "read") == sum(blocks for _, blocks in DATA)


def test_a_long_hole_takes_few_steps() -> None:
    thin = Thin()
    thin.copied()
    assert max(operation.blocks for operation in thin.target.journal if operation.name == "unmap") > CHUNK
    assert max(operation.blocks for operation in thin.target.journal if operation.name == "write") <= CHUNK


def test_holes_do_not_count_against_the_pace() -> None:
    thin = Thin(pace=1, hold=True)  # 16 MiB, of them 1 MiB data
    began = thin.world.scheduler.now()
    thin.target.release_all()
    thin.world.wait_state(thin.pair, PairState.PAIR)
    assert thin.world.scheduler.now() - began < 4


def test_a_write_to_a_hole_that_is_being_unmapped_comes_after_it() -> None:
    thin = Thin(hold=True)
    thin.target.release()  # the data at the beginning; what is unmapped behind it is on its way now
    thin.world.scheduler.run_until_idle()
    assert str(thin.target.held[-1]).startswith("unmap")
    answers = thin.world.write(thin.primary, 100, pattern(5))
    thin.world.scheduler.run_until_idle()
    assert answers == []
    thin.target.release_all()
    thin.copied()
    assert answers == [None]
    assert thin.world.read(thin.secondary, 100, 8) == pattern(5)


def test_a_hole_that_is_written_before_its_turn_is_copied_as_data() -> None:
    thin = Thin(hold=True)
    answers = thin.world.write(thin.primary, 30000, pattern(5))
    thin.world.scheduler.run_until_idle()
    thin.target.release_all()
    thin.copied()
    assert answers == [None]
    assert thin.world.read(thin.secondary, 30000, 8) == pattern(5)


def test_a_target_that_can_not_unmap_one_place_leaves_the_rest_copied() -> None:
    thin = Thin(hold=True)
    thin.target.fail("unmap", Fault.WRITE_ERROR, 5000, 1)
    thin.target.release_all()
    thin.world.wait_state(thin.pair, PairState.PSUE)
    assert thin.pair.row().out_of_sync_blocks == 8
    thin.target.heal()
    assert thin.world.command(thin.pair, ArrayOut.PAIR_RESYNC) is None
    thin.copied()


def test_a_source_without_holes_is_asked_now_and_then() -> None:
    thin = Thin(data=((0, BLOCKS),), hold=True)
    asked: list[int] = []
    allocation = thin.source.allocation

    def count(lba: int, blocks: int, done: AllocationDone) -> None:
        asked.append(blocks)
        allocation(lba, blocks, done)

    vars(thin.source)["allocation"] = count
    thin.target.release_all()
    thin.copied()
    assert len(asked) < 6 < BLOCKS // CHUNK


def test_a_source_that_does_not_say_is_read() -> None:
    thin = Thin(hold=True)
    asked: list[int] = []

    def refuse(lba: int, blocks: int, done: AllocationDone) -> None:
        asked.append(blocks)
        done(VolumeError(Fault.READ_ERROR, "planned", lba))

    vars(thin.source)["allocation"] = refuse
    thin.target.release_all()
    thin.copied()
    assert asked
    assert thin.moved(thin.source, "read") > BLOCKS // 2


def test_a_split_in_the_middle_of_a_chunk_begins_nothing_more_of_it() -> None:
    thin = Thin(hold=True)
    assert thin.target.operations()[0] == "write 0+8"
    answers: list[object] = []
    thin.world.book.command(thin.world.asker, thin.pair, ArrayOut.PAIR_SPLIT, 0, thin.primary, answers.append)
    before = len(thin.target.journal)
    thin.target.hold = lambda operation: operation.name == "unmap"
    while thin.target.held:
        thin.target.release()
    thin.world.scheduler.run_until_idle()
    assert answers == [None]
    assert [name for name in thin.target.operations()[before:] if name != "flush"] == []
    assert thin.pair.mirror.dirty.any(0, 8)
    assert thin.world.command(thin.pair, ArrayOut.PAIR_RESYNC) is None
    thin.target.release_all()
    thin.copied()
