from __future__ import annotations

import random

import crc32c
import pytest

from backends.acquisitions.snapshot_read import SnapshotRead, SnapshotReadOptions
from scsi.volume import Fault, VolumeError
from tests.support.clock import VirtualScheduler
from tests.support.gated_volume import GatedMemoryVolume

BLOCK = 512
OPTIONS = SnapshotReadOptions(chunk_bytes=4 * BLOCK, chunks_in_flight=2)


class Reading:
    """A snapshot read of blocks 10-39 of a volume of 64 with random content."""

    def __init__(self, options: SnapshotReadOptions = OPTIONS, seed: int = 1) -> None:
        self.scheduler = VirtualScheduler()
        self.volume = GatedMemoryVolume(64)
        self.volume.data[:] = random.Random(seed).randbytes(64 * BLOCK)
        self.as_it_was = bytes(self.volume.data[10 * BLOCK : 40 * BLOCK])
        self.results: list[VolumeError | None] = []
        self.read = SnapshotRead(self.scheduler, self.volume, 10, 30, options, self.results.append)
        self.written: list[tuple[int, VolumeError | None]] = []

    def finish(self) -> None:
        self.volume.release_all()
        self.scheduler.run_until_idle()

    def write(self, lba: int, blocks: int = 1) -> None:
        self.volume.write(lba, b"w" * blocks * BLOCK, False, lambda error: self.written.append((lba, error)))


def test_the_range_is_read_and_summed() -> None:
    reading = Reading()
    reading.read.start()
    reading.scheduler.run_until_idle()
    assert reading.results == [None]
    assert reading.read.data == reading.as_it_was
    assert reading.read.crc32c == crc32c.crc32c(reading.as_it_was)
    assert reading.volume.gates == []


@pytest.mark.parametrize("seed", range(20))
def test_chunks_that_come_in_any_order_give_the_same_data_and_sum(seed: int) -> None:
    rng = random.Random(seed)
    reading = Reading(SnapshotReadOptions(chunk_bytes=rng.randint(1, 5) * BLOCK, chunks_in_flight=rng.randint(1, 6)))
    reading.volume.hold = True
    reading.read.start()
    while reading.volume.held:
        reading.volume.release(rng.randrange(len(reading.volume.held)))
        reading.scheduler.run_until_idle()
    assert reading.results == [None]
    assert reading.read.data == reading.as_it_was
    assert reading.read.crc32c == crc32c.crc32c(reading.as_it_was)


def test_no_more_chunks_than_allowed_are_in_flight() -> None:
    reading = Reading()
    reading.volume.hold = True
    reading.read.start()
    reading.scheduler.run_until_idle()
    assert [str(operation) for operation in reading.volume.held] == ["read 10+4", "read 14+4"]


def test_no_read_is_longer_than_the_volume_likes() -> None:
    reading = Reading()
    reading.volume.max_transfer_blocks = 3
    read = SnapshotRead(reading.scheduler, reading.volume, 10, 30, OPTIONS, reading.results.append)
    read.start()
    reading.scheduler.run_until_idle()
    assert {operation.blocks for operation in reading.volume.journal} == {3}
    assert read.data == reading.as_it_was


def test_a_range_in_memory_is_not_read_in_one_go() -> None:
    reading = Reading()
    reading.read.start()
    assert len(reading.volume.journal) == OPTIONS.chunks_in_flight
    assert reading.results == []


def test_a_write_to_a_block_not_yet_read_waits_until_it_has_been_read_next() -> None:
    reading = Reading()
    reading.volume.hold = lambda operation: operation.name == "read"
    reading.read.start()
    reading.write(37)
    assert reading.written == []
    reading.volume.release()  # the first chunk; the next one read is that of the write
    assert str(reading.volume.held[-1]) == "read 34+4"
    reading.volume.release(1)
    assert reading.written == [(37, None)]
    reading.finish()
    assert reading.read.data == reading.as_it_was


@pytest.mark.parametrize("kind", ["unmap", "write same"])
def test_unmap_and_write_same_wait_until_all_their_blocks_have_been_read(kind: str) -> None:
    reading = Reading()
    reading.volume.hold = lambda operation: operation.name == "read"
    reading.read.start()
    results: list[VolumeError | None] = []
    if kind == "unmap":
        reading.volume.unmap(0, 20, results.append)
    else:
        reading.volume.write_same(0, b"w" * BLOCK, 20, results.append)
    assert results == []
    while not results:
        reading.volume.release()
    assert {str(operation) for operation in reading.volume.journal if operation.name == "read"} >= {
        "read 10+4",
        "read 14+4",
        "read 18+4",
    }
    reading.finish()
    assert reading.read.data == reading.as_it_was
    assert reading.volume.data[:BLOCK] == (bytes(BLOCK) if kind == "unmap" else b"w" * BLOCK)


def test_a_write_to_a_block_being_read_waits_for_that() -> None:
    reading = Reading()
    reading.volume.hold = lambda operation: operation.name == "read"
    reading.read.start()
    reading.write(10)
    assert reading.written == []
    reading.volume.release()
    assert reading.written == [(10, None)]
    reading.finish()
    assert reading.read.data == reading.as_it_was


def test_a_write_across_the_whole_range_waits_for_all_of_it() -> None:
    reading = Reading()
    reading.volume.hold = lambda operation: operation.name == "read"
    reading.read.start()
    reading.write(0, 64)
    while reading.results == []:
        assert reading.written == []
        reading.volume.release()
    assert reading.written == [(0, None)]
    assert reading.read.data == reading.as_it_was


@pytest.mark.parametrize(("lba", "blocks"), [(0, 10), (40, 1), (40, 24)])
def test_a_write_beside_the_range_does_not_wait(lba: int, blocks: int) -> None:
    reading = Reading()
    reading.volume.hold = lambda operation: operation.name == "read"
    reading.read.start()
    reading.write(lba, blocks)
    assert reading.written == [(lba, None)]


def test_a_write_to_what_has_been_read_does_not_wait() -> None:
    reading = Reading()
    reading.volume.hold = lambda operation: operation.name == "read"
    reading.read.start()
    reading.volume.release()
    reading.write(10, 4)
    assert reading.written == [(10, None)]
    reading.finish()
    assert reading.read.data == reading.as_it_was


def test_a_write_that_is_let_go_within_admit_is_made_once() -> None:
    reading = Reading()
    reading.read.start()  # in memory: what a write asks for is read at once
    reading.write(38)
    assert reading.written == [(38, None)]
    assert [operation.name for operation in reading.volume.journal].count("write") == 1
    reading.scheduler.run_until_idle()
    assert reading.read.data == reading.as_it_was


def test_a_read_error_ends_it_and_lets_writes_go() -> None:
    reading = Reading()
    reading.volume.hold = lambda operation: operation.name == "read"
    reading.volume.fail("read", Fault.READ_ERROR, 14, 1)
    reading.read.start()
    reading.write(30)
    reading.volume.release()
    assert reading.results == []
    reading.volume.release()
    assert [error.fault for error in reading.results if error] == [Fault.READ_ERROR]
    assert reading.written == [(30, None)]
    assert reading.volume.gates == []
    reading.finish()
    assert len(reading.results) == 1


def test_stopped_it_lets_writes_go_and_says_nothing() -> None:
    reading = Reading()
    reading.volume.hold = lambda operation: operation.name == "read"
    reading.read.start()
    reading.write(30, 8)
    reading.read.stop()
    assert reading.written == [(30, None)]
    assert reading.volume.gates == []
    reading.finish()
    reading.scheduler.run_until_idle()
    assert reading.results == []
    assert reading.read.data == b""


def test_a_write_that_has_it_stopped_when_it_goes_on_ends_it_once() -> None:
    reading = Reading(SnapshotReadOptions(chunk_bytes=64 * BLOCK))
    reading.volume.hold = lambda operation: operation.name == "read"
    reading.read.start()
    reading.volume.write(12, bytes(BLOCK), False, lambda _error: reading.read.stop())
    reading.finish()
    assert reading.results == []
    assert reading.volume.gates == []


@pytest.mark.parametrize("seed", range(30))
def test_writes_at_any_time_never_show_in_the_data(seed: int) -> None:
    rng = random.Random(seed)
    reading = Reading(SnapshotReadOptions(chunk_bytes=rng.randint(1, 5) * BLOCK, chunks_in_flight=3), seed)
    reading.volume.hold = True
    reading.read.start()
    issued = 0
    while reading.results == []:
        if rng.random() < 0.5:
            first = rng.randrange(60)
            reading.write(first, rng.randint(1, 64 - first))
            issued += 1
        elif reading.volume.held:
            reading.volume.release(rng.randrange(len(reading.volume.held)))
        reading.scheduler.run_until_idle()
    reading.finish()
    assert reading.read.data == reading.as_it_was
    assert len(reading.written) == issued
