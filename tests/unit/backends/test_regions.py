"""Regions: when they may serve, and which of them are the same storage."""

from __future__ import annotations

import pytest

from backends.devices.state import DeviceState
from backends.regions import Region, RegionKind
from scsi.volume import Done, Fault, VolumeError
from tests.support.memory_volume import MemoryVolume

AWAY = VolumeError(Fault.BECOMING_READY, "connecting")


class Lessons:
    """Takes the place of the mapping table."""

    def __init__(self) -> None:
        self.learnt: list[tuple[int, int, bytes]] = []
        self.waiting: list[Done] = []
        self.hold = False
        self.error: VolumeError | None = None

    def learn(self, blocks: int, block_bytes: int, identifier: bytes, done: Done) -> None:
        self.learnt.append((blocks, block_bytes, identifier))
        if self.hold:
            self.waiting.append(done)
        else:
            done(self.error)


@pytest.fixture
def lessons() -> Lessons:
    return Lessons()


def test_first_contact_measures_the_device_and_records_it(lessons: Lessons) -> None:
    region = Region(7, MemoryVolume(100, 4096), 10, lessons.learn)
    told: list[bool] = []
    region.check(lambda: told.append(True))
    assert lessons.learnt == [(90, 4096, b"")]
    assert (region.blocks, region.block_bytes, region.state) == (90, 4096, DeviceState.READY)
    assert told == [True]
    region.check(lambda: None)
    assert len(lessons.learnt) == 1


def test_nothing_is_served_before_the_record_is_stable(lessons: Lessons) -> None:
    lessons.hold = True
    region = Region(7, MemoryVolume(100), 0, lessons.learn)
    region.check(lambda: None)
    region.check(lambda: None)
    assert len(lessons.learnt) == 1
    assert region.state is DeviceState.PENDING
    fault = region.fault()
    assert fault is not None
    assert fault.fault is Fault.BECOMING_READY
    lessons.waiting[0](None)
    assert region.fault() is None


def test_record_that_can_not_be_made_blocks_until_it_can(lessons: Lessons) -> None:
    lessons.error = VolumeError(Fault.BLOCKED, "disk full")
    region = Region(7, MemoryVolume(100), 0, lessons.learn)
    region.check(lambda: None)
    assert region.fault() is lessons.error
    lessons.error = None
    region.check(lambda: None)
    assert region.fault() is None


def test_device_that_is_away_at_first_contact_is_measured_when_it_comes(lessons: Lessons) -> None:
    device = MemoryVolume(100)
    device.unready = AWAY
    region = Region(7, device, 0, lessons.learn)
    region.check(lambda: None)
    assert lessons.learnt == []
    assert (region.state, region.fault(), region.blocks) == (DeviceState.PENDING, AWAY, 0)
    device.unready = None
    region.check(lambda: None)
    assert (region.state, region.blocks) == (DeviceState.READY, 100)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (MemoryVolume(99), "the device has 99 blocks, and the region is 90 blocks from 10"),
        (MemoryVolume(200, 4096), "the device has blocks of 4096 bytes, and had 512"),
    ],
)
def test_device_that_is_not_what_it_was_blocks_the_region(device: MemoryVolume, reason: str, lessons: Lessons) -> None:
    region = Region(7, device, 10, lessons.learn, blocks=90, block_bytes=512)
    region.check(lambda: None)
    assert region.state is DeviceState.BLOCKED
    fault = region.fault()
    assert fault is not None
    assert fault.detail == f"region 7: {reason}"
    assert lessons.learnt == []


def test_device_that_grew_changes_nothing(lessons: Lessons) -> None:
    region = Region(7, MemoryVolume(500), 10, lessons.learn, blocks=90, block_bytes=512)
    region.check(lambda: None)
    assert (region.state, region.blocks) == (DeviceState.READY, 90)


@pytest.mark.parametrize("blocks", [0, 1])
def test_region_behind_the_end_of_its_device_is_blocked(blocks: int, lessons: Lessons) -> None:
    region = Region(7, MemoryVolume(100), 100, lessons.learn, blocks=blocks)
    region.check(lambda: None)
    assert region.state is DeviceState.BLOCKED


def test_local_region_has_no_external_id(lessons: Lessons) -> None:
    region = Region(7, MemoryVolume(100), 0, lessons.learn)
    assert (region.kind, region.external_unit, region.external_id) == (RegionKind.LOCAL, None, bytes(16))


@pytest.mark.parametrize(
    ("mine", "theirs", "shared"),
    [((0, 10), (10, 10), False), ((0, 11), (10, 10), True), ((0, 0), (50, 1), True), ((5, 5), (0, 5), False)],
)
def test_regions_of_one_device_overlap_by_their_blocks(
    mine: tuple[int, int], theirs: tuple[int, int], shared: bool, lessons: Lessons
) -> None:
    device = MemoryVolume(100)
    first = Region(1, device, mine[0], lessons.learn, blocks=mine[1])
    second = Region(2, device, theirs[0], lessons.learn, blocks=theirs[1])
    assert first.overlaps(second) is shared
    assert second.overlaps(first) is shared
    assert not first.overlaps(Region(3, MemoryVolume(100), 0, lessons.learn))
