from __future__ import annotations

import itertools
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.pairs.dirty_map import (
    EXTENT_BITS,
    FULL,
    MOST_LISTED_EXTENTS,
    DirtyMap,
    Run,
    decode_clean,
    encode_clean,
)

TIB_BLOCKS = (1 << 40) // 512


class Model:
    """The same as a set of bits."""

    def __init__(self, blocks: int, block_bytes: int) -> None:
        self.blocks = blocks
        self.per_bit = 4096 // block_bytes
        self.bits: set[int] = set()

    def set(self, lba: int, blocks: int) -> None:
        self.bits |= set(range(lba // self.per_bit, (lba + blocks - 1) // self.per_bit + 1))

    def clear(self, lba: int, blocks: int) -> None:
        for bit in list(self.bits):
            first = bit * self.per_bit
            end = min(first + self.per_bit, self.blocks)
            if lba <= first and end <= lba + blocks:
                self.bits.discard(bit)

    def dirty_blocks(self) -> int:
        return sum(min(self.per_bit, self.blocks - bit * self.per_bit) for bit in self.bits)


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, int, list[tuple[bool, int, int]]]:
    block_bytes = draw(st.sampled_from([512, 4096]))
    per_extent = (4 << 20) // block_bytes
    blocks = draw(st.sampled_from([1, 7, 8, 9, per_extent - 1, per_extent, per_extent + 3, 3 * per_extent + 5]))
    edges = st.one_of(
        st.integers(0, blocks - 1),
        st.sampled_from([at for at in (0, per_extent - 1, per_extent, blocks - 1) if at < blocks]),
    )
    steps = []
    for _ in range(draw(st.integers(1, 8))):
        lba = draw(edges)
        steps.append((draw(st.booleans()), lba, draw(st.integers(1, blocks - lba))))
    return blocks, block_bytes, steps


@given(histories())
def test_map_agrees_with_a_plain_set_of_bits(history: tuple[int, int, list[tuple[bool, int, int]]]) -> None:
    blocks, block_bytes, steps = history
    dirty, model = DirtyMap(blocks, block_bytes), Model(blocks, block_bytes)
    for sets, lba, count in steps:
        (dirty.set if sets else dirty.clear)(lba, count)
        (model.set if sets else model.clear)(lba, count)
        assert dirty.dirty_bits == len(model.bits)
        assert dirty.dirty_blocks() == model.dirty_blocks()
        bits = set(range(lba // model.per_bit, (lba + count - 1) // model.per_bit + 1))
        assert dirty.any(lba, count) == bool(model.bits & bits)
    seen: set[int] = set()
    cursor = 0
    while (run := dirty.next_run(cursor, 100 * model.per_bit)) is not None:
        assert run.lba >= cursor
        assert 0 < run.blocks <= 100 * model.per_bit
        found = set(range(run.lba // model.per_bit, (run.lba + run.blocks - 1) // model.per_bit + 1))
        assert not found & seen
        seen |= found
        cursor = run.lba + run.blocks
    assert seen == model.bits


@given(histories())
def test_setting_and_clearing_everything_agrees_with_the_set(
    history: tuple[int, int, list[tuple[bool, int, int]]],
) -> None:
    blocks, block_bytes, steps = history
    dirty, model = DirtyMap(blocks, block_bytes), Model(blocks, block_bytes)
    dirty.set_all()
    model.set(0, blocks)
    assert dirty.dirty_blocks() == blocks
    for _, lba, count in steps:
        dirty.clear(lba, count)
        model.clear(lba, count)
    assert dirty.dirty_bits == len(model.bits)
    dirty.clear_all()
    assert dirty.next_run(0, 8) is None
    assert dirty.dirty_blocks() == 0


def test_next_run_passes_over_what_another_map_has_dirty() -> None:
    dirty, bad = DirtyMap(16384, 512), DirtyMap(16384, 512)
    dirty.set(0, 64)
    dirty.set(9000, 8)
    bad.set(0, 64)
    assert dirty.next_run(0, 1024, bad) == Run(9000, 8)
    bad.set(9000, 8)
    assert dirty.next_run(0, 1024, bad) is None


def test_a_partly_cleared_bit_stays_dirty() -> None:
    dirty = DirtyMap(16384, 512)
    dirty.set(0, 8)
    dirty.clear(0, 7)
    assert dirty.dirty_blocks() == 8


@given(st.integers(0, FULL))
def test_stored_bits_are_clean_ones_and_come_back(mask: int) -> None:
    raw = encode_clean(mask)
    assert len(raw) == EXTENT_BITS // 8
    assert decode_clean(raw) == mask


def test_stored_zeros_mean_dirty() -> None:
    assert decode_clean(bytes(EXTENT_BITS // 8)) == FULL


@pytest.mark.slow
def test_one_tebibyte_takes_nothing_while_clean_and_little_while_wholly_dirty() -> None:
    tracemalloc.start()
    try:
        dirty = DirtyMap(TIB_BLOCKS, 512)
        assert tracemalloc.get_traced_memory()[0] < 100_000
        dirty.set_all()
        assert tracemalloc.get_traced_memory()[0] < 30_000_000
        assert dirty.dirty_blocks() == TIB_BLOCKS
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_one_tebibyte_with_every_extent_partly_dirty_stays_under_80_mb() -> None:
    tracemalloc.start()
    try:
        dirty = DirtyMap(TIB_BLOCKS, 512)
        for extent in range(dirty.extents):
            dirty.put_mask(extent, (1 << 1023) | extent)
        assert tracemalloc.get_traced_memory()[0] < 80_000_000
    finally:
        tracemalloc.stop()


def every_range(dirty: DirtyMap, most: int, lba: int = 0) -> list[Run]:
    """List all ranges, page by page."""
    found: list[Run] = []
    begin: int | None = lba
    while begin is not None:
        page, then = dirty.ranges(begin, most)
        assert 0 < len(page) <= most or (not page and then is None)
        assert then is None or then > begin
        found += page
        begin = then
    return found


@pytest.mark.parametrize("block_bytes", [512, 4096])
@pytest.mark.parametrize("most", [1, 3, 1000])
def test_ranges_list_exactly_what_is_dirty(block_bytes: int, most: int) -> None:
    rng = random.Random(block_bytes + most)
    dirty = DirtyMap(5 * 8192 + 13, block_bytes)
    for _ in range(40):
        lba = rng.randrange(dirty.blocks)
        dirty.set(lba, min(rng.choice((1, 8, 100, 9000)), dirty.blocks - lba))
        lba = rng.randrange(dirty.blocks)
        dirty.clear(lba, min(rng.choice((8, 3000)), dirty.blocks - lba))
    listed = every_range(dirty, most)
    assert sum(run.blocks for run in listed) == dirty.dirty_blocks()
    assert {lba for run in listed for lba in range(run.lba, run.lba + run.blocks)} == {
        lba for lba in range(dirty.blocks) if dirty.any(lba, 1)
    }
    assert all(mine.lba + mine.blocks < theirs.lba for mine, theirs in itertools.pairwise(listed)), "none touch"


def test_ranges_from_the_middle_of_one_give_the_rest_of_it() -> None:
    dirty = DirtyMap(20000, 512)
    dirty.set(8000, 800)
    assert dirty.ranges(8100, 10) == ([Run(8100, 700)], None)
    assert dirty.ranges(8800, 10) == ([], None)
    assert dirty.ranges(10**9, 10) == ([], None)


def test_a_list_of_very_much_ends_early_and_goes_on() -> None:
    dirty = DirtyMap((MOST_LISTED_EXTENTS * 2 + 1) * 8192, 512)
    dirty.set_all()
    page, then = dirty.ranges(0, 10)
    assert (page, then) == ([Run(0, MOST_LISTED_EXTENTS * 8192)], MOST_LISTED_EXTENTS * 8192)
    assert len(every_range(dirty, 10)) == 3
