"""Virtual devices: cutting requests at regions, joining what comes back, and gates."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from backends.devices.state import DeviceState
from backends.external.unit import ExternalLogicalUnit
from backends.regions import Region
from backends.split_requests import SEVERITY
from backends.virtual_device import VirtualDevice
from scsi.volume import Allocation, Buffer, Deallocation, Done, Fault, VolumeError
from tests.support.memory_volume import MemoryVolume


def learn(blocks: int, block_bytes: int, identifier: bytes, done: Done) -> None:
    done(None)


def virtual_device(*parts: tuple[MemoryVolume, int, int]) -> VirtualDevice:
    """Make one of regions, each (device, first block there, blocks or 0 for all)."""
    regions = [
        Region(number, device, first, learn, blocks=blocks) for number, (device, first, blocks) in enumerate(parts, 1)
    ]
    return VirtualDevice("x", 1, bytes(16), regions)


@pytest.fixture
def left() -> MemoryVolume:
    return MemoryVolume(100)


@pytest.fixture
def right() -> MemoryVolume:
    return MemoryVolume(100)


@pytest.fixture
def device(left: MemoryVolume, right: MemoryVolume) -> VirtualDevice:
    """20 blocks: 10 of left from 50, then 10 of right from 5."""
    return virtual_device((left, 50, 10), (right, 5, 10))


def read(volume: VirtualDevice, lba: int, blocks: int) -> list[Buffer | VolumeError]:
    results: list[Buffer | VolumeError] = []
    volume.read(lba, blocks, results.append)
    return results


def write(volume: VirtualDevice, lba: int, data: Buffer, *, fua: bool = False) -> list[VolumeError | None]:
    results: list[VolumeError | None] = []
    volume.write(lba, data, fua, results.append)
    return results


def test_regions_follow_each_other(device: VirtualDevice) -> None:
    assert device.blocks == 20
    assert [region.first_lba for region in device.regions] == [0, 10]
    assert device.state is DeviceState.READY
    assert [region.number for region in device.regions_of(9, 1)] == [1]
    assert [region.number for region in device.regions_of(9, 2)] == [1, 2]


def test_request_within_one_region_goes_to_its_device_as_it_is(
    device: VirtualDevice, left: MemoryVolume, right: MemoryVolume
) -> None:
    assert write(device, 0, b"l" * 5120) == [None]
    assert write(device, 10, b"r" * 512, fua=True) == [None]
    read(device, 19, 1)
    assert left.operations() == ["write 50+10"]
    assert right.operations() == ["write 5+1 fua", "read 14+1"]


def test_write_over_two_regions_is_cut_and_read_joined(
    device: VirtualDevice, left: MemoryVolume, right: MemoryVolume
) -> None:
    data = bytes(itertools.chain.from_iterable([number] * 512 for number in range(1, 5)))
    assert write(device, 8, data, fua=True) == [None]
    assert left.operations() == ["write 58+2 fua"]
    assert right.operations() == ["write 5+2 fua"]
    assert read(device, 8, 4) == [data]


def test_request_over_three_regions_covers_the_middle_one_whole(left: MemoryVolume, right: MemoryVolume) -> None:
    device = virtual_device((left, 0, 4), (right, 0, 3), (left, 90, 10))
    data = bytes(range(256)) * 2 * 5
    assert write(device, 3, data) == [None]
    assert left.operations() == ["write 3+1", "write 90+1"]
    assert right.operations() == ["write 0+3"]
    assert read(device, 3, 5) == [data]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_request_completes_once_after_all_its_parts(
    order: tuple[int, int], device: VirtualDevice, left: MemoryVolume, right: MemoryVolume
) -> None:
    left.data[58 * 512 : 60 * 512] = b"l" * 1024
    right.data[5 * 512 : 7 * 512] = b"r" * 1024
    left.hold = right.hold = True
    written = write(device, 9, b"x" * 1024)
    results = read(device, 8, 4)
    for index in order:
        assert not written
        (left, right)[index].release()
    assert written == [None]
    for index in order:
        assert not results
        (left, right)[index].release()
    assert results == [b"l" * 512 + b"x" * 1024 + b"r" * 512]


def test_error_names_the_block_as_the_host_numbers_it(
    device: VirtualDevice, left: MemoryVolume, right: MemoryVolume
) -> None:
    right.fail("any", Fault.READ_ERROR, 7, 1, lba=7)
    for results in (read(device, 12, 2), read(device, 8, 8)):
        assert isinstance(results[0], VolumeError)
        assert (results[0].fault, results[0].lba) == (Fault.READ_ERROR, 12)
    for error in (*write(device, 12, bytes(512)), *write(device, 9, bytes(8 * 512))):
        assert error is not None
        assert error.lba == 12


def test_severity_is_defined_for_every_fault() -> None:
    assert set(SEVERITY) == set(Fault)


@pytest.mark.parametrize("faults", [(Fault.BUSY, Fault.WRITE_ERROR), (Fault.WRITE_ERROR, Fault.BUSY)])
def test_worst_error_of_the_parts_is_reported(
    faults: tuple[Fault, Fault], device: VirtualDevice, left: MemoryVolume, right: MemoryVolume
) -> None:
    left.fail("any", faults[0])
    right.fail("any", faults[1])
    for error in (*write(device, 9, bytes(1024)), *read(device, 9, 2)):
        assert isinstance(error, VolumeError)
        assert error.fault is Fault.WRITE_ERROR


def test_one_part_that_fails_fails_the_request_after_the_other_part(
    device: VirtualDevice, left: MemoryVolume, right: MemoryVolume
) -> None:
    left.fail("write", Fault.NO_SPACE)
    right.hold = True
    results = write(device, 9, bytes(1024))
    assert not results
    right.release()
    assert results[0] is not None


def test_flush_goes_to_each_device_once(left: MemoryVolume, right: MemoryVolume) -> None:
    device = virtual_device((left, 0, 10), (right, 0, 10), (left, 50, 10))
    right.hold = True
    results: list[VolumeError | None] = []
    device.flush(results.append)
    assert (left.operations(), right.operations(), results) == (["flush"], ["flush"], [])
    right.release(error=VolumeError(Fault.WRITE_ERROR))
    assert results[0] is not None


def test_whole_device_passes_requests_through(left: MemoryVolume) -> None:
    device = virtual_device((left, 0, 0))
    assert device.blocks == 100
    assert write(device, 99, b"z" * 512) == [None]
    assert read(device, 99, 1) == [b"z" * 512]
    results: list[VolumeError | None] = []
    device.flush(results.append)
    assert results == [None]


def test_device_that_comes_back_smaller_is_not_read_any_more(left: MemoryVolume) -> None:
    device = virtual_device((left, 0, 0))
    assert read(device, 0, 1) == [bytes(512)]
    left.blocks = 99
    device.refresh()
    assert device.state is DeviceState.BLOCKED
    assert read(device, 0, 1) == [device.fault()]
    assert write(device, 0, bytes(512)) == [device.fault()]
    left.blocks = 100
    device.refresh()
    assert read(device, 0, 1) == [bytes(512)]


def test_mixed_block_lengths_are_refused(left: MemoryVolume) -> None:
    device = virtual_device((left, 0, 8), (MemoryVolume(100, 4096), 0, 8))
    assert device.state is DeviceState.BLOCKED
    fault = device.fault()
    assert fault is not None
    assert fault.detail == "virtual device 1: its regions have blocks of 512 and 4096 bytes"
    assert read(device, 0, 1) == [fault]
    assert write(device, 0, bytes(512)) == [fault]


def test_region_of_unknown_capacity_leaves_the_device_pending_until_it_is_known(left: MemoryVolume) -> None:
    right = MemoryVolume(100)
    right.unready = VolumeError(Fault.BECOMING_READY, "connecting")
    device = virtual_device((left, 0, 10), (right, 0, 0))
    states: list[tuple[DeviceState, int]] = []
    device.listen(lambda changed: states.append((changed.state, changed.blocks)))
    assert (device.state, device.blocks, device.fault()) == (DeviceState.PENDING, 0, right.unready)
    assert read(device, 0, 1) == [right.unready]
    right.unready = None
    device.refresh()
    assert states == [(DeviceState.READY, 110)]
    assert device.fault() is None


def test_why_it_can_not_serve_is_what_its_device_says_now(left: MemoryVolume) -> None:
    left.unready = VolumeError(Fault.BECOMING_READY, "connecting")
    device = virtual_device((left, 0, 0))
    left.unready = VolumeError(Fault.BLOCKED, "another LU is there")
    assert device.fault() == left.unready  # a device that was never ready tells nobody that it is worse now


def test_known_device_that_is_away_fails_only_what_reaches_it(
    device: VirtualDevice, left: MemoryVolume, right: MemoryVolume
) -> None:
    right.unready = VolumeError(Fault.BECOMING_READY, "connecting")
    device.refresh()
    assert (device.state, device.fault(), device.blocks) == (DeviceState.PENDING, right.unready, 20)
    assert read(device, 0, 1) == [bytes(512)]
    assert read(device, 10, 1) == [right.unready]


def test_limits_and_cache_are_those_of_the_most_limited_device(left: MemoryVolume, right: MemoryVolume) -> None:
    left.max_transfer_blocks, right.max_transfer_blocks = 0, 64
    left.write_cache, right.write_cache = False, True
    right.read_only = True
    right.physical_block_exponent = 3
    device = virtual_device((left, 0, 0), (right, 0, 0))
    assert device.max_transfer_blocks == 64
    assert device.write_cache
    assert device.read_only
    assert device.physical_block_exponent == 3


def test_it_can_be_claimed_when_all_of_it_can(left: MemoryVolume, right: MemoryVolume) -> None:
    device = virtual_device((left, 0, 0), (right, 0, 0))
    assert device.claimable
    right.claimable = False
    assert not device.claimable


def test_shared_storage_is_found_by_overlapping_blocks(left: MemoryVolume, right: MemoryVolume) -> None:
    device = virtual_device((left, 0, 10), (right, 0, 10))
    assert device.shares_storage_with(virtual_device((MemoryVolume(8), 0, 0), (right, 9, 5)))
    assert not device.shares_storage_with(virtual_device((left, 10, 10)))


class Gate:
    """Holds writes until opened."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.is_open = is_open
        self.asked: list[tuple[int, int]] = []
        self.waiting: list[Callable[[], None]] = []

    def admit(self, lba: int, blocks: int, go: Callable[[], None]) -> bool:
        self.asked.append((lba, blocks))
        if not self.is_open:
            self.waiting.append(go)
        return self.is_open

    def let_go(self) -> None:
        for go in self.waiting:
            go()


def test_write_waits_for_a_gate_and_reads_do_not(device: VirtualDevice, left: MemoryVolume) -> None:
    gate = Gate()
    device.add_gate(gate)
    results = write(device, 3, b"g" * 1024)
    assert read(device, 3, 1) == [bytes(512)]
    assert (gate.asked, results) == ([(3, 2)], [])
    gate.let_go()
    assert results == [None]
    assert read(device, 3, 1) == [b"g" * 512]


def test_every_gate_is_asked_once_also_one_that_came_meanwhile(device: VirtualDevice) -> None:
    first, second, late = Gate(), Gate(is_open=True), Gate()
    device.add_gate(first)
    device.add_gate(second)
    results = write(device, 3, bytes(512))
    device.add_gate(late)
    first.let_go()
    assert [len(gate.asked) for gate in (first, second, late)] == [1, 1, 1]
    assert not results
    late.let_go()
    assert results == [None]


def test_removed_gate_is_asked_no_more(device: VirtualDevice) -> None:
    gate = Gate()
    device.add_gate(gate)
    device.remove_gate(gate)
    assert write(device, 0, bytes(512)) == [None]
    assert gate.asked == []


class NoPath:
    """Takes the place of an array path that nothing goes over."""


def external_unit(array: str, lun: int, identifier: bytes) -> ExternalLogicalUnit:
    return ExternalLogicalUnit(array, bytes((0, lun)) + bytes(6), identifier, NoPath(), NoPath())  # type: ignore[arg-type] # not used


def over(unit: ExternalLogicalUnit, *, blocks: int = 0, first: int = 0) -> VirtualDevice:
    return VirtualDevice("far", 2, bytes(16), [Region(9, unit, first, learn, blocks=blocks)])


def test_external_lu_becomes_known_when_its_array_connects() -> None:
    unit = external_unit("old", 1, b"")
    device = over(unit)
    states: list[tuple[DeviceState, int]] = []
    device.listen(lambda changed: states.append((changed.state, changed.blocks)))
    assert (device.state, device.blocks) == (DeviceState.PENDING, 0)
    unit.id, unit.blocks, unit.reachable = b"\xbe\xef", 4096, True
    unit.set_ready()
    assert states == [(DeviceState.READY, 4096)]
    assert device.regions[0].external_id == b"\xbe\xef" + bytes(14)
    unit.set_pending("link lost")
    assert states[1:] == [(DeviceState.PENDING, 4096)]
    unit.set_blocked("another id")
    assert device.state is DeviceState.BLOCKED


def test_external_lu_with_another_id_than_recorded_is_not_used() -> None:
    unit = external_unit("old", 1, b"\xca\xfe")
    device = VirtualDevice("far", 2, bytes(16), [Region(9, unit, 0, learn, blocks=8, identifier=b"\xbe\xef")])
    unit.blocks, unit.reachable = 4096, True
    unit.set_ready()
    assert device.state is DeviceState.BLOCKED
    fault = device.fault()
    assert fault is not None
    assert fault.detail == "region 9: the external LU has the id cafe, and had beef"


def test_external_units_are_listed_once() -> None:
    unit = external_unit("old", 1, b"")
    regions = [Region(1, unit, 0, learn, blocks=4), Region(2, unit, 8, learn, blocks=4)]
    assert VirtualDevice("far", 2, bytes(16), regions).external_units() == [unit]


@pytest.mark.parametrize(
    ("one", "two", "shared"),
    [
        (("old", 1, b"x"), ("old", 2, b"x"), True),  # one LU under two LUNs
        (("old", 1, b"x"), ("new", 1, b"x"), False),  # arrays may use the same id
        (("old", 1, b"x"), ("old", 1, b"y"), False),
        (("old", 1, b""), ("old", 1, b"x"), True),  # not known yet: by its place
        (("old", 1, b""), ("old", 2, b""), False),
    ],
)
def test_external_lu_is_the_same_by_array_and_id(
    one: tuple[str, int, bytes], two: tuple[str, int, bytes], shared: bool
) -> None:
    assert over(external_unit(*one)).shares_storage_with(over(external_unit(*two))) is shared


# --- WRITE SAME and UNMAP ---------------------------------------------------------------------------------------------


def unmap(volume: VirtualDevice, lba: int, blocks: int) -> list[VolumeError | None]:
    results: list[VolumeError | None] = []
    volume.unmap(lba, blocks, results.append)
    return results


def write_same(volume: VirtualDevice, lba: int, block: Buffer, blocks: int) -> list[VolumeError | None]:
    results: list[VolumeError | None] = []
    volume.write_same(lba, block, blocks, results.append)
    return results


def allocation(volume: VirtualDevice, lba: int, blocks: int) -> list[object]:
    results: list[object] = []
    volume.allocation(lba, blocks, results.append)
    return results


def test_unmap_and_write_same_are_cut_at_the_regions(
    device: VirtualDevice, left: MemoryVolume, right: MemoryVolume
) -> None:
    assert unmap(device, 8, 4) == [None]
    assert write_same(device, 9, b"s" * 512, 11) == [None]
    assert left.operations() == ["unmap 58+2", "write 59+1"]
    assert right.operations() == ["unmap 5+2", "write 5+10"]
    assert read(device, 8, 12) == [bytes(512) + b"s" * 512 * 11]


def test_one_region_that_fails_fails_them_with_the_block_as_the_host_numbers_it(
    device: VirtualDevice, right: MemoryVolume
) -> None:
    right.fail("write", Fault.NO_SPACE, lba=6)
    for results in (unmap(device, 0, 20), write_same(device, 0, bytes(512), 20)):
        (error,) = results
        assert error is not None
        assert (error.fault, error.lba) == (Fault.NO_SPACE, 11)


def test_a_device_that_does_not_serve_unmaps_nothing(device: VirtualDevice, left: MemoryVolume) -> None:
    left.unready = VolumeError(Fault.BLOCKED, "gone")
    assert unmap(device, 0, 20) == [left.unready]
    assert unmap(device, 10, 5) == [None]


def test_what_has_storage_is_said_to_the_end_of_a_region(
    device: VirtualDevice, left: MemoryVolume, right: MemoryVolume
) -> None:
    left.deallocation = right.deallocation = Deallocation(1)
    assert unmap(device, 8, 4) == [None]
    assert allocation(device, 5, 15) == [[Allocation(3, True), Allocation(2, False)]]
    assert allocation(device, 11, 3) == [[Allocation(1, False), Allocation(2, True)]]
    right.unready = VolumeError(Fault.BLOCKED, "gone", 9)
    (error,) = allocation(device, 11, 3)
    assert isinstance(error, VolumeError)
    assert (error.fault, error.lba) == (Fault.BLOCKED, 14)


@pytest.mark.parametrize(
    ("left_pieces", "right_pieces", "whole"),
    [
        (None, None, None),
        (Deallocation(4), None, Deallocation(4, 2)),  # the region begins at block 50 of its device
        (None, Deallocation(4), Deallocation(4, 1)),  # block 10 is block 5 of the other
        (Deallocation(8, 4), Deallocation(4), Deallocation(8)),  # they do not agree
        (Deallocation(4), Deallocation(4, 3), Deallocation(4, 0)),
        (Deallocation(5), Deallocation(5), Deallocation(5)),
        (Deallocation(1), Deallocation(1), Deallocation(1)),
    ],
)
def test_it_gives_back_what_any_region_does_in_the_largest_pieces(
    device: VirtualDevice,
    left: MemoryVolume,
    right: MemoryVolume,
    left_pieces: Deallocation | None,
    right_pieces: Deallocation | None,
    whole: Deallocation | None,
) -> None:
    left.deallocation, right.deallocation = left_pieces, right_pieces
    device.refresh()
    assert device.deallocation == whole


class RefusingGate:
    """Lets nothing pass until it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.waiting: list[Callable[[], None]] = []

    def admit(self, lba: int, blocks: int, go: Callable[[], None]) -> bool:
        self.asked.append((lba, blocks))
        self.waiting.append(go)
        return False


@pytest.mark.parametrize("operate", [unmap, lambda volume, lba, blocks: write_same(volume, lba, b"s" * 512, blocks)])
def test_unmap_and_write_same_ask_the_gates(
    operate: Callable[[VirtualDevice, int, int], list[VolumeError | None]], left: MemoryVolume
) -> None:
    device = virtual_device((left, 0, 0))
    gate, later = RefusingGate(), RefusingGate()
    device.add_gate(gate)
    results = operate(device, 5, 20)
    assert (results, gate.asked) == ([], [(5, 20)])
    device.add_gate(later)  # one that came meanwhile is asked too
    gate.waiting.pop()()
    assert (results, later.asked) == ([], [(5, 20)])
    assert left.operations() == []
    later.waiting.pop()()
    assert results == [None]
    assert len(left.operations()) == 1
