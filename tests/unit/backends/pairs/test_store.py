from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from backends.pairs.group_store import SLOT_BYTES as GROUP_SLOT_BYTES
from backends.pairs.slot_file import DamagedError, Slot, encode_slot
from backends.pairs.store import INDEX, IndexEntry, PairRecord, PairStore, error_to_store, log_name, record_name
from scsi.array_commands import FenceLevel, PairState
from tests.support.stable_memory import Crash, MemoryDirectory

RECORD = PairRecord(
    number=1,
    identity="00" * 16,
    naas=("60" * 16, "61" * 16),
    blocks=1000,
    block_bytes=512,
    label="grün",
    fence_level=FenceLevel.DATA,
    pace_mib_s=7,
    state=PairState.PSUE,
    current=1,
)


def opened(directory: MemoryDirectory) -> PairStore:
    store = PairStore(directory)
    store.load()
    return store


def formed(directory: MemoryDirectory) -> PairStore:
    store = opened(directory)
    number = store.take_number()
    directory.create(log_name(number), 100)
    store.create_record(replace(RECORD, number=number))
    store.list_pair(IndexEntry(number, RECORD.naas))
    return store


def test_a_formed_pair_comes_back_as_it_was() -> None:
    directory = MemoryDirectory()
    formed(directory)
    store = opened(directory)
    assert store.entries == {1: IndexEntry(1, RECORD.naas)}
    assert store.open_record(1)[1] == RECORD


def test_a_record_from_before_errors_were_kept_has_none() -> None:
    payload = RECORD.encode()
    del payload["last_error"]
    assert PairRecord.decode(json.loads(json.dumps(payload))) == RECORD


def test_an_error_that_is_no_text_makes_a_damaged_record() -> None:
    with pytest.raises(DamagedError):
        PairRecord.decode(RECORD.encode() | {"last_error": 5})


def test_the_records_of_64_pairs_with_long_errors_fit_into_one_step_of_a_group() -> None:
    worst = replace(RECORD, label="\x01" * 32, last_error=error_to_store("ü\x00" * 10_000))
    slot = Slot(1, {"changed": [worst.encode()] * 64})
    assert len(encode_slot(slot, GROUP_SLOT_BYTES)) == GROUP_SLOT_BYTES


def test_a_number_is_never_used_twice() -> None:
    directory = MemoryDirectory()
    store = formed(directory)
    store.unlist_pairs([1])
    assert opened(directory).take_number() == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_crash_at_any_step_of_forming_leaves_no_pair_or_a_whole_one(seed: int) -> None:
    for step in range(1, 30):
        directory = MemoryDirectory()
        opened(directory)
        directory.stop_at = directory.steps + step
        try:
            formed(directory)
        except Crash:
            ended = False
        else:
            ended = True
        directory.crash(random.Random(seed))
        store = opened(directory)
        if ended:
            assert list(store.entries) == [1]
        if store.entries:
            assert store.open_record(1)[1] == RECORD
        else:
            assert directory.names() == [INDEX]
        if ended:
            return
    raise AssertionError("forming a pair took more than 30 steps")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("step", range(1, 5))
def test_a_crash_at_any_step_of_ending_leaves_the_pair_or_nothing(step: int, seed: int) -> None:
    directory = MemoryDirectory()
    store = formed(directory)
    directory.stop_at = directory.steps + step
    with pytest.raises(Crash):
        store.unlist_pairs([1])
    directory.crash(random.Random(seed))
    again = opened(directory)
    assert set(directory.names()) == ({INDEX, log_name(1), record_name(1)} if again.entries else {INDEX})


@pytest.mark.parametrize("step", range(1, 4))
def test_a_crash_of_the_very_first_start_is_mended_by_the_next(step: int) -> None:
    directory = MemoryDirectory()
    directory.stop_at = step
    with pytest.raises(Crash):
        opened(directory)
    directory.crash(random.Random(step))
    assert opened(directory).entries == {}


def test_an_index_that_is_gone_while_pairs_are_there_is_an_error_and_nothing_is_removed() -> None:
    directory = MemoryDirectory()
    formed(directory)
    del directory.files[INDEX]
    with pytest.raises(DamagedError, match=r"pairs\.index is missing"):
        opened(directory)
    assert record_name(1) in directory.files


def test_an_index_damaged_in_both_copies_is_an_error_and_nothing_is_removed() -> None:
    directory = MemoryDirectory()
    formed(directory)
    directory.files[INDEX].data[:] = bytes(len(directory.files[INDEX].data))
    with pytest.raises(DamagedError, match="damaged"):
        opened(directory)
    assert record_name(1) in directory.files


@pytest.mark.parametrize(
    "change",
    [{"state": 9}, {"current": 2}, {"naas": ["a"]}, {"fence_level": 5}, {"unknown": 1}],
)
def test_a_record_that_makes_no_sense_counts_as_damaged(change: dict[str, object]) -> None:
    with pytest.raises(DamagedError):
        PairRecord.decode(RECORD.encode() | change)


def test_a_missing_record_and_one_of_another_pair_count_as_damaged() -> None:
    directory = MemoryDirectory()
    store = formed(directory)
    with pytest.raises(DamagedError):
        store.open_record(2)
    directory.files[record_name(2)] = directory.files[record_name(1)]
    with pytest.raises(DamagedError, match="record of pair 1"):
        store.open_record(2)


def test_an_error_while_listing_leaves_the_pair_unlisted() -> None:
    directory = MemoryDirectory()
    store = opened(directory)
    directory.error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        store.list_pair(IndexEntry(1, RECORD.naas))
    assert store.entries == {}


def test_sixty_four_pairs_fit_into_the_index() -> None:
    directory = MemoryDirectory()
    store = opened(directory)
    for number in range(1, 65):
        store.list_pair(IndexEntry(number, RECORD.naas))
    assert len(opened(directory).entries) == 64
