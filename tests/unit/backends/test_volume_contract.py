"""What every volume promises (`scsi.volume`), checked on each kind of them.

A new kind of volume joins by one more entry in `VOLUMES`.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from backends.devices.block import BlockDevice
from backends.external.unit import ExternalLogicalUnit
from backends.regions import Region, RegionDevice
from backends.virtual_device import VirtualDevice
from backends.workers import Workers
from scsi.array_commands import PairState
from scsi.iscsi.initiator_task import Task
from scsi.volume import Buffer, Done, Volume, VolumeError
from tests.support.clock import VirtualScheduler
from tests.support.fake_array import FakeAnswer, end_with
from tests.support.loop_device import LoopDevice
from tests.support.memory_volume import MemoryVolume
from tests.support.pair_world import PairWorld

BLOCKS = 512


class Bench:
    """A volume on a virtual clock and real threads, with calls that wait."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.scheduler = VirtualScheduler()
        self.workers = Workers(self.scheduler, 4)
        self.cleanup = ExitStack()
        self.cleanup.callback(self.workers.close)
        self.has_threads = True
        self.volume: Volume = MemoryVolume()

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Run until `condition()` holds; a pair's world has no threads, and needs time to pass."""
        if self.has_threads:
            self.scheduler.run_until(condition)
        self.scheduler.run_until_idle()
        for _ in range(100):
            if condition():
                return
            self.scheduler.advance(0.1)
        raise AssertionError("not after 10 s of virtual time")

    def wait(self, begin: Callable[[Callable[[object], None]], None]) -> object:
        results: list[object] = []
        begin(results.append)
        self.run_until(lambda: bool(results))
        self.scheduler.run_until_idle()
        assert len(results) == 1
        return results[0]

    def read(self, lba: int, blocks: int) -> object:
        return self.wait(lambda done: self.volume.read(lba, blocks, done))

    def write(self, lba: int, data: Buffer, *, fua: bool = False) -> object:
        return self.wait(lambda done: self.volume.write(lba, data, fua, done))

    def write_same(self, lba: int, block: Buffer, blocks: int) -> object:
        return self.wait(lambda done: self.volume.write_same(lba, block, blocks, done))

    def unmap(self, lba: int, blocks: int) -> object:
        return self.wait(lambda done: self.volume.unmap(lba, blocks, done))

    def allocation(self, lba: int, blocks: int) -> object:
        return self.wait(lambda done: self.volume.allocation(lba, blocks, done))

    def flush(self) -> object:
        return self.wait(self.volume.flush)

    def device(self, path: Path) -> BlockDevice:
        device = BlockDevice("disk", str(path), self.scheduler, self.workers)
        assert self.wait(device.open) is None
        self.cleanup.callback(lambda: self.wait(lambda done: device.close(lambda: done(None))))
        return device


def file_on_disk(bench: Bench) -> Volume:
    path = bench.tmp_path / "disk"
    path.write_bytes(bytes(BLOCKS * 512))
    return bench.device(path)


def file_in_memory(bench: Bench) -> Volume:
    path = Path(f"/dev/shm/annex-contract-{os.getpid()}")
    bench.cleanup.callback(path.unlink)
    path.write_bytes(bytes(BLOCKS * 512))
    return bench.device(path)


def loop_device(bench: Bench) -> Volume:
    path = bench.tmp_path / "disk"
    path.write_bytes(bytes(BLOCKS * 4096))
    return bench.device(bench.cleanup.enter_context(LoopDevice(path, block_bytes=4096)).path)


def memory(_: Bench) -> Volume:
    return MemoryVolume(BLOCKS)


def learn(blocks: int, block_bytes: int, identifier: bytes, done: Done) -> None:
    done(None)


def over(*parts: tuple[RegionDevice, int, int]) -> VirtualDevice:
    regions = [
        Region(number, device, first, learn, blocks=blocks) for number, (device, first, blocks) in enumerate(parts)
    ]
    return VirtualDevice("x", 1, bytes(16), regions)


def virtual_device_of_one_region(bench: Bench) -> Volume:
    return over((MemoryVolume(BLOCKS + 7), 7, 0))


def virtual_device_of_three_regions(bench: Bench) -> Volume:
    file = file_on_disk(bench)
    assert isinstance(file, BlockDevice)
    return over((MemoryVolume(200), 0, 100), (file, 12, 300), (MemoryVolume(112), 0, 0))


class MemoryArray:
    """An `ArrayPath` to an array that is a `MemoryVolume`; answers come a turn of the loop later."""

    def __init__(self, scheduler: VirtualScheduler) -> None:
        self.scheduler = scheduler
        self.medium = MemoryVolume(BLOCKS)

    def submit(self, task: Task) -> None:
        cdb = task.cdb
        lba, _, blocks = struct.unpack(">IBH", cdb[2:9])
        if cdb[0] == 0x28:
            assert task.data_in_bytes == blocks * 512
            data = bytes(self.medium.data[lba * 512 : (lba + blocks) * 512])
            self.scheduler.call_soon(lambda: end_with(task, FakeAnswer(data_in=data)))
        elif cdb[0] == 0x2A:
            assert len(task.data_out) == blocks * 512
            self.medium.write(
                lba, task.data_out, False, lambda _: self.scheduler.call_soon(lambda: end_with(task, FakeAnswer()))
            )
        else:
            assert cdb[0] == 0x35
            self.scheduler.call_soon(lambda: end_with(task, FakeAnswer()))


def external_logical_unit(bench: Bench) -> Volume:
    path = MemoryArray(bench.scheduler)
    unit = ExternalLogicalUnit("old", bytes(8), b"\xbe\xef", path, bench.scheduler)  # type: ignore[arg-type] # what a connected unit needs of it
    unit.blocks, unit.max_transfer_blocks, unit.reachable = BLOCKS, 8, True
    unit.set_ready()
    return unit


def pair(bench: Bench) -> Volume:
    """A pair seen by its primary."""
    world = PairWorld()
    bench.scheduler = world.scheduler
    bench.has_threads = False
    primary = world.add_unit(1, blocks=BLOCKS, write_cache=True)
    secondary = world.add_unit(2, external="array", blocks=BLOCKS, write_cache=True)
    world.wait_state(world.create(primary, secondary), PairState.PAIR)
    return primary.logical_unit.volume


VOLUMES = [
    file_on_disk,
    file_in_memory,
    loop_device,
    memory,
    virtual_device_of_one_region,
    virtual_device_of_three_regions,
    external_logical_unit,
    pair,
]


@pytest.fixture(params=VOLUMES, ids=lambda make: make.__name__)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    with made.cleanup:
        made.volume = request.param(made)
        yield made


def pattern(volume: Volume, blocks: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(blocks * volume.block_bytes)


def test_capacity_is_known_when_there_is_no_fault(bench: Bench) -> None:
    volume = bench.volume
    assert volume.fault() is None
    assert volume.blocks == BLOCKS
    assert volume.block_bytes in {512, 4096}
    assert 0 <= volume.physical_block_exponent < 16
    assert volume.max_transfer_blocks >= 0
    assert not volume.read_only


def test_first_and_last_block_can_be_written_and_read(bench: Bench) -> None:
    for lba in (0, BLOCKS - 1):
        data = pattern(bench.volume, 1, lba)
        assert bench.write(lba, data) is None
        assert bench.read(lba, 1) == data


def test_whole_volume_is_written_and_read_in_one_go(bench: Bench) -> None:
    data = pattern(bench.volume, BLOCKS, 1)
    assert bench.write(0, data) is None
    assert bench.read(0, BLOCKS) == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_written(kind: Callable[[bytes], Buffer], bench: Bench) -> None:
    data = pattern(bench.volume, 20, 2)
    assert bench.write(93, kind(data)) is None
    assert bench.read(93, 20) == data


def test_part_of_a_buffer_is_written(bench: Bench) -> None:
    data = pattern(bench.volume, 20, 3)
    length = bench.volume.block_bytes
    assert bench.write(93, memoryview(data)[length : 9 * length]) is None
    assert bench.read(93, 8) == data[length : 9 * length]


def test_read_data_stays_as_it_was_when_the_blocks_change(bench: Bench) -> None:
    before = pattern(bench.volume, 2, 4)
    bench.write(5, before)
    data = bench.read(5, 2)
    bench.write(5, pattern(bench.volume, 2, 5))
    assert data == before


def test_write_with_fua_and_flush_work(bench: Bench) -> None:
    data = pattern(bench.volume, 3, 6)
    assert bench.write(99, data, fua=True) is None
    assert bench.flush() is None
    assert bench.read(99, 3) == data


@pytest.mark.parametrize(("lba", "blocks"), [(0, 1), (BLOCKS - 1, 1), (93, 20), (96, 64), (0, BLOCKS)])
def test_unmapped_blocks_read_as_zeroes_and_no_others(lba: int, blocks: int, bench: Bench) -> None:
    length = bench.volume.block_bytes
    expected = bytearray(pattern(bench.volume, BLOCKS, 8))
    assert bench.write(0, bytes(expected)) is None
    assert bench.unmap(lba, blocks) is None
    expected[lba * length : (lba + blocks) * length] = bytes(blocks * length)
    assert bench.read(0, BLOCKS) == expected


@pytest.mark.parametrize("seed", [0, 9])
@pytest.mark.parametrize(("lba", "blocks"), [(0, 1), (BLOCKS - 1, 1), (93, 20), (0, BLOCKS)])
def test_one_block_is_written_to_many_and_to_no_others(seed: int, lba: int, blocks: int, bench: Bench) -> None:
    length = bench.volume.block_bytes
    expected = bytearray(pattern(bench.volume, BLOCKS, 8))
    assert bench.write(0, bytes(expected)) is None
    block = pattern(bench.volume, 1, seed) if seed else bytes(length)
    assert bench.write_same(lba, memoryview(block), blocks) is None
    expected[lba * length : (lba + blocks) * length] = block * blocks
    assert bench.read(0, BLOCKS) == expected


def test_runs_of_allocation_follow_each_other_within_what_was_asked_for(bench: Bench) -> None:
    volume = bench.volume
    assert bench.write(0, pattern(volume, BLOCKS, 10)) is None
    piece = volume.deallocation
    if piece is not None:
        assert 0 <= piece.first_lba < piece.granularity_blocks
    assert bench.unmap(64, 128) is None
    at = 40
    mapped = []
    while at < BLOCKS - 8:
        runs = bench.allocation(at, BLOCKS - 8 - at)
        assert isinstance(runs, list)
        assert runs
        for run in runs:
            assert run.blocks > 0
            mapped += [run.mapped] * run.blocks
            at += run.blocks
    assert at == BLOCKS - 8
    assert all(mapped[: 64 - 40])
    assert all(mapped[192 - 40 :])


def test_every_operation_of_many_completes_once_and_blocks_hold_what_was_written(bench: Bench) -> None:
    rng = random.Random(7)
    volume = bench.volume
    expected = bytearray(BLOCKS * volume.block_bytes)
    counts: list[int] = []
    problems: list[object] = []

    def counted(check: Callable[[object], bool]) -> Callable[[object], None]:
        number = len(counts)
        counts.append(0)

        def done(result: object) -> None:
            counts[number] += 1
            if not check(result):
                problems.append(result)

        return done

    for _ in range(40):
        free = list(range(0, BLOCKS, 32))  # operations of one round do not overlap: their order is free
        rng.shuffle(free)
        for first in free:
            lba = first + rng.randrange(16)
            blocks = rng.randint(1, 16)
            place = slice(lba * volume.block_bytes, (lba + blocks) * volume.block_bytes)
            chance = rng.random()
            if chance < 0.1:
                expected[place] = bytes(blocks * volume.block_bytes)
                volume.unmap(lba, blocks, counted(lambda result: result is None))
            elif chance < 0.2:
                block = pattern(volume, 1, rng.getrandbits(32))
                expected[place] = block * blocks
                volume.write_same(lba, block, blocks, counted(lambda result: result is None))
            elif chance < 0.6:
                expected[place] = pattern(volume, blocks, rng.getrandbits(32))
                data = bytes(expected[place])
                volume.write(lba, data, rng.random() < 0.05, counted(lambda result: result is None))
            else:
                have = bytes(expected[place])
                volume.read(lba, blocks, counted(lambda result, have=have: result == have))  # type: ignore[misc] # bound early
        volume.flush(counted(lambda result: result is None))
        bench.run_until(lambda: all(counts))
    bench.scheduler.run_until_idle()
    assert problems == []
    assert set(counts) == {1}
    assert bench.read(0, BLOCKS) == expected


def test_each_block_of_overlapping_writes_holds_one_of_them_whole(bench: Bench) -> None:
    volume = bench.volume
    results: list[VolumeError | None] = []
    datas = [bytes([number]) * (4 * volume.block_bytes) for number in range(1, 9)]
    for data in datas:
        volume.write(98, data, False, results.append)
    bench.run_until(lambda: len(results) == len(datas))
    assert results == [None] * len(datas)
    have = bench.read(98, 4)
    assert isinstance(have, bytes | bytearray | memoryview)
    for block in range(4):
        content = bytes(have[block * volume.block_bytes : (block + 1) * volume.block_bytes])
        assert content in {data[: volume.block_bytes] for data in datas}
