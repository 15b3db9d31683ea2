from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.pairs.slot_file import SLOT_BYTES, DamagedError, Slot, SlotFile, decode_slot, encode_slot
from tests.support.stable_memory import Crash, MemoryDirectory

# Longer than a sector, so that a torn slot is neither the old one nor the new one.
OLD: dict[str, object] = {"value": "1" * 1500}
NEW: dict[str, object] = {"value": "2" * 1500, "label": "ümlaut"}


def stored(*payloads: dict[str, object]) -> MemoryDirectory:
    directory = MemoryDirectory()
    slots = SlotFile(directory.create("record", 2 * SLOT_BYTES))
    for payload in payloads:
        slots.store(payload)
    return directory


def loaded(directory: MemoryDirectory) -> dict[str, object]:
    return SlotFile(directory.open("record")).load()


def test_a_record_comes_back() -> None:
    assert loaded(stored(OLD, NEW)) == NEW


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("step", range(1, 5))
def test_a_crash_at_any_step_leaves_the_old_record_or_the_new_one(step: int, seed: int) -> None:
    directory = stored(OLD)
    slots = SlotFile(directory.open("record"))
    slots.load()
    directory.stop_at = directory.steps + step
    with pytest.raises(Crash):
        slots.store(NEW)
    directory.crash(random.Random(seed))
    assert loaded(directory) in (OLD, NEW)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("second", range(1, 5))
@pytest.mark.parametrize("first", range(1, 5))
def test_a_second_crash_while_storing_after_the_first_leaves_one_of_the_records(
    first: int, second: int, seed: int
) -> None:
    directory = stored(OLD)
    rng = random.Random(seed)
    for payload, step in ((NEW, first), ({"value": 3}, second)):
        slots = SlotFile(directory.open("record"))
        slots.load()
        directory.stop_at = directory.steps + step
        with pytest.raises(Crash):
            slots.store(payload)
        directory.crash(rng)
    assert loaded(directory) in (OLD, NEW, {"value": 3})


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("step", range(1, 5))
def test_storing_again_after_an_error_never_overwrites_the_only_whole_slot(step: int, seed: int) -> None:
    directory = stored(OLD)
    slots = SlotFile(directory.open("record"))
    slots.load()
    # The first attempt fails at `step`, the second one is torn at its first write.
    directory.stop_at = directory.steps + step
    with pytest.raises(Crash):
        slots.store(NEW)
    directory.stop_at = directory.steps + 2
    newest: dict[str, object] = {"value": "3" * 1500}
    with pytest.raises(Crash):
        slots.store(newest)
    directory.crash(random.Random(seed))
    assert loaded(directory) in (OLD, NEW, newest)


@pytest.mark.parametrize("slot", [0, 1])
def test_damage_to_either_slot_loses_nothing_that_was_acted_on(slot: int) -> None:
    directory = stored(OLD, NEW)
    directory.files["record"].data[slot * SLOT_BYTES + 30] ^= 1
    slots = SlotFile(directory.open("record"))
    assert slots.load() == NEW
    assert slots.uneven


@pytest.mark.parametrize("content", [b"", bytes(2 * SLOT_BYTES), b"\xff" * 2 * SLOT_BYTES, bytes(100)])
def test_two_damaged_slots_are_an_error_and_never_a_record(content: bytes) -> None:
    directory = stored(OLD)
    directory.files["record"].data[:] = content
    with pytest.raises(DamagedError):
        loaded(directory)


@given(st.integers(0, 1500 * 8 - 1))
def test_every_flipped_bit_of_a_slot_is_found(bit: int) -> None:
    raw = bytearray(encode_slot(Slot(5, NEW)))
    raw[bit // 8] ^= 1 << bit % 8
    assert decode_slot(bytes(raw)) is None


@pytest.mark.parametrize("length", [0, 1, 23, 24, 30])
def test_a_cut_slot_is_no_slot(length: int) -> None:
    assert decode_slot(encode_slot(Slot(1, NEW))[:length]) is None


def test_a_record_that_does_not_fit_is_refused_before_anything_is_written() -> None:
    directory = stored(OLD)
    slots = SlotFile(directory.open("record"))
    slots.load()
    with pytest.raises(ValueError, match="does not fit"):
        slots.store({"label": "x" * SLOT_BYTES})
    assert loaded(directory) == OLD
