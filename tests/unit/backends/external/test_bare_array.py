"""An external LU that knows next to nothing: what hosts are told it can do, it does; annex makes up for the rest."""

from __future__ import annotations

import random

import pytest

from scsi.command_set import COMMANDS
from scsi.commands import Medium
from scsi.logical_unit import LogicalUnit
from scsi.target import TargetPort
from tests.support import commands as c
from tests.support.fake_array import FakeUnit, Rig, check
from tests.support.writing_commands import AREA_BLOCKS, BLOCK, MAKERS, SANITIZES

BLOCKS = 2048
NOT_KNOWN = check(5, 0x20, 0)
# TEST UNIT READY, INQUIRY, READ CAPACITY (10), READ (10), WRITE (10), and no cache to be flushed.
UNKNOWN = (0x16, 0x17, 0x1A, 0x35, 0x41, 0x42, 0x5A, 0x88, 0x8A, 0x91, 0x93, 0x9E, 0xA3)
# What needs others to be kept out, blocks that can be unmapped, or a place to write down what is under way.
NOT_THERE = {
    "COMPARE AND WRITE", "ORWRITE (16)", "ORWRITE (32)", "UNMAP", "SANITIZE (BLOCK ERASE)", "WRITE ATOMIC (16)",
}  # fmt: skip
REFUSED = {"05/20/00", "05/24/00"}
ORDERS = MAKERS | {name: of_size(BLOCKS) for name, of_size in SANITIZES.items()}
READS = {
    "READ (6)": bytes((0x08, 0, 0, 7, 3, 0)),
    "READ (10)": c.blocks_10(0x28, 7, 3),
    "READ (12)": c.blocks_12(0xA8, 7, 3),
    "READ (16)": c.blocks_16(0x88, 7, 3),
    "READ (32)": c.blocks_32(0x0009, 7, 3),
    "VERIFY (10)": c.blocks_10(0x2F, 7, 3),
    "VERIFY (12)": c.blocks_12(0xAF, 7, 3),
    "VERIFY (16)": c.blocks_16(0x8F, 7, 3),
    "VERIFY (32)": c.blocks_32(0x000A, 7, 3),
    "PRE-FETCH (10)": c.blocks_10(0x34, 7, 3),
    "PRE-FETCH (16)": c.blocks_16(0x90, 7, 3),
    "SYNCHRONIZE CACHE (10)": c.blocks_10(0x35, 0, 0),
    "SYNCHRONIZE CACHE (16)": c.blocks_16(0x91, 0, 0),
    "START STOP UNIT": c.start_stop_unit(0),
    "GET LBA STATUS (16)": bytes.fromhex("9e12 0000000000000000 00000100 0000"),
    "GET LBA STATUS (32)": bytes.fromhex("7f 00000000000018 0012 0000 0000000000000000 00000000 00000000 00000100"),
}


class Bench:
    """A host, a logical unit that is all of the LU, and the array."""

    def __init__(self) -> None:
        self.rig = Rig(FakeUnit(blocks=BLOCKS, always=dict.fromkeys(UNKNOWN, NOT_KNOWN)))
        self.host = c.Host(TargetPort(), LogicalUnit(self.rig.unit, c.NAA))

    def send(self, cdb: bytes, data: bytes = b"") -> str:
        command = self.host.send(cdb, data)
        self.rig.clock.run_until_idle()
        return command.outcome

    def supported(self, name: str) -> bool:
        row = next(row for row in COMMANDS.rows if row.name == name)
        one = self.host.send(c.report_opcodes(3, *row.key)).data
        return one[1] & 0x07 == 0x03


@pytest.mark.parametrize("name", ORDERS)
def test_what_a_host_is_told_that_it_can_write_with_writes_and_what_not_is_refused(name: str) -> None:
    bench = Bench()
    rng = random.Random(3)
    lba, found = 1000, rng.randbytes(AREA_BLOCKS * BLOCK)
    bench.rig.lu.data[lba * BLOCK : (lba + AREA_BLOCKS) * BLOCK] = found
    before = bytes(bench.rig.lu.data)
    order = ORDERS[name](lba, found, rng)
    command = name.split(",", maxsplit=1)[0]
    assert bench.supported(command) is (command not in NOT_THERE)
    outcome = bench.send(order.cdb, order.data)
    if command in NOT_THERE or name.endswith(" UNMAP"):
        assert outcome in REFUSED
        assert bench.rig.lu.data == before
        return
    assert outcome == "GOOD"
    end = order.lba * BLOCK + len(order.content)
    assert bench.rig.lu.data == before[: order.lba * BLOCK] + order.content + before[end:]


@pytest.mark.parametrize("name", READS)
def test_what_a_host_is_told_that_it_can_read_or_flush_with_does_so(name: str) -> None:
    bench = Bench()
    assert bench.supported(name)
    assert bench.send(READS[name]) in {"GOOD", "CONDITION MET"}


def test_all_that_reads_writes_or_flushes_is_among_them() -> None:
    named = {name.split(",")[0] for name in ORDERS} | set(READS)
    assert {row.name for row in COMMANDS.rows if row.medium is not Medium.NONE} <= named
