"""The order of overlapping writes, the batches, and what of them goes in one system call."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from backends.devices.write_queue import MOST_BATCHES, MOST_WRITES, SLOW_S, QueuedWrite, WriteQueue, write_batch
from backends.workers import Workers
from tests.support.clock import VirtualScheduler
from tests.support.workers import VirtualWorkers

CHUNK = 1 << 16


class Queue:
    """A write queue on a file, with a journal of what the threads were given."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path.write_bytes(bytes(16 * CHUNK))
        self.descriptor = os.open(path, os.O_RDWR)
        self.scheduler = VirtualScheduler()
        self.workers = VirtualWorkers(self.scheduler)
        self.ended: list[QueuedWrite] = []
        self.queue = WriteQueue(self.descriptor, self.scheduler, self.workers, self.ended.append)
        self.batches: list[list[int]] = []

        def journal(descriptor: int, batch: list[QueuedWrite]) -> None:
            self.batches.append([write.offset for write in batch])
            write_batch(descriptor, batch)

        monkeypatch.setattr("backends.devices.write_queue.write_batch", journal)

    def add(self, offset: int, data: bytes = b"x" * 512, *, fua: bool = False) -> None:
        self.queue.add(QueuedWrite(offset, data, fua, lambda error: None))


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(tmp_path / "disk", monkeypatch)


def test_writes_of_one_wake_up_are_one_batch(queue: Queue) -> None:
    for at in (0, 3, 1):
        queue.add(at * CHUNK)
    queue.scheduler.run_until_idle()
    assert queue.batches == [[0, 3 * CHUNK, CHUNK]]
    assert [write.error for write in queue.ended] == [None] * 3
    assert not queue.queue


def test_write_waits_for_an_overlapping_one_in_flight_and_others_pass(queue: Queue) -> None:
    queue.workers.held = True
    queue.add(0)
    queue.scheduler.run_until_idle()
    queue.add(512)
    queue.add(CHUNK)
    queue.scheduler.advance(SLOW_S)
    queue.workers.run_held()
    queue.scheduler.run_until_idle()
    assert queue.batches == [[0], [CHUNK], [512]]


def test_write_does_not_overtake_one_that_waits_for_the_same_chunk(queue: Queue) -> None:
    queue.workers.held = True
    queue.add(0)
    queue.scheduler.run_until_idle()
    queue.add(CHUNK - 512, b"a" * 1024)  # waits, and holds chunk 1
    queue.add(CHUNK, b"b" * 512)
    queue.scheduler.run_until_idle()
    queue.workers.run_held()
    queue.scheduler.run_until_idle()
    assert queue.batches == [[0], [CHUNK - 512, CHUNK]]
    assert os.pread(queue.descriptor, 1024, CHUNK - 512) == b"a" * 512 + b"b" * 512


def test_fua_write_goes_alone_and_after_a_plain_one_of_its_chunk(queue: Queue) -> None:
    queue.add(0, b"a" * 512)
    queue.add(0, b"b" * 512, fua=True)
    queue.add(CHUNK, fua=True)
    queue.scheduler.run_until_idle()
    assert sorted(queue.batches) == [[0], [0], [CHUNK]]
    assert os.pread(queue.descriptor, 512, 0) == b"b" * 512


def test_writes_that_come_while_a_batch_runs_are_gathered_for_the_next(queue: Queue) -> None:
    queue.workers.held = True
    for at in range(5):
        queue.add(at * CHUNK)
        queue.scheduler.run_until_idle()
    queue.workers.run_held()
    queue.scheduler.run_until_idle()
    assert [len(batch) for batch in queue.batches] == [1, 4]


def test_slow_batch_does_not_hold_up_the_next_for_long(queue: Queue) -> None:
    queue.workers.held = True
    queue.add(0)
    queue.scheduler.run_until_idle()
    queue.add(CHUNK)
    queue.scheduler.advance(SLOW_S / 2)
    assert len(queue.workers._waiting) == 1
    queue.scheduler.advance(SLOW_S / 2)
    assert len(queue.workers._waiting) == 2
    queue.workers.run_held()
    queue.scheduler.run_until_idle()
    assert len(queue.ended) == 2


def test_fua_writes_run_side_by_side_and_hold_up_no_others(queue: Queue) -> None:
    queue.workers.held = True
    for at in range(MOST_BATCHES + 1):
        queue.add(at * CHUNK, fua=True)
        queue.scheduler.run_until_idle()
    queue.add(10 * CHUNK)
    queue.scheduler.run_until_idle()
    assert len(queue.workers._waiting) == MOST_BATCHES + 1
    queue.workers.run_held()
    queue.scheduler.run_until_idle()
    assert len(queue.ended) == MOST_BATCHES + 2
    assert queue.batches[-1] == [MOST_BATCHES * CHUNK]


def test_no_more_batches_run_at_once_than_allowed(queue: Queue) -> None:
    queue.workers.held = True
    for at in range(MOST_BATCHES + 3):
        queue.add(at * CHUNK)
        queue.scheduler.advance(SLOW_S)
    queue.workers.run_held()
    queue.scheduler.run_until_idle()
    assert [len(batch) for batch in queue.batches] == [1, 1, 1, 1, 3]
    assert len(queue.ended) == MOST_BATCHES + 3


def test_batch_is_bounded_and_the_rest_follows(queue: Queue) -> None:
    for at in range(MOST_WRITES + 5):
        queue.add(at * 512)
    queue.scheduler.run_until_idle()
    assert [len(batch) for batch in queue.batches] == [MOST_WRITES, 5]


def test_bug_in_a_batch_fails_its_writes(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, batch: list[QueuedWrite]) -> None:
        raise MemoryError

    monkeypatch.setattr("backends.devices.write_queue.write_batch", broken)
    queue.add(0)
    queue.scheduler.run_until_idle()
    assert isinstance(queue.ended[0].error, MemoryError)


def write(offset: int, data: bytes) -> QueuedWrite:
    return QueuedWrite(offset, data, False, lambda error: None)


def test_adjacent_writes_are_joined_into_one_call(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    real = os.pwritev

    def journal(descriptor: int, buffers: list[bytes], offset: int) -> int:
        calls.append((offset, len(buffers)))
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "pwritev", journal)
    batch = [write(0, b"a" * 512), write(512, b"b" * 1024), write(1536, b"c" * 512), write(4096, b"d" * 512)]
    write_batch(queue.descriptor, batch)
    assert calls == [(0, 3)]
    assert os.pread(queue.descriptor, 2048, 0) == b"a" * 512 + b"b" * 1024 + b"c" * 512
    assert os.pread(queue.descriptor, 512, 4096) == b"d" * 512


@pytest.mark.parametrize("short", [None, 700])
def test_joined_write_that_fails_finds_the_write_at_fault(
    short: int | None, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def joined(descriptor: int, buffers: list[bytes], offset: int) -> int:
        if short is None:
            raise OSError(errno.EIO, "Input/output error")
        return short

    real = os.pwrite

    def one(descriptor: int, data: bytes, offset: int) -> int:
        if offset == 512:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwritev", joined)
    monkeypatch.setattr(os, "pwrite", one)
    batch = [write(0, b"a" * 512), write(512, b"b" * 512), write(1024, b"c" * 512)]
    write_batch(queue.descriptor, batch)
    assert [item.error is not None for item in batch] == [False, True, False]
    assert os.pread(queue.descriptor, 1536, 0) == b"a" * 512 + bytes(512) + b"c" * 512


def test_overlapping_writes_on_real_threads_land_in_the_order_submitted(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4 * CHUNK))
    scheduler = VirtualScheduler()
    workers = Workers(scheduler, 4)
    descriptor = os.open(path, os.O_RDWR)
    ended: list[QueuedWrite] = []
    queue = WriteQueue(descriptor, scheduler, workers, ended.append)
    rng = random.Random(4)
    expected = bytearray(4 * CHUNK)
    for count in range(600):
        offset = rng.randrange(0, 4 * CHUNK - 8192, 512)
        data = rng.randbytes(512 * rng.randint(1, 16))
        expected[offset : offset + len(data)] = data
        queue.add(QueuedWrite(offset, data, rng.random() < 0.1, lambda error: None))
        if count % 7 == 0:
            scheduler.run_until_idle()
    scheduler.run_until(lambda: len(ended) == 600)
    assert path.read_bytes() == expected
    assert not queue
    os.close(descriptor)
    assert workers.close()
