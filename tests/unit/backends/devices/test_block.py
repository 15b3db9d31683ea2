"""Local devices and files: real loop devices, files on a disk and in memory, and faults put into the system calls."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.devices import device_file
from backends.devices.block import BlockDevice
from backends.devices.device_file import FAULTS, failure
from backends.devices.state import DeviceState
from backends.regions import Region
from backends.virtual_device import VirtualDevice
from backends.workers import Workers
from scsi.volume import Buffer, Fault, Volume, VolumeError
from tests.support.clock import VirtualScheduler
from tests.support.loop_device import LoopDevice
from tests.support.workers import VirtualWorkers

BLOCKS = 2048


@pytest.fixture
def scheduler() -> VirtualScheduler:
    return VirtualScheduler()


@pytest.fixture
def workers(scheduler: VirtualScheduler) -> Iterator[Workers]:
    threads = Workers(scheduler, 4)
    yield threads
    assert threads.close()


@pytest.fixture
def disk_file(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(BLOCKS * 512))
    return path


class Bench:
    """A device with calls that wait for their completions."""

    def __init__(self, path: Path, scheduler: VirtualScheduler, workers: Workers) -> None:
        self.scheduler = scheduler
        self.device = BlockDevice("disk", str(path), scheduler, workers)

    def open(self) -> VolumeError | None:
        results: list[VolumeError | None] = []
        self.device.open(results.append)
        self.scheduler.run_until(lambda: bool(results))
        return results[0]

    def close(self) -> None:
        closed: list[bool] = []
        self.device.close(lambda: closed.append(True))
        self.scheduler.run_until(lambda: bool(closed))

    def read(self, lba: int, blocks: int) -> Buffer | VolumeError:
        results: list[Buffer | VolumeError] = []
        self.device.read(lba, blocks, results.append)
        self.scheduler.run_until(lambda: bool(results))
        return results[0]

    def write(self, lba: int, data: Buffer, *, fua: bool = False) -> VolumeError | None:
        results: list[VolumeError | None] = []
        self.device.write(lba, data, fua, results.append)
        self.scheduler.run_until(lambda: bool(results))
        return results[0]

    def flush(self, volume: Volume | None = None) -> VolumeError | None:
        results: list[VolumeError | None] = []
        (volume or self.device).flush(results.append)
        self.scheduler.run_until(lambda: bool(results))
        return results[0]


@pytest.fixture
def bench(disk_file: Path, scheduler: VirtualScheduler, workers: Workers) -> Iterator[Bench]:
    made = Bench(disk_file, scheduler, workers)
    assert made.open() is None
    yield made
    made.close()


class Faulty:
    """Takes the place of a function of `os`: fails with planned errnos first, then does what the real one does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *errnos: int) -> None:
        self.errnos = list(errnos)
        self.calls = 0
        self.real = getattr(os, name)
        monkeypatch.setattr(os, name, self)

    def __call__(self, *arguments: object) -> object:
        self.calls += 1
        if self.errnos and (number := self.errnos.pop(0)):
            raise OSError(number, os.strerror(number))
        return self.real(*arguments)


def test_geometry_of_a_loop_device_is_what_its_ioctls_say(
    disk_file: Path, scheduler: VirtualScheduler, workers: Workers
) -> None:
    with LoopDevice(disk_file) as loop:
        bench = Bench(loop.path, scheduler, workers)
        assert bench.open() is None
        assert (bench.device.block_bytes, bench.device.blocks) == (512, BLOCKS)
        assert bench.device.state is DeviceState.READY
        assert bench.device.write_cache
        assert not bench.device.read_only
        bench.close()


def test_geometry_of_a_loop_device_with_4096_byte_blocks(
    disk_file: Path, scheduler: VirtualScheduler, workers: Workers
) -> None:
    with LoopDevice(disk_file, block_bytes=4096) as loop:
        bench = Bench(loop.path, scheduler, workers)
        assert bench.open() is None
        assert (bench.device.block_bytes, bench.device.blocks) == (4096, BLOCKS // 8)
        assert bench.device.physical_block_exponent == 0
        bench.close()


def test_file_has_whole_blocks_of_512_bytes(tmp_path: Path, scheduler: VirtualScheduler, workers: Workers) -> None:
    path = tmp_path / "odd"
    path.write_bytes(bytes(3 * 512 + 100))
    bench = Bench(path, scheduler, workers)
    assert bench.open() is None
    assert (bench.device.block_bytes, bench.device.blocks) == (512, 3)
    bench.close()


def test_loop_device_reads_back_what_was_written_also_from_the_medium(
    disk_file: Path, scheduler: VirtualScheduler, workers: Workers
) -> None:
    with LoopDevice(disk_file) as loop:
        bench = Bench(loop.path, scheduler, workers)
        bench.open()
        data = random.Random(1).randbytes(64 * 512)
        assert bench.write(100, data, fua=True) is None
        assert disk_file.read_bytes()[100 * 512 : 164 * 512] == data
        os.posix_fadvise(bench.device._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        assert bench.read(100, 64) == data
        bench.close()


def test_device_held_by_another_opener_is_refused_with_its_name(
    disk_file: Path, scheduler: VirtualScheduler, workers: Workers
) -> None:
    with LoopDevice(disk_file) as loop:
        descriptor = os.open(loop.path, os.O_RDWR | os.O_EXCL)
        try:
            bench = Bench(loop.path, scheduler, workers)
            error = bench.open()
        finally:
            os.close(descriptor)
        assert error is not None
        assert error.fault is Fault.BLOCKED
        assert f"process {os.getpid()} (" in error.detail
        assert bench.device.fault() is error
        states = [bench.device.state]
        assert bench.open() is None
        assert [*states, bench.device.state] == [DeviceState.BLOCKED, DeviceState.READY]
        bench.close()


def test_file_locked_by_a_second_opener_is_refused_with_its_process(
    bench: Bench, disk_file: Path, scheduler: VirtualScheduler, workers: Workers
) -> None:
    error = Bench(disk_file, scheduler, workers).open()
    assert error is not None
    assert f"locked, held by process {os.getpid()} (" in error.detail


def test_read_only_loop_device_refuses_writes_and_reads(
    disk_file: Path, scheduler: VirtualScheduler, workers: Workers
) -> None:
    with LoopDevice(disk_file, read_only=True) as loop:
        bench = Bench(loop.path, scheduler, workers)
        assert bench.open() is None
        assert bench.device.read_only
        error = bench.write(0, bytes(512))
        assert error is not None
        assert error.fault is Fault.WRITE_PROTECTED
        assert bench.read(0, 1) == bytes(512)
        assert bench.flush() is None
        bench.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_file_that_may_not_be_written_is_opened_for_reading(
    number: int, disk_file: Path, scheduler: VirtualScheduler, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuses_writers(path: str, flags: int) -> int:
        if flags & os.O_ACCMODE == os.O_RDWR:
            raise OSError(number, os.strerror(number))
        return real(path, flags)

    monkeypatch.setattr(os, "open", refuses_writers)
    bench = Bench(disk_file, scheduler, workers)
    assert bench.open() is None
    assert bench.device.read_only
    assert bench.read(0, 1) == bytes(512)
    bench.close()


def test_missing_device_is_blocked_with_the_reason_and_opens_when_it_comes(
    tmp_path: Path, scheduler: VirtualScheduler, workers: Workers
) -> None:
    path = tmp_path / "later"
    bench = Bench(path, scheduler, workers)
    states: list[DeviceState] = []
    bench.device.listen(lambda device: states.append(device.state))
    error = bench.open()
    assert error is not None
    assert error.detail == f"{path}: no such file or directory"
    assert bench.read(0, 1) is error
    path.write_bytes(bytes(512))
    assert bench.open() is None
    assert states == [DeviceState.BLOCKED, DeviceState.PENDING, DeviceState.READY]
    bench.close()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(), "neither a block device nor a regular file"),
        (os.mkfifo, "neither a block device nor a regular file"),
        (lambda path: path.touch(), "has no whole block"),
    ],
)
def test_what_can_not_be_a_disk_is_refused(
    make: object, reason: str, tmp_path: Path, scheduler: VirtualScheduler, workers: Workers
) -> None:
    assert callable(make)
    make(tmp_path / "it")
    error = Bench(tmp_path / "it", scheduler, workers).open()
    assert error is not None
    assert reason in error.detail


def drop_from_cache(descriptor: int) -> None:
    """Have the page cache forget a file: it keeps a page that something else is looking at just now."""
    for _ in range(1000):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(descriptor, [bytearray(512)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return
    raise AssertionError("the first page stays in the cache")


def test_uncached_read_leaves_the_event_loop_and_cached_one_does_not(bench: Bench) -> None:
    results: list[object] = []
    assert bench.write(0, bytes(range(256)) * 2) is None
    bench.flush()
    bench.device.read(0, 1, results.append)
    assert len(results) == 1
    drop_from_cache(bench.device._descriptor)
    bench.device.read(0, 1, results.append)
    assert len(results) == 1
    bench.scheduler.run_until(lambda: len(results) == 2)
    assert results == [bytes(range(256)) * 2] * 2


def test_large_read_leaves_the_event_loop(tmp_path: Path, scheduler: VirtualScheduler, workers: Workers) -> None:
    path = tmp_path / "large"
    path.write_bytes(random.Random(2).randbytes(2 << 20))
    bench = Bench(path, scheduler, workers)
    bench.open()
    results: list[object] = []
    bench.device.read(0, 4096, results.append)
    assert not results
    scheduler.run_until(lambda: bool(results))
    assert results == [path.read_bytes()]
    bench.close()


@pytest.mark.parametrize("operation", ["read", "write", "flush"])
@pytest.mark.parametrize("number", sorted({*FAULTS, errno.EIO, errno.ENODATA, errno.EILSEQ}))
def test_every_errno_has_a_fault(operation: str, number: int) -> None:
    fault = failure(OSError(number, "x"), operation, "/dev/x", 7).fault
    usual = Fault.READ_ERROR if operation == "read" else Fault.WRITE_ERROR
    assert fault is (usual if operation == "read" and number in {1, 13, 30} else FAULTS.get(number, usual))


def test_a_bug_is_a_hardware_fault_and_no_success() -> None:
    assert failure(MemoryError(), "write", "/dev/x", 7).fault is Fault.HARDWARE


def test_read_error_names_the_first_block_that_failed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread
    monkeypatch.setattr(os, "preadv", Faulty(monkeypatch, "preadv", errno.EAGAIN))

    def torn(descriptor: int, length: int, offset: int) -> bytes:
        if offset > 8 * 512:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, min(length, 3 * 512), offset)

    monkeypatch.setattr(os, "pread", torn)
    error = bench.read(8, 8)
    assert isinstance(error, VolumeError)
    assert (error.fault, error.lba) == (Fault.READ_ERROR, 11)


def test_file_that_shrank_gives_a_read_error_at_its_new_end(bench: Bench, disk_file: Path) -> None:
    os.truncate(disk_file, 10 * 512)
    error = bench.read(8, 8)
    assert isinstance(error, VolumeError)
    assert (error.fault, error.lba) == (Fault.READ_ERROR, 10)


def test_write_that_takes_several_calls_is_written_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:700], offset))
    data = random.Random(3).randbytes(8 * 512)
    assert bench.write(5, data) is None
    assert bench.read(5, 8) == data


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ETIMEDOUT])
def test_write_error_reaches_its_write_with_its_block(
    number: int, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    Faulty(monkeypatch, "pwrite", number)
    error = bench.write(9, bytes(1024))
    assert error is not None
    assert (error.fault, error.lba) == (FAULTS.get(number, Fault.WRITE_ERROR), 9)
    assert bench.write(9, bytes(1024)) is None


def test_device_that_goes_away_is_blocked_and_its_listeners_hear(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[DeviceState] = []
    bench.device.listen(lambda device: states.append(device.state))
    Faulty(monkeypatch, "pwrite", errno.ENXIO)
    error = bench.write(0, bytes(512))
    assert error is not None
    assert error.fault is Fault.BLOCKED
    assert states == [DeviceState.BLOCKED]
    assert isinstance(bench.read(0, 1), VolumeError)
    assert bench.open() is None
    assert bench.read(0, 1) == bytes(512)


def over(device: BlockDevice) -> VirtualDevice:
    return VirtualDevice("x", 1, bytes(16), [Region(1, device, 0, lambda *found: found[-1](None))])


def test_i8_failed_flush_is_not_forgotten_by_a_later_one_that_works(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = over(bench.device)
    Faulty(monkeypatch, "fdatasync", errno.EIO)
    for _ in range(3):
        error = bench.flush(device)
        assert error is not None
        assert error.fault is Fault.WRITE_ERROR
    assert bench.write(0, bytes(512)) is None
    assert bench.flush(device) is not None
    device.forget_failed_flush()
    assert bench.flush(device) is None


def test_i8_failed_flush_concerns_each_virtual_device_until_its_own_writes_are_made_up_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = over(bench.device), over(bench.device)
    Faulty(monkeypatch, "fdatasync", errno.EIO)
    assert bench.flush(one) is not None
    one.forget_failed_flush()
    assert bench.flush(one) is None
    assert bench.flush(other) is not None


def test_i8_second_failed_flush_counts_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    device = over(bench.device)
    for _ in range(2):
        Faulty(monkeypatch, "fdatasync", errno.EIO)
        assert bench.flush(device) is not None
        assert bench.flush(device) is not None
        device.forget_failed_flush()
    assert bench.flush(device) is None


def test_i8_opening_again_clears_a_failed_flush(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    device = over(bench.device)
    Faulty(monkeypatch, "fdatasync", errno.EIO)
    assert bench.flush(device) is not None
    assert bench.open() is None
    assert bench.flush(device) is None


def test_i8_failed_fua_write_makes_later_flushes_fail(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel reports a failed writeback once, to whoever syncs first: to this write, of blocks that are not its own.
    device = over(bench.device)
    Faulty(monkeypatch, "pwritev", errno.EIO)
    assert bench.write(0, bytes(512), fua=True) is not None
    assert bench.flush(device) is not None


def test_flushes_that_come_while_one_runs_share_the_next(
    disk_file: Path, scheduler: VirtualScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(disk_file, scheduler, VirtualWorkers(scheduler))
    bench.open()
    syncs = Faulty(monkeypatch, "fdatasync", 0, 0)
    done: list[object] = []
    for _ in range(5):
        bench.device.flush(done.append)
    scheduler.run_until_idle()
    assert done == [None] * 5
    assert syncs.calls == 2
    bench.close()


def test_i8_flush_that_a_failed_one_ran_before_fails_too(
    disk_file: Path, scheduler: VirtualScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(disk_file, scheduler, VirtualWorkers(scheduler))
    bench.open()
    one, other = over(bench.device), over(bench.device)
    syncs = Faulty(monkeypatch, "fdatasync", errno.EIO)
    done: list[VolumeError | None] = []
    one.flush(done.append)
    other.flush(done.append)
    scheduler.run_until_idle()
    assert syncs.calls == 2
    assert [error.fault for error in done if error] == [Fault.WRITE_ERROR] * 2
    bench.close()


def test_close_waits_for_what_is_under_way(disk_file: Path, scheduler: VirtualScheduler) -> None:
    workers = VirtualWorkers(scheduler)
    bench = Bench(disk_file, scheduler, workers)
    bench.open()
    order: list[str] = []
    workers.held = True
    bench.device.write(0, b"\x5a" * 512, False, lambda error: order.append(f"written {error}"))
    scheduler.run_until_idle()
    bench.device.close(lambda: order.append("closed"))
    scheduler.run_until_idle()
    assert order == []
    workers.run_held()
    scheduler.run_until_idle()
    assert order == ["written None", "closed"]
    assert disk_file.read_bytes()[:512] == b"\x5a" * 512


def test_closed_while_it_was_opened_stays_closed(disk_file: Path, scheduler: VirtualScheduler) -> None:
    bench = Bench(disk_file, scheduler, VirtualWorkers(scheduler))
    opened: list[VolumeError | None] = []
    bench.device.open(opened.append)
    bench.device.close(lambda: None)
    scheduler.run_until_idle()
    assert opened[0] is not None
    assert bench.device.state is DeviceState.PENDING
    with disk_file.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_file_in_memory_is_read_and_written_inline(scheduler: VirtualScheduler, workers: Workers) -> None:
    path = Path(f"/dev/shm/annex-test-{os.getpid()}")  # tmpfs wherever there is a Linux
    path.write_bytes(bytes(8 * 512))
    try:
        bench = Bench(path, scheduler, workers)
        bench.open()
        results: list[object] = []
        bench.device.write(3, b"\xa5" * 512, True, results.append)
        bench.device.read(3, 1, results.append)
        bench.device.flush(results.append)
        assert results == [None, b"\xa5" * 512, None]
        bench.close()
    finally:
        path.unlink()


def test_block_length_that_hosts_do_not_know_is_refused(
    disk_file: Path, scheduler: VirtualScheduler, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_file, "BLOCK_BYTES", (4096,))
    with LoopDevice(disk_file) as loop:
        error = Bench(loop.path, scheduler, workers).open()
    assert error is not None
    assert "has blocks of 512 bytes" in error.detail
