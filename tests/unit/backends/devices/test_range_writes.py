"""WRITE SAME and UNMAP of local devices: on a disk, in memory, on a block device, and where fallocate does not work."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.devices import range_writes
from backends.devices.block import BlockDevice
from backends.devices.device_file import device_deallocation
from backends.devices.range_writes import MOST_FILL_BYTES, MOST_RUNS, MOST_STEP_BYTES, find_allocation
from backends.workers import Workers
from scsi.volume import Allocation, Deallocation, Fault, VolumeError
from tests.support.clock import VirtualScheduler
from tests.support.loop_device import LoopDevice

PAGE = 4096
BLOCKS = 4096
BYTES = BLOCKS * 512
X = b"x" * 512
PUNCH, ZERO = range_writes._PUNCH_HOLE, range_writes._ZERO_RANGE


class Bench:
    """A device full of data, with calls that wait for their completions."""

    def __init__(self, path: Path, size: int = BYTES) -> None:
        self.path = path
        self.scheduler = VirtualScheduler()
        self.workers = Workers(self.scheduler, 4)
        self.device = BlockDevice("disk", str(path), self.scheduler, self.workers)
        self.size = size

    def open(self) -> None:
        assert self.wait(self.device.open) is None

    def close(self) -> None:
        self.wait(lambda done: self.device.close(lambda: done(None)))
        assert self.workers.close()

    def wait(self, begin: Callable[[Callable[[object], None]], None]) -> object:
        results: list[object] = []
        begin(results.append)
        self.scheduler.run_until(lambda: bool(results))
        return results[0]

    def unmap(self, lba: int, blocks: int) -> object:
        return self.wait(lambda done: self.device.unmap(lba, blocks, done))

    def write_same(self, lba: int, block: bytes, blocks: int) -> object:
        return self.wait(lambda done: self.device.write_same(lba, block, blocks, done))

    def write(self, lba: int, data: bytes) -> object:
        return self.wait(lambda done: self.device.write(lba, data, False, done))

    def flush(self) -> None:
        assert self.wait(self.device.flush) is None

    def read(self, lba: int, blocks: int) -> object:
        return self.wait(lambda done: self.device.read(lba, blocks, done))

    def allocation(self, lba: int, blocks: int) -> object:
        return self.wait(lambda done: self.device.allocation(lba, blocks, done))

    def stored_bytes(self) -> int:
        return self.path.stat().st_blocks * 512


def on_disk(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def in_memory(tmp_path: Path) -> Path:
    return Path(f"/dev/shm/annex-ranges-{os.getpid()}")


@pytest.fixture(params=[on_disk, in_memory], ids=["on disk", "in memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    path = request.param(tmp_path)
    path.write_bytes(b"\xaa" * BYTES)
    made = Bench(path)
    try:
        made.open()
        yield made
        made.close()
    finally:
        path.unlink()


def check_content(bench: Bench, lba: int, data: bytes) -> None:
    expected = bytearray(b"\xaa" * BYTES)
    expected[lba * 512 : lba * 512 + len(data)] = data
    assert bench.path.read_bytes() == expected


def test_what_is_unmapped_reads_as_zeroes_and_whole_pieces_of_it_have_no_storage(bench: Bench) -> None:
    bench.flush()
    before = bench.stored_bytes()
    assert bench.device.deallocation == Deallocation(8)
    assert bench.unmap(5, 1000) is None
    check_content(bench, 5, bytes(1000 * 512))
    bench.flush()
    assert before - bench.stored_bytes() == (1000 - 3 - 5) * 512
    runs = [Allocation(8, True), Allocation(992, False), Allocation(BLOCKS - 1000, True)]
    assert bench.allocation(0, BLOCKS) == runs


def test_zeroes_of_write_same_have_storage_kept_for_them_or_are_there(bench: Bench) -> None:
    bench.flush()
    before = bench.stored_bytes()
    assert bench.write_same(5, bytes(512), 1000) is None
    check_content(bench, 5, bytes(1000 * 512))
    bench.flush()
    assert bench.stored_bytes() >= before


@pytest.mark.parametrize("blocks", [1, 9, MOST_FILL_BYTES // 512, MOST_FILL_BYTES // 512 + 1, BLOCKS])
def test_write_same_writes_its_block_however_many_there_are(bench: Bench, blocks: int) -> None:
    block = random.Random(blocks).randbytes(512)
    lba = BLOCKS - blocks
    assert bench.write_same(lba, block, blocks) is None
    check_content(bench, lba, block * blocks)


def test_what_is_written_again_has_storage_again(bench: Bench) -> None:
    bench.unmap(0, BLOCKS)
    assert bench.allocation(0, BLOCKS) == [Allocation(BLOCKS, False)]
    bench.write(16, X)
    bench.flush()
    assert bench.allocation(0, BLOCKS) == [Allocation(16, False), Allocation(8, True), Allocation(BLOCKS - 24, False)]
    assert bench.allocation(19, 20) == [Allocation(5, True), Allocation(15, False)]


def test_an_answer_about_storage_has_so_many_runs_and_no_more(bench: Bench) -> None:
    for lba in range(0, BLOCKS, 16):
        bench.unmap(lba, 8)
    runs = bench.allocation(0, BLOCKS)
    assert isinstance(runs, list)
    assert MOST_RUNS <= len(runs) <= MOST_RUNS + 1
    assert all(run.blocks == 8 for run in runs)


def test_operations_that_overlap_land_in_the_order_they_came(bench: Bench) -> None:
    results: list[object] = []
    bench.device.write(0, X * 2000, False, results.append)
    bench.device.unmap(500, 1000, results.append)
    bench.device.write(600, b"y" * 512, False, results.append)
    bench.device.write_same(700, b"z" * 512, 50, results.append)
    bench.device.unmap(749, 1, results.append)
    bench.scheduler.run_until(lambda: len(results) == 5)
    assert results == [None] * 5
    data = X * 500 + bytes(512 * 100) + b"y" * 512 + bytes(512 * 99) + b"z" * 512 * 49 + bytes(512 * 751) + X * 500
    check_content(bench, 0, data)


class Faulty:
    """Takes the place of fallocate: fails with planned errnos by mode, else does what the real one does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **errnos: list[int]) -> None:
        self.errnos = {PUNCH: list(errnos.get("punch", [])), ZERO: list(errnos.get("zero", []))}
        self.calls: list[int] = []
        self.real = range_writes._fallocate
        monkeypatch.setattr(range_writes, "_fallocate", self)

    def __call__(self, descriptor: int, mode: int, offset: int, length: int) -> int:
        mode &= ~range_writes._KEEP_SIZE
        self.calls.append(mode)
        planned = self.errnos[mode]
        number = planned.pop(0) if len(planned) > 1 else planned[0] if planned else 0
        if number:
            ctypes.set_errno(number)
            return -1
        return int(self.real(descriptor, mode | range_writes._KEEP_SIZE, offset, length))


@pytest.mark.parametrize(
    ("errnos", "calls"),
    [
        ({"punch": [errno.EOPNOTSUPP]}, [PUNCH, ZERO]),
        ({"punch": [errno.EOPNOTSUPP], "zero": [errno.EOPNOTSUPP]}, [PUNCH, ZERO]),
        ({"punch": [errno.ENOSYS], "zero": [errno.ENOSYS]}, [PUNCH, ZERO]),
        ({"punch": [errno.EINTR, 0]}, [PUNCH, PUNCH]),
    ],
)
def test_a_file_system_that_does_not_give_storage_back_has_zeroes_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, errnos: dict[str, list[int]], calls: list[int]
) -> None:
    faulty = Faulty(monkeypatch, **errnos)
    assert bench.unmap(5, 1000) is None
    check_content(bench, 5, bytes(1000 * 512))
    assert faulty.calls[: len(calls)] == calls


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (errno.EIO, Fault.WRITE_ERROR),
        (errno.ENOSPC, Fault.NO_SPACE),
        (errno.EPERM, Fault.WRITE_PROTECTED),
        (errno.ENODEV, Fault.BLOCKED),
    ],
)
def test_what_fails_is_told_with_the_first_block_that_was_not_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int, fault: Fault
) -> None:
    monkeypatch.setattr(range_writes, "MOST_STEP_BYTES", 100 * 512)
    Faulty(monkeypatch, punch=[0, 0, number])
    error = bench.unmap(8, 1000)
    assert isinstance(error, VolumeError)
    assert (error.fault, error.lba) == (fault, 208)


def test_a_fill_that_fails_is_told_with_the_first_block_that_was_not_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    counts = [700, 100]

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if not counts:
            raise OSError(errno.ENOSPC, "no space")
        return real(descriptor, data[: counts.pop(0)], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    error = bench.write_same(8, bytes(range(256)) * 2, 10)
    assert isinstance(error, VolumeError)
    assert (error.fault, error.lba) == (Fault.NO_SPACE, 9)
    monkeypatch.undo()
    assert bench.path.read_bytes()[8 * 512 : 8 * 512 + 801] == (bytes(range(256)) * 4)[:800] + b"\xaa"


def test_a_device_that_is_closed_unmaps_nothing(bench: Bench) -> None:
    bench.wait(lambda done: bench.device.close(lambda: done(None)))
    for error in (bench.unmap(0, 1), bench.write_same(0, X, 1), bench.allocation(0, 1)):
        assert isinstance(error, VolumeError)
        assert error.fault is Fault.BECOMING_READY
    assert bench.device.deallocation == Deallocation(8), "a host that asks meanwhile is told the same"


def test_a_file_that_is_read_only_is_neither_unmapped_nor_written(bench: Bench) -> None:
    bench.device.read_only = True
    for error in (bench.unmap(0, 1), bench.write_same(0, X, 1)):
        assert isinstance(error, VolumeError)
        assert error.fault is Fault.WRITE_PROTECTED


# --- In memory, on the loop's own thread ------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Bench]:
    path = Path(f"/dev/shm/annex-ranges-large-{os.getpid()}")
    size = 4 * MOST_STEP_BYTES
    with path.open("wb") as file:
        file.truncate(size)
    made = Bench(path, size)
    try:
        made.open()
        yield made
        made.close()
    finally:
        path.unlink()


def test_much_memory_is_changed_in_steps_between_other_work(memory: Bench) -> None:
    results: list[object] = []
    others: list[object] = []
    blocks = memory.size // 512
    begins: list[Callable[[], None]] = [
        lambda: memory.device.unmap(0, blocks, results.append),
        lambda: memory.device.write_same(0, X, blocks, results.append),
    ]
    for begin in begins:
        begin()
        assert results == []
        memory.device.read(blocks - 1, 1, others.append)
        assert others.pop() == bytes(512)
        memory.scheduler.run_until(lambda: bool(results))
        assert results.pop() is None
    assert memory.read(blocks - 1, 1) == X


def test_little_memory_is_changed_at_once(memory: Bench) -> None:
    results: list[object] = []
    memory.device.write_same(8, X, 8, results.append)
    memory.device.unmap(8, 4, results.append)
    assert results == [None, None]
    assert memory.read(8, 8) == bytes(4 * 512) + X * 4


def test_a_device_is_given_back_only_when_the_last_step_is_done(memory: Bench) -> None:
    results: list[object] = []
    memory.device.write_same(0, X, memory.size // 512, results.append)
    memory.wait(lambda done: memory.device.close(lambda: done(None)))
    assert results == [None]
    assert memory.path.read_bytes() == b"x" * memory.size


# --- Block devices ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [512, 4096])
def test_a_loop_device_gives_storage_of_its_file_back(tmp_path: Path, block_bytes: int) -> None:
    path = on_disk(tmp_path)
    path.write_bytes(b"\xaa" * BYTES)
    with LoopDevice(path, block_bytes=block_bytes) as loop:
        bench = Bench(loop.path)
        bench.open()
        pieces = bench.device.deallocation
        assert pieces is not None
        assert pieces.granularity_blocks * block_bytes == PAGE
        per_page = PAGE // block_bytes
        block = b"x" * block_bytes
        bench.write(10 * per_page, block * 4 * per_page)
        before = path.stat().st_blocks
        assert bench.unmap(8 * per_page, 100 * per_page) is None
        assert bench.write_same(20 * per_page, block, 2) is None
        assert bench.write_same(30 * per_page, bytes(block_bytes), per_page) is None
        bench.flush()
        assert path.stat().st_blocks < before
        assert bench.read(8 * per_page, 12 * per_page) == bytes(12 * PAGE), "also what was in the cache"
        assert bench.allocation(0, 10) == [Allocation(10, True)], "nobody knows of a block device"
        bench.close()
    expected = bytearray(b"\xaa" * BYTES)
    expected[8 * PAGE : 108 * PAGE] = bytes(100 * PAGE)
    expected[20 * PAGE : 20 * PAGE + 2 * block_bytes] = block * 2
    assert path.read_bytes() == expected


def sysfs(tmp_path: Path, **limits: str) -> Path:
    """A disk 8:0 with a partition 8:1, as /sys shows them."""
    disk = tmp_path / "devices/sda"
    (disk / "queue").mkdir(parents=True)
    (disk / "sda1").mkdir()
    (disk / "sda1/partition").write_text("1\n")
    for name, value in limits.items():
        (disk / "queue" / name).write_text(value)
    (disk / "discard_alignment").write_text("0\n")
    (disk / "sda1/discard_alignment").write_text("2560\n")
    links = tmp_path / "dev/block"
    links.mkdir(parents=True)
    (links / "8:0").symlink_to(disk)
    (links / "8:1").symlink_to(disk / "sda1")
    return tmp_path


ALL = {"discard_granularity": "4096\n", "discard_max_bytes": "1048576\n", "write_zeroes_max_bytes": "65536\n"}


@pytest.mark.parametrize(
    ("limits", "number", "expected"),
    [
        (ALL, os.makedev(8, 0), Deallocation(8)),
        (ALL, os.makedev(8, 1), Deallocation(8, 5)),
        ({**ALL, "discard_granularity": "256\n"}, os.makedev(8, 1), Deallocation(1)),
        ({**ALL, "write_zeroes_max_bytes": "0\n"}, os.makedev(8, 0), None),
        ({**ALL, "discard_max_bytes": "0\n"}, os.makedev(8, 0), None),
        ({**ALL, "discard_granularity": "0\n"}, os.makedev(8, 0), None),
        ({**ALL, "discard_granularity": "many\n"}, os.makedev(8, 0), None),
        ({}, os.makedev(8, 0), None),
        (ALL, os.makedev(9, 9), None),
    ],
)
def test_a_block_device_gives_storage_back_only_if_it_makes_zeroes_of_it(
    tmp_path: Path, limits: dict[str, str], number: int, expected: Deallocation | None
) -> None:
    assert device_deallocation(number, 512, sysfs(tmp_path, **limits)) == expected


# --- What can, and what has storage -----------------------------------------------------------------------------------


def test_a_file_system_without_holes_has_no_deallocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Faulty(monkeypatch, punch=[errno.EOPNOTSUPP])
    path = on_disk(tmp_path)
    path.write_bytes(bytes(BYTES))
    bench = Bench(path)
    bench.open()
    assert bench.device.deallocation is None
    bench.close()


def test_a_file_that_can_only_be_read_has_no_deallocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = on_disk(tmp_path)
    path.write_bytes(bytes(BYTES))
    path.chmod(stat.S_IRUSR)
    real = os.open

    def refuse_writing(name: str, flags: int) -> int:
        if flags & os.O_RDWR and name == str(path):
            raise OSError(errno.EACCES, "permission denied")
        return real(name, flags)

    monkeypatch.setattr(os, "open", refuse_writing)
    bench = Bench(path)
    bench.open()
    assert bench.device.read_only
    assert bench.device.deallocation is None
    assert bench.allocation(0, 8) == [Allocation(8, True)]
    bench.close()


@pytest.mark.parametrize("seed", range(20))
def test_runs_of_storage_cover_what_was_asked_for_and_say_of_each_page_what_is_so(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    pages = [rng.random() < 0.6 for _ in range(24)]
    path = on_disk(tmp_path)
    with path.open("wb") as file:
        file.truncate(len(pages) * PAGE)
        for at, there in enumerate(pages):
            if there:
                os.pwrite(file.fileno(), b"d" * PAGE, at * PAGE)
        os.fsync(file.fileno())
    lba = rng.randrange(len(pages) * 8)
    blocks = rng.randint(1, len(pages) * 8 - lba)
    with path.open("rb") as file:
        runs = find_allocation(file.fileno(), lba, blocks, 512)
    found = [run.mapped for run in runs for _ in range(run.blocks)]
    assert found == [pages[at // 8] for at in range(lba, lba + blocks)]
    assert all(one.mapped is not other.mapped for one, other in itertools.pairwise(runs))
