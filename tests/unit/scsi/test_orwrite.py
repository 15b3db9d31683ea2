"""ORWRITE (16) and (32): bits that are set, bits that are cleared with a change of generation, and who is too late."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from scsi.task_management import Function
from scsi.volume import Fault
from tests.support import commands as c
from tests.support.memory_volume import MemoryVolume

BLOCK = 512
BLOCKS = 64
OTHER_GENERATION = "05/2C/0C"
SET, CLEAR = 0, 1
POLICIES = (0x0, 0x2, 0x3, 0x5, 0x7)
FOUND, SENT = b"\x0f" * BLOCK, b"\x33" * BLOCK
ORED, ANDED = b"\x3f" * BLOCK, b"\x03" * BLOCK


@pytest.fixture
def volume() -> MemoryVolume:
    volume = MemoryVolume(BLOCKS, BLOCK, write_cache=True)
    volume.data[:] = FOUND * BLOCKS
    return volume


@pytest.fixture
def unit(volume: MemoryVolume) -> LogicalUnit:
    return LogicalUnit(volume, c.NAA)


@pytest.fixture
def host(unit: LogicalUnit) -> c.Host:
    return c.Host(TargetPort(), unit)


def orwrite_16(lba: int, blocks: int, flags: int = 0) -> bytes:
    return c.blocks_16(0x8B, lba, blocks, flags)


def orwrite_32(
    lba: int, blocks: int, flags: int = 0, *, operation: int = SET, policy: int = 0, expected: int = 0, new: int = 0
) -> bytes:
    return struct.pack(">4B3xBHBxQ3I", 0x7F, 0, operation, policy, 0x18, 0x000E, flags, lba, expected, new, blocks)


def block(volume: MemoryVolume, lba: int) -> bytes:
    return bytes(volume.data[lba * BLOCK : (lba + 1) * BLOCK])


@pytest.mark.parametrize("cdb", [orwrite_16(5, 2, c.FUA), orwrite_32(5, 2, c.FUA)], ids=["16", "32"])
def test_it_sets_bits_and_clears_none(host: c.Host, volume: MemoryVolume, cdb: bytes) -> None:
    assert host.send(cdb, 2 * SENT).outcome == "GOOD"
    assert [block(volume, lba) for lba in range(4, 8)] == [FOUND, ORED, ORED, FOUND]
    assert volume.operations() == ["read 5+2", "write 5+2 fua"]


@pytest.mark.parametrize("cdb", [orwrite_16(0, 3), orwrite_32(0, 3)], ids=["16", "32"])
def test_of_less_data_it_takes_the_blocks_that_are_there(host: c.Host, volume: MemoryVolume, cdb: bytes) -> None:
    answer = host.send(cdb, SENT)
    assert (answer.outcome, answer.ended.data_out_used) == ("GOOD", 3 * BLOCK)
    assert volume.operations() == ["read 0+1", "write 0+1"]
    assert host.send(cdb, bytes(BLOCK + 1)).outcome == "05/0E/03"


@pytest.mark.parametrize("cdb", [orwrite_16(BLOCKS, 0), orwrite_32(BLOCKS, 0)], ids=["16", "32"])
def test_of_no_blocks_it_does_nothing(host: c.Host, volume: MemoryVolume, cdb: bytes) -> None:
    assert host.send(cdb).outcome == "GOOD"
    assert volume.operations() == []


@pytest.mark.parametrize("cdb", [orwrite_16(BLOCKS - 1, 2), orwrite_32(BLOCKS - 1, 2)], ids=["16", "32"])
def test_blocks_past_the_end_are_refused(host: c.Host, cdb: bytes) -> None:
    answer = host.send(cdb, 2 * SENT)
    assert (answer.outcome, answer.sense.information) == ("05/21/00", BLOCKS)


def test_clearing_writes_what_both_have_and_begins_a_generation(host: c.Host, volume: MemoryVolume) -> None:
    assert host.send(orwrite_32(5, 1, c.FUA, operation=CLEAR, policy=7, new=9), SENT).outcome == "GOOD"
    assert [block(volume, lba) for lba in (4, 5, 6)] == [FOUND, ANDED, FOUND]
    assert volume.operations() == ["read 5+1", "write 5+1 fua"]
    assert host.send(orwrite_32(6, 1, expected=9), SENT).outcome == "GOOD"
    for late in (orwrite_32(7, 1, expected=0), orwrite_16(7, 1), orwrite_32(7, 1, operation=CLEAR, policy=3, new=4)):
        answer = host.send(late, SENT)
        assert (answer.outcome, answer.ended.data_out_used) == (OTHER_GENERATION, BLOCK)
    assert [block(volume, lba) for lba in (6, 7)] == [ORED, FOUND]


def test_a_generation_is_begun_without_blocks_too(host: c.Host) -> None:
    assert host.send(orwrite_32(0, 0, operation=CLEAR, policy=7, new=1)).outcome == "GOOD"
    assert host.send(orwrite_16(0, 1), SENT).outcome == OTHER_GENERATION


# Of the standard's table: what is done (P), thrown away (D) and refused (R) when the previous generation is expected,
# and when one is that is neither that nor the current one.
@pytest.mark.parametrize(
    ("policy", "previous", "other"),
    [(0x0, "P", "R"), (0x2, "D", "R"), (0x3, "P", "P"), (0x5, "D", "D"), (0x7, "R", "R")],
)
def test_what_is_late_is_done_or_thrown_away_or_refused_by_the_policy_that_was_chosen(
    host: c.Host, volume: MemoryVolume, policy: int, previous: str, other: str
) -> None:
    assert (
        host.send(orwrite_32(0, 1, operation=CLEAR, policy=policy, expected=0, new=5), b"\xff" * BLOCK).outcome
        == "GOOD"
    )
    for lba, (expected, wanted) in enumerate([(5, "P"), (0, previous), (4, other), (2**32 - 1, other)]):
        answer = host.send(orwrite_32(lba, 1, expected=expected), SENT)
        assert answer.outcome == (OTHER_GENERATION if wanted == "R" else "GOOD")
        assert block(volume, lba) == (ORED if wanted == "P" else FOUND)


def test_what_is_thrown_away_is_taken_whole(host: c.Host, volume: MemoryVolume) -> None:
    host.send(orwrite_32(0, 0, operation=CLEAR, policy=5, new=5))
    answer = host.send(orwrite_16(0, 2), 2 * SENT)
    assert (answer.outcome, answer.ended.data_out_used) == ("GOOD", 2 * BLOCK)
    assert volume.operations() == []


def test_reserved_operations_and_policies_are_refused(host: c.Host) -> None:
    for operation in range(2, 8):
        assert host.send(orwrite_32(0, 1, operation=operation), SENT).sense.field == (2, 2, True)
    for policy in set(range(16)) - set(POLICIES):
        assert host.send(orwrite_32(0, 1, operation=CLEAR, policy=policy), SENT).sense.field == (3, 3, True)
        assert host.send(orwrite_32(0, 1, policy=policy, new=77), SENT).outcome == "GOOD", "means nothing then"
    assert host.send(orwrite_16(0, 1), SENT).outcome == "GOOD", "nothing has changed the generation"


def test_a_change_that_fails_begins_no_generation(host: c.Host, volume: MemoryVolume) -> None:
    change = orwrite_32(0, 1, operation=CLEAR, policy=7, new=5)
    for operation in ("read", "write"):
        volume.fail(operation, Fault.HARDWARE)
        assert host.send(change, SENT).outcome == "04/44/00"
        volume.heal()
    assert host.send(change, SENT).outcome == "GOOD"


@pytest.mark.parametrize("function", [Function.TARGET_WARM_RESET, Function.TARGET_COLD_RESET])
def test_a_reset_of_the_target_begins_again_with_generation_0(host: c.Host, function: Function) -> None:
    host.send(orwrite_32(0, 0, operation=CLEAR, policy=3, new=5))
    host.manage(function)
    host.nexus.attentions.clear()
    assert host.send(orwrite_16(0, 1), SENT).outcome == "GOOD"
    assert host.send(orwrite_32(0, 1, expected=5), SENT).outcome == OTHER_GENERATION


def test_a_logical_unit_reset_leaves_the_generation_as_it_is(host: c.Host) -> None:
    host.send(orwrite_32(0, 0, operation=CLEAR, policy=7, new=5))
    host.manage(Function.LOGICAL_UNIT_RESET)
    host.nexus.attentions.clear()
    assert host.send(orwrite_16(0, 1), SENT).outcome == OTHER_GENERATION
    assert host.send(orwrite_32(0, 1, expected=5), SENT).outcome == "GOOD"


def test_a_change_of_generation_has_the_unit_for_itself(host: c.Host, volume: MemoryVolume) -> None:
    volume.hold = True
    before = host.send(orwrite_16(40, 1), SENT)
    changes = [host.send(orwrite_32(lba, 1, operation=CLEAR, policy=7, new=lba), SENT) for lba in (1, 2)]
    after = host.send(orwrite_16(41, 1), SENT)
    read = host.send(c.read_10(63, 1))
    assert volume.operations() == ["read 40+1"]
    volume.release_all()
    assert (before.outcome, changes[0].outcome, changes[1].outcome) == ("GOOD", "GOOD", OTHER_GENERATION)
    assert (after.outcome, read.outcome) == (OTHER_GENERATION, "GOOD")


@given(
    st.lists(st.tuples(st.sampled_from([SET, CLEAR]), st.sampled_from(POLICIES), st.integers(0, 2), st.integers(0, 2)))
)
def test_any_sequence_leaves_the_bits_of_a_model(steps: list[tuple[int, int, int, int]]) -> None:
    volume = MemoryVolume(1, BLOCK)
    host = c.Host(TargetPort(), LogicalUnit(volume, c.NAA))
    bits, current, previous, late = 0, 0, 0, "RR"
    words = dict(zip(POLICIES, ("PR", "DR", "PP", "DD", "RR"), strict=True))
    for number, (operation, policy, expected, new) in enumerate(steps):
        mask = 1 << number % 8
        data = bytes((mask if operation == SET else ~mask & 0xFF,)) * BLOCK
        cdb = orwrite_32(0, 1, operation=operation, policy=policy, expected=expected, new=new)
        too_late = "R" if operation == CLEAR else late[expected != previous]
        action = "P" if expected == current else too_late
        assert host.send(cdb, data).outcome == (OTHER_GENERATION if action == "R" else "GOOD")
        if action == "P":
            bits = bits | mask if operation == SET else bits & ~mask
            if operation == CLEAR:
                current, previous, late = new, current, words[policy]
        assert bytes(volume.data) == bytes((bits,)) * BLOCK
