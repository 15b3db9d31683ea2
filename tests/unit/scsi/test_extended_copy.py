import struct
from collections.abc import Callable

import pytest

from scsi.copy_manager import PIECE_BYTES
from scsi.logical_unit import LogicalUnit
from scsi.nexus import MappedUnit
from scsi.status import Status
from scsi.target import TargetPort
from scsi.task_management import Function
from scsi.volume import Fault, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

SOURCE, DESTINATION, FOREIGN = (bytes.fromhex(f"600000000000000000000000000000{n:02d}") for n in (1, 2, 3))
BLOCKS = 8192
GOOD = "GOOD"
NOT_REACHABLE = "0A/0D/02"


class Two:
    """A host with two logical units, and another with a third one that the first does not see."""

    def __init__(self, *, read_only: bool = False) -> None:
        self.port = TargetPort()
        self.from_volume, self.to_volume, self.foreign_volume = (MemoryVolume(BLOCKS) for _ in range(3))
        self.from_volume.data[:] = b"".join(number.to_bytes(4, "big") * 128 for number in range(BLOCKS))
        self.source = LogicalUnit(self.from_volume, SOURCE)
        self.destination = LogicalUnit(self.to_volume, DESTINATION)
        self.foreign = LogicalUnit(self.foreign_volume, FOREIGN)
        luns = {c.lun(0): MappedUnit(self.source), c.lun(1): MappedUnit(self.destination, read_only)}
        self.host = c.Host(self.port, luns)
        self.other = c.Host(
            self.port,
            {c.lun(0): MappedUnit(self.destination), c.lun(1): MappedUnit(self.foreign)},
            name="iqn.2026-11.org.example:other",
        )

    def copy(self, *segments: bytes, units: tuple[bytes, ...] = (SOURCE, DESTINATION), **how: int) -> c.FakeCommand:
        data = parameter_list([cscd(naa) for naa in units], segments, **how)
        return self.host.send(copy_cdb(len(data)), data)


@pytest.fixture
def two() -> Two:
    return Two()


def copy_cdb(length: int) -> bytes:
    return struct.pack(">BB8xI", 0x83, 0, length)


def results_cdb(action: int, identifier: int = 0, allocation: int = 255) -> bytes:
    return struct.pack(">BBB7xI", 0x84, action, identifier, allocation)


def cscd(naa: bytes, *, kind: int = 0xE4, how: int = 0) -> bytes:
    return struct.pack(">BBHBBBB", kind, how, 0, 1, 3, 0, len(naa)) + naa.ljust(20, b"\0") + struct.pack(">I", 512)


def segment(
    lba: int, to_lba: int, blocks: int, *, source: int = 0, destination: int = 1, kind: int = 2, flags: int = 0
) -> bytes:
    return struct.pack(">BBHHH2xHQQ", kind, flags, 24, source, destination, blocks, lba, to_lba)


def parameter_list(
    cscds: list[bytes], segments: tuple[bytes, ...], *, identifier: int = 1, usage: int = 0, inline: int = 0
) -> bytes:
    named, wanted = b"".join(cscds), b"".join(segments)
    return struct.pack(">BBH4xII", identifier, usage << 3, len(named), len(wanted), inline) + named + wanted


def test_blocks_are_copied_between_units_and_within_one(two: Two) -> None:
    assert two.copy(segment(8, 100, 16), segment(0, 4000, 8, destination=0)).outcome == GOOD
    assert two.to_volume.data[100 * 512 : 116 * 512] == two.from_volume.data[8 * 512 : 24 * 512]
    assert two.from_volume.data[4000 * 512 : 4008 * 512] == two.from_volume.data[: 8 * 512]
    assert not any(two.to_volume.data[: 100 * 512])
    assert not any(two.to_volume.data[116 * 512 :])


def test_a_long_segment_is_copied_in_pieces(two: Two) -> None:
    assert two.copy(segment(0, 0, BLOCKS)).outcome == GOOD
    assert two.to_volume.data == two.from_volume.data
    assert two.to_volume.operations()[0] == f"write 0+{PIECE_BYTES // 512}"
    assert len(two.to_volume.operations()) == BLOCKS * 512 // PIECE_BYTES


def test_a_copy_of_nothing_is_done(two: Two) -> None:
    assert two.host.send(copy_cdb(0)).outcome == GOOD
    assert two.copy(segment(0, 0, 0)).outcome == GOOD
    assert two.copy().outcome == GOOD
    assert two.to_volume.journal == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_v03_any_number_of_units_may_be_named(two: Two, count: int) -> None:
    units = (SOURCE, DESTINATION, SOURCE)[:count]
    wanted = {0: NOT_REACHABLE, 1: NOT_REACHABLE, 3: GOOD}[count]
    assert two.copy(segment(0, 0, 8), units=units).outcome == wanted
    assert bool(two.to_volume.journal) == (wanted == GOOD)


@pytest.mark.parametrize("inline", [1, 16, 0xFFFFFFFF])
def test_v03_data_of_its_own_is_refused(two: Two, inline: int) -> None:
    assert two.copy(segment(0, 0, 8), inline=inline).outcome == "05/26/0B"
    assert two.to_volume.journal == []


def test_v01_a_unit_that_the_host_does_not_see_can_not_be_copied_to_or_from(two: Two) -> None:
    for wanted in (segment(0, 0, 8), segment(0, 0, 8, source=1, destination=0)):
        assert two.copy(wanted, units=(SOURCE, FOREIGN)).outcome == NOT_REACHABLE
    assert two.from_volume.journal == two.foreign_volume.journal == []


@pytest.mark.parametrize("code_set", range(16))
@pytest.mark.parametrize("kind", range(16))
def test_v02_no_other_way_of_naming_it_reaches_a_foreign_unit(two: Two, code_set: int, kind: int) -> None:
    for value in (FOREIGN, FOREIGN.hex().encode()[:20], b"ANNEX   " + FOREIGN[:12], b"\0\1" + bytes(6)):
        named = struct.pack(">BBHBBBB", 0xE4, 0, 0, code_set, kind, 0, len(value)) + value.ljust(20, b"\0") + bytes(4)
        data = parameter_list([named], (segment(0, 0, 8, destination=0),))
        assert two.host.send(copy_cdb(len(data)), data).outcome == NOT_REACHABLE
    assert two.foreign_volume.journal == []


def test_v01_a_unit_taken_from_the_host_while_it_copies_is_copied_to_no_more(two: Two) -> None:
    two.to_volume.hold = True
    copy = two.copy(segment(0, 0, BLOCKS))
    two.port.remap(two.host.nexus, {c.lun(0): MappedUnit(two.source)})
    two.to_volume.release()
    assert copy.outcome == NOT_REACHABLE
    assert len(two.to_volume.journal) == 1


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (lambda data: data[:20], "05/1A/00"),
        (lambda data: data[:15], "05/1A/00"),
        (lambda data: data[:-1], "05/1A/00"),
        (lambda data: data[:1] + b"\x08" + data[2:], "05/26/00"),  # LIST ID USAGE 1
        (lambda data: data[:1] + b"\x18" + data[2:], "05/26/00"),  # no identifier, and one
        (lambda data: data[:16] + b"\xe0" + data[17:], "05/26/07"),
        (lambda data: data[:17] + b"\x01" + data[18:], "05/26/07"),  # a tape
        (lambda data: data[:17] + b"\x20" + data[18:], NOT_REACHABLE),  # NUL
        (lambda data: data[:23] + b"\x15" + data[24:], "05/26/00"),  # a designator of 21 bytes
        (lambda data: data[:80] + b"\x00" + data[81:], "05/26/09"),
        (lambda data: data[:81] + b"\x80" + data[82:], "05/26/00"),
        (lambda data: data[:83] + b"\x17" + data[84:], "05/26/00"),
    ],
)
def test_a_bad_parameter_list_is_refused_and_nothing_copied(
    two: Two, change: Callable[[bytes], bytes], outcome: str
) -> None:
    data = change(parameter_list([cscd(SOURCE), cscd(DESTINATION)], (segment(0, 0, 8),)))
    assert two.host.send(copy_cdb(len(data)), data).outcome == outcome
    assert two.to_volume.journal == []


def test_the_type_of_a_lun_means_nothing_where_a_designator_names_the_unit(two: Two) -> None:
    data = parameter_list([cscd(SOURCE, how=0xC0), cscd(DESTINATION)], (segment(0, 0, 8),))
    assert two.host.send(copy_cdb(len(data)), data).outcome == GOOD


def test_more_than_it_says_is_refused(two: Two) -> None:
    assert two.copy(*[segment(0, 0, 1)] * 257, units=(SOURCE,) * 65).outcome == "05/1A/00"
    assert two.copy(*[segment(0, 0, 1)] * 257).outcome == "05/26/08"
    assert two.copy(segment(0, 0, 1), units=(SOURCE,) * 65).outcome == "05/26/06"
    assert two.copy(*[segment(0, 0, 1)] * 256, units=(DESTINATION,) * 64).outcome == GOOD


@pytest.mark.parametrize(("lba", "to_lba"), [(BLOCKS - 7, 0), (0, BLOCKS - 7), (1 << 63, 0), (0, (1 << 64) - 1)])
def test_a_segment_past_the_end_is_not_begun(two: Two, lba: int, to_lba: int) -> None:
    assert two.copy(segment(0, 0, 8), segment(lba, to_lba, 8)).outcome == "0A/00/00"
    assert two.to_volume.operations() == ["write 0+8"], "the one before it was"


def test_a_read_only_destination_is_not_written(two: Two) -> None:
    two = Two(read_only=True)
    assert two.copy(segment(0, 0, 8)).outcome == "0A/0D/01"
    assert two.to_volume.journal == []


def test_a_reservation_of_another_host_holds_for_copies_too(two: Two) -> None:
    two.other.send(c.RESERVE_6)
    assert two.copy(segment(0, 0, 8)).outcome == "0A/0D/01"
    assert two.to_volume.journal == []
    two.other.send(c.RELEASE_6)
    assert two.copy(segment(0, 0, 8)).outcome == GOOD


def test_unit_attentions_are_left_for_the_host(two: Two) -> None:
    two.destination.establish_unit_attention(0x2A, 0x09)
    assert two.copy(segment(0, 0, 8)).outcome == GOOD
    assert two.host.send(bytes(6), lun=c.lun(1)).outcome == "06/2A/09"


def test_a_copy_waits_while_a_unit_is_drained(two: Two) -> None:
    drained = []
    two.destination.drain(lambda: drained.append(True))
    copy = two.copy(segment(0, 0, 8))
    assert drained == [True]
    assert (copy.answer, two.to_volume.journal) == (None, [])
    two.destination.resume()
    assert copy.outcome == GOOD


def test_a_drain_waits_for_the_piece_under_way_and_not_for_the_copy(two: Two) -> None:
    two.to_volume.hold = True
    copy = two.copy(segment(0, 0, BLOCKS))
    drained = []
    two.destination.drain(lambda: drained.append(True))
    assert drained == []
    two.to_volume.release()
    assert drained == [True]
    assert copy.answer is None
    two.to_volume.hold = False
    two.destination.resume()
    assert copy.outcome == GOOD
    assert two.to_volume.data == two.from_volume.data


def test_an_ordered_copy_does_not_wait_for_itself(two: Two) -> None:
    data = parameter_list([cscd(SOURCE)], (segment(0, 4000, 8, destination=0),))
    assert two.host.send(copy_cdb(len(data)), data, attribute=2).outcome == GOOD


def test_an_aborted_copy_stops_after_the_piece_under_way(two: Two) -> None:
    two.to_volume.hold = True
    copy = two.copy(segment(0, 0, BLOCKS))
    two.host.manage(Function.ABORT_TASK, copy)
    two.to_volume.release_all()
    assert copy.status == Status.TASK_ABORTED
    assert len(two.to_volume.journal) == 1
    assert (two.source.queue, two.destination.queue) == (0, 0)


def test_a_host_that_is_lost_stops_its_copy(two: Two) -> None:
    two.to_volume.hold = True
    two.copy(segment(0, 0, BLOCKS))
    two.host.leave()
    two.to_volume.release_all()
    assert len(two.to_volume.journal) == 1
    assert (two.source.queue, two.destination.queue) == (0, 0)


@pytest.mark.parametrize("operation", ["read", "write"])
def test_a_fault_of_either_side_ends_the_copy_and_is_told(two: Two, operation: str) -> None:
    volume = two.from_volume if operation == "read" else two.to_volume
    volume.fail(operation, Fault.HARDWARE, first_lba=2048, blocks=1)
    assert two.copy(segment(0, 0, BLOCKS), identifier=7).outcome == "0A/0D/01"
    details = two.host.send(results_cdb(4, 7)).data
    assert int.from_bytes(details[:4], "big") == len(details) - 4
    assert details[56] == Status.CHECK_CONDITION
    sense = details[60:]
    assert (sense[2], sense[12], sense[13]) == (0x0A, 0x0D, 0x01)
    assert two.host.send(results_cdb(4, 7)).outcome == "05/24/00", "told once"


def test_how_far_a_copy_is_and_how_it_went_is_told_to_who_asked_for_it(two: Two) -> None:
    two.to_volume.hold = True
    copy = two.copy(segment(0, 0, 8), segment(0, 0, BLOCKS), identifier=9)
    two.to_volume.release()
    data = two.host.send(results_cdb(0, 9)).data
    assert data == struct.pack(">IBHBI", 8, 0, 1, 1, 4)
    assert two.copy(segment(0, 0, 8), identifier=9).outcome == "05/00/16"
    assert two.other.send(results_cdb(0, 9), lun=c.lun(1)).outcome == "05/24/00"
    two.to_volume.hold = False
    two.to_volume.release_all()
    assert copy.outcome == GOOD
    assert two.host.send(results_cdb(0, 9)).data == struct.pack(">IBHBI", 8, 1, 2, 1, 4 + BLOCKS // 2)
    assert two.host.send(results_cdb(0, 9)).outcome == "05/24/00"


def test_a_copy_without_an_identifier_has_no_result(two: Two) -> None:
    assert two.copy(segment(0, 0, 8), identifier=0, usage=3).outcome == GOOD
    assert two.host.send(results_cdb(0, 0)).outcome == "05/24/00"


def test_results_are_bounded_and_go_with_the_host(two: Two) -> None:
    for identifier in range(20):
        assert two.copy(segment(0, 0, 1), identifier=identifier).outcome == GOOD
    assert two.host.send(results_cdb(0, 3)).outcome == "05/24/00", "the oldest of more than 16"
    assert two.host.send(results_cdb(0, 4)).outcome == GOOD
    two.host.leave()
    assert two.source.copy_manager.take_result(two.host.nexus, 19) is None


def test_what_may_be_asked_for_is_told(two: Two) -> None:
    data = two.host.send(results_cdb(3)).data
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert struct.unpack_from(">HHI", data, 8) == (64, 256, 64 * 32 + 256 * 28)
    assert data[43] == 2
    assert data[44:] == b"\x02\xe4"


def test_units_with_blocks_of_different_length_are_not_copied(two: Two) -> None:
    other = LogicalUnit(MemoryVolume(1024, block_bytes=4096), FOREIGN)
    two.port.remap(two.host.nexus, two.host.nexus.lun_map | {c.lun(2): MappedUnit(other)})
    two.host.nexus.attentions.clear()
    assert two.copy(segment(0, 0, 8), units=(SOURCE, FOREIGN)).outcome == "0A/00/00"


def test_a_unit_that_is_not_ready_fails_the_copy(two: Two) -> None:
    two.to_volume.unready = VolumeError(Fault.BECOMING_READY)
    assert two.copy(segment(0, 0, 8)).outcome == "0A/0D/01"
