from collections.abc import Callable

import pytest

from scsi.logical_unit import LogicalUnit
from scsi.prefetch import MOST_BYTES
from scsi.target import TargetPort
from scsi.volume import Fault, VolumeError
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

BLOCK = 512
BLOCKS = 2 * MOST_BYTES // BLOCK
IMMED = 0x02
MET = "CONDITION MET"
PREFETCHES: dict[str, tuple[Callable[..., bytes], int]] = {"10": (c.blocks_10, 0x34), "16": (c.blocks_16, 0x90)}


@pytest.fixture(scope="module")
def whole() -> MemoryVolume:
    return MemoryVolume(BLOCKS, BLOCK)


@pytest.fixture
def volume(whole: MemoryVolume) -> MemoryVolume:
    whole.journal.clear()
    whole.held.clear()
    whole.heal()
    whole.hold = False
    whole.unready = None
    return whole


@pytest.fixture
def host(volume: MemoryVolume) -> c.Host:
    return c.Host(TargetPort(), LogicalUnit(volume, c.NAA))


@pytest.mark.parametrize("size", PREFETCHES)
def test_blocks_are_read_and_the_data_goes_nowhere(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode = PREFETCHES[size]
    answer = host.send(encode(opcode, 7, 3000))
    assert (answer.outcome, answer.ended.data_in) == (MET, b"")
    assert volume.operations() == ["read 7+2048", "read 2055+952"]


@pytest.mark.parametrize("size", PREFETCHES)
def test_with_immed_the_status_comes_first(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode = PREFETCHES[size]
    volume.hold = True
    assert host.send(encode(opcode, 7, 1, IMMED)).outcome == MET
    assert host.send(encode(opcode, 0, 0, IMMED)).outcome == "GOOD", "more than fits"
    assert volume.operations()[:2] == ["read 7+1", "read 0+2048"]
    volume.release_all()
    assert sum(operation.blocks for operation in volume.journal) == 1 + MOST_BYTES // BLOCK
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"


@pytest.mark.parametrize("size", PREFETCHES)
def test_with_immed_a_block_that_can_not_be_read_is_a_deferred_error(
    host: c.Host, volume: MemoryVolume, size: str
) -> None:
    encode, opcode = PREFETCHES[size]
    volume.hold = True
    assert host.send(encode(opcode, 7, 1, IMMED)).outcome == MET
    volume.release(error=VolumeError(Fault.READ_ERROR, lba=7))
    answer = host.send(c.TEST_UNIT_READY)
    assert (answer.outcome, answer.sense.information, answer.sense.deferred) == ("03/11/00", 7, True)
    assert host.send(c.TEST_UNIT_READY).outcome == "GOOD"


@pytest.mark.parametrize("size", PREFETCHES)
def test_no_length_means_to_the_end_and_more_than_is_read_is_good_only(
    host: c.Host, volume: MemoryVolume, size: str
) -> None:
    encode, opcode = PREFETCHES[size]
    assert host.send(encode(opcode, BLOCKS - 5, 0)).outcome == MET
    assert volume.operations() == [f"read {BLOCKS - 5}+5"]
    assert host.send(encode(opcode, 0, 0)).outcome == "GOOD"
    assert sum(operation.blocks for operation in volume.journal) == 5 + MOST_BYTES // BLOCK
    assert host.send(encode(opcode, BLOCKS, 0)).outcome == MET


@pytest.mark.parametrize("size", PREFETCHES)
def test_blocks_past_the_end_are_refused(host: c.Host, volume: MemoryVolume, size: str) -> None:
    encode, opcode = PREFETCHES[size]
    for lba, blocks in ((BLOCKS, 1), (BLOCKS + 1, 0), (BLOCKS - 1, 2), (2**32 - 1, 0)):
        answer = host.send(encode(opcode, lba, blocks))
        assert answer.outcome == "05/21/00"
        assert answer.sense.information == max(lba, BLOCKS)
    assert volume.operations() == []


def test_a_block_that_can_not_be_read_is_told_without_immed(host: c.Host, volume: MemoryVolume) -> None:
    volume.fail("read", Fault.READ_ERROR, lba=3)
    answer = host.send(c.blocks_10(0x34, 0, 8))
    assert (answer.outcome, answer.sense.information) == ("03/11/00", 3)


def test_a_unit_that_is_not_ready_says_so(host: c.Host, volume: MemoryVolume) -> None:
    volume.unready = VolumeError(Fault.BECOMING_READY)
    assert host.send(c.blocks_10(0x34, 0, 8, IMMED)).outcome == "02/04/01"
    volume.unready = None
